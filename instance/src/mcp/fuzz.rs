//! The parsers of this room, for the fuzz targets: they see exactly what a running instance sees.

use super::stdio::line_buffer::LineBuffer;
use super::stdio::message::Message;

/// What routing sees of a message.
#[derive(Debug, PartialEq, Eq)]
pub enum ParsedMessage {
    /// A request with this id, as JSON.
    Request(String),
    /// A response to the request with this id, as JSON.
    Response(String),
    /// A notification.
    Notification,
}

/// Parses a message as far as routing does; `None` when it is not one.
#[must_use]
pub fn parse_message(message: &[u8]) -> Option<ParsedMessage> {
    Some(match Message::parse(message)? {
        Message::Request { id, .. } => ParsedMessage::Request(id.as_json().to_owned()),
        Message::Response(id) => ParsedMessage::Response(id.as_json().to_owned()),
        Message::Progress(_) | Message::Initialized | Message::Notification => ParsedMessage::Notification,
    })
}

/// Splits these pieces of a stream into lines; `None` when one of them is longer than `max`.
#[must_use]
pub fn lines<'d>(pieces: impl Iterator<Item = &'d [u8]>, max: usize) -> Option<Vec<Vec<u8>>> {
    let (mut buffer, mut lines) = (LineBuffer::new(max), Vec::new());
    for piece in pieces {
        buffer.spare().extend_from_slice(piece);
        while let Some(line) = buffer.next().ok()? {
            lines.push(line.to_vec());
        }
    }
    Some(lines)
}
