//! Following an instance's vitals while it is connected.
//!
//! Owns one stream of [`Vitals`], opened again whenever it ends while the connection lives.
//! Invariant: what is published came over the connection that is held now; without a connection there are no vitals.
//! Never: ends by itself, keeps more than one line in memory, or judges what it reads.

use super::lane::Lane;
use super::{Body, BoxError};
use bytes::{Buf, BytesMut};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use linchpin_shared::protocol::path;
use linchpin_shared::protocol::vitals::Vitals;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// An instance with a thousand processes fits many times over; what is longer is not from an instance.
const MAX_LINE: usize = 4 << 20;

/// A stream that ended is opened again after this; soon, because opening it is also how a connection on which the peer
/// said goodbye is noticed while other streams keep it open.
const REOPEN: Duration = Duration::from_millis(250);

/// Where vitals are published.
pub(super) type Publisher = watch::Sender<Option<Arc<Vitals>>>;

/// Follows the vitals for as long as it is polled.
pub(super) async fn follow(lane: Lane, publish: Publisher) -> Infallible {
    loop {
        if let Err(error) = read(&lane, &publish).await {
            tracing::debug!(error, "the vitals stream ended");
        }
        tokio::time::sleep(REOPEN).await;
    }
}

async fn read(lane: &Lane, publish: &Publisher) -> Result<(), BoxError> {
    let uri = Uri::try_from(format!("{}?watch=1", path::VITALS))?;
    let body: Body = Empty::new().map_err(BoxError::from).boxed_unsync();
    let response = lane.send(Request::get(uri).body(body)?).await.map_err(|error| error.failure)?;
    if response.status() != StatusCode::OK {
        return Err(format!("answered with {}", response.status()).into());
    }
    let mut lines = Lines { body: response.into_body(), buffer: BytesMut::new() };
    while let Some(line) = lines.next().await? {
        publish.send_replace(Some(Arc::new(serde_json::from_slice(&line)?)));
    }
    Ok(())
}

/// The lines of a body.
struct Lines {
    body: Incoming,
    buffer: BytesMut,
}

impl Lines {
    async fn next(&mut self) -> Result<Option<BytesMut>, BoxError> {
        let mut searched = 0;
        loop {
            if let Some(end) = self.buffer[searched..].iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(searched + end);
                self.buffer.advance(1);
                return Ok(Some(line));
            }
            searched = self.buffer.len();
            if searched > MAX_LINE {
                return Err(format!("a line of more than {MAX_LINE} bytes").into());
            }
            match self.body.frame().await.transpose()? {
                Some(frame) => self.buffer.extend_from_slice(frame.data_ref().map_or(&[], |data| data)),
                None => return Ok(None),
            }
        }
    }
}
