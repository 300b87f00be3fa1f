//! One session with a server.
//!
//! Owns [`Session`] and the handshake that begins it: `initialize` as 2025-11-25 with what the clients of its lane can
//! do, then `notifications/initialized`. Invariant: a session is numbered, so "this one was lost" cannot hit its successor.
//! Never: ends by itself; its life ends it.

use super::about::About;
use super::wire::{Broken, Mark, Routing, read};
use super::{Upstream, server_error};
use crate::gateway::mcp::abilities::{Abilities, Lane};
use crate::gateway::mcp::envelope::Envelope;
use crate::gateway::mcp::json::{Object, elements};
use crate::gateway::mcp::modern::{META_VERSION, VERSION};
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

/// How long a server may take to say that it speaks 2026-07-28.
const DISCOVER: Duration = Duration::from_secs(1);

/// One session with a server.
#[derive(Debug)]
pub(crate) struct Session {
    /// Which session of this upstream, counted from 1.
    pub(crate) number: u64,
    /// What the server said of itself.
    pub(crate) about: Arc<About>,
    /// Whether it speaks 2026-07-28 too.
    pub(crate) modern: bool,
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
        let mut session = Session { number, about: Arc::new(about), modern: false, id: session_id, version };
        upstream.notify(&session, r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#.to_owned()).await?;
        session.modern = speaks_modern(upstream, &session).await;
        return Ok(session);
    }
}

/// Whether a server speaks 2026-07-28 too. Whatever else it answers, or silence, means that it does not. It is asked only
/// after it was initialized: there are servers that end when something else comes first.
async fn speaks_modern(upstream: &Upstream, session: &Session) -> bool {
    let lane = upstream.place.lane;
    if lane != Lane::Shared && lane != Lane::Of(Abilities::NONE) {
        return false;
    }
    let message = own_request(upstream.next_id(), "server/discover", "");
    let asked = async {
        let routing = Routing::of("server/discover", None);
        let mut answering = upstream.call(Mark::Modern(session, &routing), message).await.ok()?;
        while let Some(message) = answering.next().await.ok()? {
            if let Some((text, Envelope::Response { result, .. })) = read(&message) {
                let versions = Object::parse(text, result?).ok()?.get("supportedVersions")?;
                return Some(
                    elements(text, versions)?.into_iter().any(|at| at.string(text).as_deref() == Some(VERSION)),
                );
            }
        }
        None
    };
    tokio::time::timeout(DISCOVER, asked).await.ok().flatten().unwrap_or(false)
}

/// A request of the hub's own as 2026-07-28 has it, with these params and a comma after them, if there are any.
pub(super) fn own_request(id: u64, method: &str, params: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{{{params}"_meta":{{"{META_VERSION}":"{VERSION}","io.modelcontextprotocol/clientInfo":{{"name":"linchpin","version":"{}"}},"io.modelcontextprotocol/clientCapabilities":{{}}}}}}}}"#,
        env!("CARGO_PKG_VERSION"),
    )
}
