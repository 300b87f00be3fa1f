//! The hub's HTTP surface (DESIGN 4.8): what people's and programs' tools ask.
//!
//! Owns the routes and their JSON, the guard before them and the server under them. It holds receivers of other rooms'
//! facts and asks their owners to act; it has no facts of its own but how many connections it serves.
//! Invariant: no GET changes anything; every answer says how long it took; every error is a problem document.
//! Never: knows how a link or a gateway works inside.

mod facts;
mod health;
mod instances;
mod logs;
mod metrics;
mod proof;
mod steer;

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

/// What the routes are given.
pub struct Api {
    home: Home,
    hub: HubFile,
    guard: Arc<Guard>,
    discovery: Discovery,
    links: Links,
    declared: watch::Receiver<Option<Problem>>,
    network: Network,
    recovery: Recovery,
    gateway: Arc<Gateway>,
    journal: watch::Receiver<journal::Facts>,
    stop: CancellationToken,
    started: Instant,
}

/// The rooms whose facts the routes show.
pub struct Rooms {
    /// Which instances there are.
    pub discovery: Discovery,
    /// The connections to them.
    pub links: Links,
    /// Why the list of declared servers cannot be used, if that is so.
    pub declared: watch::Receiver<Option<Problem>>,
    /// Whether the hub was away, and whether interfaces changed.
    pub network: Network,
    /// What may be done to instances.
    pub recovery: Recovery,
    /// What agents call.
    pub gateway: Arc<Gateway>,
    /// How it is with the journal.
    pub journal: watch::Receiver<journal::Facts>,
}

impl Api {
    /// Puts together what the routes are given.
    #[must_use]
    pub fn new(home: Home, hub: HubFile, guard: Guard, rooms: Rooms, stop: CancellationToken) -> Self {
        let Rooms { discovery, links, declared, network, recovery, gateway, journal } = rooms;
        let (guard, started) = (Arc::new(guard), Instant::now());
        Self { home, hub, guard, discovery, links, declared, network, recovery, gateway, journal, stop, started }
    }

    /// Lets the gateway's own tools ask what the routes answer, for as long as somebody holds this.
    #[must_use]
    pub fn answering(self) -> Arc<Self> {
        let api = Arc::new(self);
        let facts: Arc<dyn mcp::Facts> = api.clone();
        api.gateway.ask_of(&facts);
        api
    }
}

/// Every route that the hub serves.
#[must_use]
pub fn routes() -> Vec<Route> {
    [own().list(), mcp::routes().list()].concat()
}

/// All routes, behind the guard.
pub fn router(api: Arc<Api>) -> Router {
    let guard = api.guard.clone();
    let gateway = mcp::routes().serve(api.gateway.clone());
    http::guarded(own().serve(api).merge(gateway), guard)
}

/// The routes of this room.
fn own() -> RouteTable<Arc<Api>> {
    RouteTable::new()
        .get("/health", health::health)
        .get(PROOF_PATH, proof::proof)
        .get("/status", instances::status)
        .get("/metrics", metrics::metrics)
        .get("/v1/instances", instances::all)
        .get("/v1/instances/{name}", instances::one)
        .get("/v1/instances/{name}/link", instances::link)
        .get("/v1/instances/{name}/logs", logs::logs)
        .post("/v1/instances/{name}/restart", steer::restart)
        .post("/v1/instances/{name}/stop", steer::stop)
        .post("/v1/hub/stop", stop_hub)
}

async fn stop_hub(State(api): State<Arc<Api>>) -> Response {
    tracing::info!("asked over the API: the hub stops");
    api.stop.cancel();
    answer::json(&serde_json::json!({"stopping": true, "pid": api.hub.process.pid}))
}
