//! What the routes of the server work on.
//!
//! The server knows neither how a process is supervised nor how an MCP server is reached: the rooms that do hand it a
//! [`Restart`] for each process and an [`McpEndpoint`] for each server.

use crate::vitals_publisher::VitalsPublisher;
use axum::body::Body;
use axum::response::Response;
use futures_util::future::BoxFuture;
use http::Request;
use linchpin_shared::registry::record::Record;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// An MCP server that the instance offers to the hub.
pub(crate) trait McpEndpoint: fmt::Debug + Send + Sync {
    /// Answers one HTTP request to the server's endpoint.
    fn handle(&self, request: Request<Body>) -> BoxFuture<'_, Response>;
}

/// Requests a restart of one process.
pub(crate) type Restart = Box<dyn Fn() + Send + Sync>;

/// What an instance serves.
pub(crate) struct ServerState {
    /// The record as it was registered.
    pub(crate) record: Record,
    pub(crate) vitals: Arc<VitalsPublisher>,
    /// The MCP servers by their names.
    pub(crate) servers: BTreeMap<String, Box<dyn McpEndpoint>>,
    /// The supervised processes by their names.
    pub(crate) processes: BTreeMap<String, Restart>,
    /// Cancelled when the hub asks the instance to stop.
    pub(crate) stop_requested: CancellationToken,
    /// Cancelled when no new calls are accepted.
    pub(crate) draining: CancellationToken,
    /// Cancelled when connections are to be closed.
    pub(crate) closing: CancellationToken,
    /// The calls to MCP servers that are in flight.
    pub(crate) in_flight: TaskTracker,
}

impl ServerState {
    /// The state of an instance that has just started.
    pub(crate) fn new(
        record: Record,
        vitals: Arc<VitalsPublisher>,
        servers: BTreeMap<String, Box<dyn McpEndpoint>>,
        processes: BTreeMap<String, Restart>,
    ) -> Self {
        Self {
            record,
            vitals,
            servers,
            processes,
            stop_requested: CancellationToken::new(),
            draining: CancellationToken::new(),
            closing: CancellationToken::new(),
            in_flight: TaskTracker::new(),
        }
    }
}

/// Leaves out the functions behind the processes.
impl fmt::Debug for ServerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerState")
            .field("record", &self.record)
            .field("servers", &self.servers)
            .finish_non_exhaustive()
    }
}
