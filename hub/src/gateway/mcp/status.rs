//! What people are told of the gateway's servers and of the agents that use them.
//!
//! Owns [`ServerStatus`] and [`ClientStatus`], plain values made of what others publish.
//! Never: carries a session's id. Who has it is let in.

use super::catalog::list::ListItem;
use super::catalog::view::ServerEntry;
use super::protocol::list_kind::ListKind;
use super::session::client::Client;
use super::upstream::{Upstream, UpstreamPhase};
use jiff::Timestamp;
use serde::Serialize;
use std::sync::Arc;

/// A server as the gateway knows it.
#[derive(Debug, Clone, Serialize)]
pub struct ServerStatus {
    /// The instance.
    pub instance: String,
    /// The server.
    pub server: String,
    /// Whether there is a session with it.
    pub session: SessionState,
    /// Since when it is so.
    pub since: Timestamp,
    /// Why there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Whether its tools, prompts and resources are offered.
    pub listed: bool,
    /// The names of its tools, as it has them itself.
    pub tools: Vec<String>,
    /// How many prompts it has.
    pub prompts: usize,
    /// How many resources it has.
    pub resources: usize,
}

/// Whether there is a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionState {
    /// There is one.
    Ready,
    /// One is being begun.
    Starting,
    /// There is none, and the server is started on first use.
    Dormant,
    /// There is none.
    Down,
}

/// An agent's session.
#[derive(Debug, Clone, Serialize)]
pub struct ClientStatus {
    /// The address it uses, for example `/mcp`.
    pub address: String,
    /// The version of MCP that was agreed on.
    pub version: &'static str,
    /// Whether it listens to changes.
    pub listening: bool,
    /// How many of its requests are under way.
    pub in_flight: usize,
}

impl ClientStatus {
    pub(super) fn of(client: &Client) -> Self {
        Self {
            address: client.scope.to_string(),
            version: client.version.as_str(),
            listening: client.is_listening(),
            in_flight: client.in_flight.len(),
        }
    }
}

impl ServerStatus {
    pub(super) fn of(source: &ServerEntry<Arc<Upstream>>) -> Self {
        let state = source.backend.state();
        let (session, why) = match state.phase {
            UpstreamPhase::Ready(_) => (SessionState::Ready, None),
            UpstreamPhase::Starting => (SessionState::Starting, None),
            UpstreamPhase::Dormant(start) => (SessionState::Dormant, start.failure()),
            UpstreamPhase::Down { why, .. } | UpstreamPhase::Left { why } => (SessionState::Down, Some(why)),
        };
        let count = |kind| source.lists.get(kind).map_or(0, |list| list.items().len());
        let tools =
            source.lists.get(ListKind::Tools).map(|list| list.items().iter().map(ListItem::key).map(str::to_owned));
        Self {
            instance: source.instance.to_string(),
            server: source.server.to_string(),
            session,
            since: state.since,
            why,
            listed: source.listed,
            tools: tools.map(Iterator::collect).unwrap_or_default(),
            prompts: count(ListKind::Prompts),
            resources: count(ListKind::Resources),
        }
    }
}
