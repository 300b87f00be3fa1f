//! One session with a server.
//!
//! Owns [`UpstreamSession`]: what the server said of itself, which versions it speaks, and what a message in the session is
//! marked with. A server that speaks 2026-07-28 only has no sessions; what is called one is then what the hub learned of
//! it, good for as long as its life, and every request of the hub's own says what the older ones said once.
//! Invariant: a session is numbered, so "this one was lost" cannot hit its successor.
//! Never: ends by itself; its life ends it.

use super::about::ServerInfo;
use crate::gateway::mcp::protocol::capabilities::ClientCapabilities;
use crate::gateway::mcp::protocol::stateless::VERSION;
use crate::gateway::mcp::protocol::translate;
use http::header::{HeaderMap, HeaderValue};
use linchpin_shared::protocol::mcp;
use std::sync::Arc;

/// Which versions a server speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// Those with sessions.
    SessionBased,
    /// Those with sessions, and 2026-07-28.
    Both,
    /// 2026-07-28 only.
    Stateless,
}

/// One session with a server.
#[derive(Debug)]
pub(crate) struct UpstreamSession {
    /// Which session of this upstream, counted from 1.
    pub(crate) number: u64,
    /// What the server said of itself.
    pub(crate) about: Arc<ServerInfo>,
    /// Which versions it speaks.
    pub(crate) dialect: Dialect,
    /// What the server is promised.
    pub(super) capabilities: ClientCapabilities,
    pub(super) id: Option<HeaderValue>,
    pub(super) version: HeaderValue,
}

impl UpstreamSession {
    /// Puts session and version on a request.
    pub(crate) fn mark(&self, headers: &mut HeaderMap) {
        if let Some(id) = &self.id {
            headers.insert(mcp::SESSION, id.clone());
        }
        headers.insert(mcp::VERSION, self.version.clone());
    }

    /// Whether the server speaks 2026-07-28.
    pub(crate) fn speaks_modern(&self) -> bool {
        self.dialect != Dialect::SessionBased
    }

    /// A request of the hub's own with these params, an object.
    pub(super) fn request(&self, id: u64, method: &str, params: &str) -> String {
        let plain = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{params}}}"#);
        match self.dialect {
            Dialect::SessionBased | Dialect::Both => plain,
            Dialect::Stateless => translate::modernized(&plain, &translate::own_meta(self.capabilities), ""),
        }
    }
}

/// A request of the hub's own as 2026-07-28 has it, with these params, an object.
pub(super) fn stateless_request(id: u64, method: &str, params: &str, capabilities: ClientCapabilities) -> String {
    let plain = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{params}}}"#);
    translate::modernized(&plain, &translate::own_meta(capabilities), "")
}

/// The version of a session with a server that speaks 2026-07-28 only.
pub(super) fn stateless_version() -> HeaderValue {
    HeaderValue::from_static(VERSION)
}
