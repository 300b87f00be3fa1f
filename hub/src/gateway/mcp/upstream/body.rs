//! The body of a message that a server sent.
//!
//! Owns how a body is put together and read as a message that is edited and handed on. Invariant: a large one is held
//! once. Never: holds more than the bound on a message, whatever the body's length promises.

use crate::gateway::mcp::protocol::envelope::Envelope;
use crate::link::ResponseBody;
use bytes::Bytes;
use http_body_util::BodyExt;

/// For a longer id, or for what a version wants beside a result.
const ROOM: usize = 256;

/// A body of at most so many bytes. What came in one piece is not copied; what came in more is put together where there
/// is room for all that its length promises, and for an edit, so that it is held once.
pub(super) async fn whole(mut body: ResponseBody, most: usize) -> Result<Bytes, String> {
    let promised = usize::try_from(http_body::Body::size_hint(&body).lower()).unwrap_or(usize::MAX);
    let (mut first, mut all) = (Bytes::new(), Vec::new());
    while let Some(frame) = body.frame().await {
        let Ok(piece) = frame.map_err(|failure| failure.to_string())?.into_data() else { continue };
        let len = first.len() + all.len() + piece.len();
        if len.max(promised) > most {
            return Err(format!("it is larger than {most} bytes"));
        }
        if len == piece.len() {
            first = piece;
            continue;
        }
        if all.is_empty() {
            all.reserve_exact(promised.max(len) + ROOM);
            all.extend_from_slice(&std::mem::take(&mut first));
        }
        all.extend_from_slice(&piece);
    }
    Ok(if all.is_empty() { first } else { all.into() })
}

/// The text and kind of a message that is edited and handed on. What is no message is explained for people.
pub(crate) fn read_whole(message: Bytes) -> Result<(String, Envelope), String> {
    let text = String::from_utf8(message.into()).map_err(|error| format!("it sent what is no text: {error}"))?;
    let envelope = Envelope::parse(&text).map_err(|error| format!("it sent what is no message: {error}"))?;
    Ok((text, envelope))
}
