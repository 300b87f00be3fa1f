//! The routes of the hub's HTTP API, and their JSON (ARCHITECTURE.md, "HTTP surface").
//!
//! The routes read what other rooms publish, and ask the owners to act. They have no state of their own. No GET changes
//! anything, and every error is a problem document.

mod control;
mod health;
mod hub_api;
mod instances;
mod logs;
mod metrics;
mod proof;

use crate::discovery::Discovery;
use crate::gateway::mcp::{self, Gateway};
use crate::http::guard::Guard;
use crate::http::routes::{Route, RouteTable};
use crate::http::{self, answer};
use crate::journal;
use crate::link::Links;
use crate::network::Network;
use crate::recovery::Recovery;
use axum::Router;
use axum::extract::State;
use axum::response::Response;
use linchpin_shared::home::Home;
use linchpin_shared::hub_file::HubFile;
use linchpin_shared::hub_file::proof::PATH as PROOF_PATH;
use linchpin_shared::problem::Problem;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// What the routes need.
pub struct ApiState {
    home: Home,
    hub: HubFile,
    guard: Arc<Guard>,
    discovery: Discovery,
    links: Links,
    declared: watch::Receiver<Option<Problem>>,
    network: Network,
    recovery: Recovery,
    gateway: Arc<Gateway>,
    journal: watch::Receiver<journal::JournalStatus>,
    stop: CancellationToken,
    started: Instant,
}

/// The rooms whose state the routes show.
pub struct ApiParts {
    /// Which instances exist.
    pub discovery: Discovery,
    /// The connections to them.
    pub links: Links,
    /// Why the list of declared servers cannot be used, if that is the case.
    pub declared: watch::Receiver<Option<Problem>>,
    /// Whether the hub was suspended, and whether interfaces changed.
    pub network: Network,
    /// Which recovery actions are allowed.
    pub recovery: Recovery,
    /// The gateway that agents call.
    pub gateway: Arc<Gateway>,
    /// The status of the journal.
    pub journal: watch::Receiver<journal::JournalStatus>,
}

impl ApiState {
    /// Puts together what the routes need.
    #[must_use]
    pub fn new(home: Home, hub: HubFile, guard: Guard, parts: ApiParts, stop: CancellationToken) -> Self {
        let ApiParts { discovery, links, declared, network, recovery, gateway, journal } = parts;
        let (guard, started) = (Arc::new(guard), Instant::now());
        Self { home, hub, guard, discovery, links, declared, network, recovery, gateway, journal, stop, started }
    }

    /// Lets the gateway's own tools use the functions behind the routes, for as long as the result exists.
    #[must_use]
    pub fn serving_builtin(self) -> Arc<Self> {
        let api = Arc::new(self);
        let hub_api: Arc<dyn mcp::HubApi> = api.clone();
        api.gateway.ask_of(&hub_api);
        api
    }
}

/// Returns every route that the hub serves.
#[must_use]
pub fn routes() -> Vec<Route> {
    [api_routes().list(), mcp::routes().list()].concat()
}

/// Returns a service for all routes, behind the guard.
pub fn router(api: Arc<ApiState>) -> Router {
    let guard = api.guard.clone();
    let gateway = mcp::routes().serve(api.gateway.clone());
    http::with_layers(api_routes().serve(api).merge(gateway), guard)
}

/// The routes of this room.
fn api_routes() -> RouteTable<Arc<ApiState>> {
    RouteTable::new()
        .get("/health", health::health)
        .get(PROOF_PATH, proof::proof)
        .get("/status", instances::status)
        .get("/metrics", metrics::metrics)
        .get("/v1/instances", instances::all)
        .get("/v1/instances/{name}", instances::one)
        .get("/v1/instances/{name}/link", instances::link)
        .get("/v1/instances/{name}/logs", logs::logs)
        .post("/v1/instances/{name}/restart", control::restart)
        .post("/v1/instances/{name}/stop", control::stop)
        .post("/v1/hub/stop", stop_hub)
}

async fn stop_hub(State(api): State<Arc<ApiState>>) -> Response {
    tracing::info!("the hub stops, as requested over the API");
    api.stop.cancel();
    answer::json(&serde_json::json!({"stopping": true, "pid": api.hub.process.pid}))
}
