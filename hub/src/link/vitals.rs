//! Following the vitals of an instance while it is connected.
//!
//! A stream of [`Vitals`] is kept open: when it ends before the connection does, it is opened again. A foreign program has
//! no vitals of its own, so they are derived from its record. All published vitals come from the present connection, and
//! without a connection there are none.

use super::body::{BoxError, empty};
use super::http1::PeerBody;
use super::request_sender::RequestSender;
use bytes::{Buf, BytesMut};
use http::{Request, StatusCode, Uri};
use http_body_util::BodyExt;
use linchpin_shared::protocol::vitals::{ServerVitals, Vitals};
use linchpin_shared::protocol::{FORMAT, path};
use linchpin_shared::registry::record::{self, Protocol, Record};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// The longest line that is read. The vitals of an instance with a thousand processes are many times shorter.
const MAX_LINE: usize = 4 << 20;

/// A stream that ended is opened again after this pause. The pause is short, because opening the stream also shows that
/// the peer sent GOAWAY on a connection that other streams keep open.
const REOPEN: Duration = Duration::from_millis(250);

/// The shortest time between two publications. An instance that sends its vitals faster is slowed down by the flow
/// control of HTTP/2, and only the newest of the lines that arrived meanwhile is published.
const PACE: Duration = Duration::from_millis(20);

/// Publishes the vitals of one link.
pub(super) type VitalsSender = watch::Sender<Option<Arc<Vitals>>>;

/// Follows the vitals. The future does not end by itself.
pub(super) async fn follow(sender: RequestSender, record: Arc<Record>, publish: VitalsSender) -> Infallible {
    if record.protocol == Protocol::Http1 {
        publish.send_replace(Some(Arc::new(of_foreign(&record))));
        return std::future::pending().await;
    }
    loop {
        if let Err(error) = read_stream(&sender, &publish).await {
            tracing::debug!(error, "vitals stream ended");
        }
        tokio::time::sleep(REOPEN).await;
    }
}

async fn read_stream(sender: &RequestSender, publish: &VitalsSender) -> Result<(), BoxError> {
    let uri = Uri::try_from(format!("{}?watch=1", path::VITALS))?;
    // The future of a request is large, and this function lives as long as the connection, so the former is boxed.
    let response = Box::pin(sender.send(Request::get(uri).body(empty())?)).await?;
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

/// The vitals of a connected foreign program: the servers of its record that can be reached are up.
fn of_foreign(record: &Record) -> Vitals {
    let reachable = |server: &&record::Server| record.server_path(&server.name).is_some();
    let servers = record.servers.iter().filter(reachable);
    Vitals {
        format: FORMAT,
        generation: record.generation,
        started_at: record.registered_at,
        processes: Vec::new(),
        servers: servers
            .map(|server| ServerVitals { name: server.name.clone(), transport: server.transport, up: true, epoch: 1 })
            .collect(),
    }
}

/// Splits a body into lines.
struct Lines {
    body: PeerBody,
    buffer: BytesMut,
}

impl Lines {
    /// Waits for a line, and returns the last one that has arrived.
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
