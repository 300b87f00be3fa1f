//! One session with a server.
//!
//! Owns [`Session`] and the handshake that begins it: `initialize` as 2025-11-25 with what the clients of its lane can
//! do, then `notifications/initialized`. Invariant: a session is numbered, so "this one was lost" cannot hit its successor.
//! Never: ends by itself; its life ends it.

use super::about::About;
use super::wire::{Broken, read};
use super::{Upstream, server_error};
use crate::gateway::mcp::envelope::Envelope;
use crate::gateway::mcp::version::Version;
use http::header::{HeaderMap, HeaderValue};
use linchpin_shared::problem::{Code, Problem};
use linchpin_shared::protocol::mcp;
use std::sync::Arc;
use std::time::Duration;

/// How long an instance may hold `initialize` back for a server that is starting. Its vitals tell when it is up, so
/// this only has to cover the moment between the two.
const WAIT_FOR_START: Duration = Duration::from_secs(5);

/// How long a server may take to answer `initialize`: one that is installed at its first start takes its time.
const INITIALIZE: Duration = Duration::from_secs(60);

/// One session with a server.
#[derive(Debug)]
pub(crate) struct Session {
    /// Which session of this upstream, counted from 1.
    pub(crate) number: u64,
    /// What the server said of itself.
    pub(crate) about: Arc<About>,
    id: Option<HeaderValue>,
    version: HeaderValue,
}

impl Session {
    /// Begins a session.
    pub(crate) async fn begin(upstream: &Upstream, number: u64) -> Result<Self, Broken> {
        match tokio::time::timeout(INITIALIZE, handshake(upstream, number)).await {
            Ok(done) => done,
            Err(_elapsed) => {
                let detail = format!("{upstream} did not answer initialize within {} s", INITIALIZE.as_secs());
                Err(Broken::Refused(Problem::new(Code::TimedOut, detail)))
            }
        }
    }

    /// Puts session and version on a request.
    pub(crate) fn mark(&self, headers: &mut HeaderMap) {
        if let Some(id) = &self.id {
            headers.insert(mcp::SESSION, id.clone());
        }
        headers.insert(mcp::VERSION, self.version.clone());
    }
}

async fn handshake(upstream: &Upstream, number: u64) -> Result<Session, Broken> {
    let id = upstream.next_id();
    let message = format!(
        r#"{{"jsonrpc":"2.0","id":{id},"method":"initialize","params":{{"protocolVersion":"{}","capabilities":{},"clientInfo":{{"name":"linchpin","version":"{}"}}}}}}"#,
        Version::LATEST.as_str(),
        upstream.place.lane.abilities().json(),
        env!("CARGO_PKG_VERSION"),
    );
    let (session_id, mut answering) = upstream.wire.initialize(message, WAIT_FOR_START).await?;
    let refused = |detail: String| Broken::Refused(Problem::new(Code::ServerUnavailable, detail));
    loop {
        let Some(message) = answering.next().await? else { return Err(answering.interrupted("there was no response")) };
        let Some((text, Envelope::Response { result, error, .. })) = read(&message) else { continue };
        let Some(result) = result else { return Err(Broken::Refused(server_error(upstream, text, error))) };
        let about = About::parse(result.of(text))
            .map_err(|why| refused(format!("{upstream} answered initialize with what is no result: {why}")))?;
        if Version::parse(about.version()).is_none() {
            return Err(refused(format!("{upstream} speaks MCP {:?}, which we do not", about.version())));
        }
        let version = HeaderValue::from_str(about.version()).map_err(|why| refused(why.to_string()))?;
        let session = Session { number, about: Arc::new(about), id: session_id, version };
        upstream.notify(&session, r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#.to_owned()).await?;
        return Ok(session);
    }
}
