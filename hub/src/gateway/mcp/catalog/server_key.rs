//! (docs)

use crate::gateway::mcp::protocol::capabilities::SessionKind;
use std::path::Path;
use std::sync::Arc;

/// A server of an instance, and whom a session with it is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct ServerKey {
    /// The instance.
    pub(crate) instance: Arc<str>,
    /// Its server.
    pub(crate) server: Arc<str>,
    /// The instance's project directory.
    pub(crate) project: Arc<Path>,
    /// For whom.
    pub(crate) session_kind: SessionKind,
}
