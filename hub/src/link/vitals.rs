//! An instance's vitals while it is connected.
//!
//! Owns one stream of [`Vitals`], opened again whenever it ends while the connection lives; and what is said of a
//! foreign program, which has no vitals of its own.
//! Invariant: what is published came over the connection that is held now; without a connection there are no vitals.
//! Never: ends by itself, keeps more than one line in memory, passes on more than [`PACE`] allows, or judges what it reads.

use super::lane::{Answering, Lane};
use super::{Body, BoxError};
use bytes::{Buf, BytesMut};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty};
use linchpin_shared::protocol::vitals::{Server, Vitals};
use linchpin_shared::protocol::{FORMAT, path};
use linchpin_shared::registry::record::{Protocol, Record};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// An instance with a thousand processes fits many times over; what is longer is not from an instance.
const MAX_LINE: usize = 4 << 20;

/// A stream that ended is opened again after this; soon, because opening it is also how a connection on which the peer
/// said goodbye is noticed while other streams keep it open.
const REOPEN: Duration = Duration::from_millis(250);

/// From one publication to the next. An instance that floods its vitals is read no faster, and of the lines that came
/// meanwhile only the last counts; HTTP/2's own flow control makes it wait. Nobody who looks at processes needs more.
const PACE: Duration = Duration::from_millis(20);

/// Where vitals are published.
pub(super) type Publisher = watch::Sender<Option<Arc<Vitals>>>;

/// Follows the vitals for as long as it is polled.
pub(super) async fn follow(lane: Lane, record: Arc<Record>, publish: Publisher) -> Infallible {
    if record.protocol == Protocol::Http1 {
        publish.send_replace(Some(Arc::new(of_foreign(&record))));
        return std::future::pending().await;
    }
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
    // Sending needs much room for a moment, and this goes on for as long as the connection.
    let response = Box::pin(lane.send(Request::get(uri).body(body)?)).await.map_err(|error| error.failure)?;
    if response.status() != StatusCode::OK {
        return Err(format!("answered with {}", response.status()).into());
    }
    let mut lines = Lines { body: response.into_body(), buffer: BytesMut::new() };
    while let Some(line) = lines.newest().await? {
        let vitals: Vitals = serde_json::from_slice(&line)?;
        publish.send_if_modified(|known| {
            let differs = known.as_deref() != Some(&vitals);
            if differs {
                *known = Some(Arc::new(vitals));
            }
            differs
        });
        tokio::time::sleep(PACE).await;
    }
    Ok(())
}

/// What is known of a foreign program that is connected: the servers of its record that can be reached are up.
fn of_foreign(record: &Record) -> Vitals {
    let reachable = |server: &&linchpin_shared::registry::record::Server| record.server_path(&server.name).is_some();
    let servers = record.servers.iter().filter(reachable);
    Vitals {
        format: FORMAT,
        generation: record.generation,
        started_at: record.registered_at,
        processes: Vec::new(),
        servers: servers
            .map(|server| Server { name: server.name.clone(), transport: server.transport, up: true, epoch: 1 })
            .collect(),
    }
}

/// The lines of a body.
struct Lines {
    body: Answering,
    buffer: BytesMut,
}

impl Lines {
    /// The last line of those that have come, once there is one.
    async fn newest(&mut self) -> Result<Option<BytesMut>, BoxError> {
        let mut searched = 0;
        loop {
            if let Some(end) = self.buffer[searched..].iter().rposition(|byte| *byte == b'\n') {
                let mut lines = self.buffer.split_to(searched + end);
                self.buffer.advance(1);
                let begin = lines.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
                return Ok(Some(lines.split_off(begin)));
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
