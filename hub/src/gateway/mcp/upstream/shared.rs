//! (docs)

use super::recalled::RecalledOffers;
use crate::gateway::mcp::metrics::CallMetrics;
use crate::gateway::mcp::session::store::SessionStore;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use tokio::sync::Notify;

/// What all upstreams of a hub have in common.
#[derive(Debug, Clone)]
pub(crate) struct UpstreamDeps {
    /// The metrics of tool calls.
    pub(crate) calls: CallMetrics,
    /// The sessions of agents.
    pub(crate) clients: Arc<SessionStore>,
    /// The ids that servers see.
    pub(crate) ids: Arc<AtomicU64>,
    /// Woken whenever something changed that the board shows.
    pub(crate) dirty: Arc<Notify>,
    /// What servers offered in an earlier life of the hub.
    pub(crate) recalled: Arc<RecalledOffers>,
    /// The largest message.
    pub(crate) max_message: usize,
}

/// 64 random bits, for jitter: without randomness the delays are merely at their longest.
pub(crate) fn random() -> u64 {
    getrandom::u64().unwrap_or(u64::MAX)
}
