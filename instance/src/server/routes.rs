//! What a connection may ask.
//!
//! Owns the paths of [`linchpin_shared::protocol::path`] and [`App`], what stands behind them.
//! Invariant: one check before all handlers closes everything but hello and prove until the gate is open.
//! Never: lets a request that has an effect begin once the instance drains; it is refused as not executed instead.

use super::gate::Gate;
use crate::board::Board;
use crate::respond::{self, Answer};
use crate::seats::Seat;
use crate::{mcp, supervisor};
use axum::Json;
use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Extension, Path, Query, Request, State};
use axum::middleware::{Next, from_fn};
use axum::routing::{any, get, post};
use bytes::Bytes;
use futures_util::StreamExt;
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use linchpin_shared::problem::{Code, Problem};
use linchpin_shared::protocol::hello::{Hello, Proof, random};
use linchpin_shared::protocol::path;
use linchpin_shared::protocol::vitals::Vitals;
use linchpin_shared::registry::record::Record;
use parking_lot::Mutex;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio_stream::wrappers::WatchStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The largest body of our own messages. Those of MCP have a bound of their own.
const MAX_BODY: usize = 64 << 10;

/// What an instance serves.
#[derive(Debug)]
pub(crate) struct App {
    /// Who we are.
    pub(crate) record: Record,
    /// How we are.
    pub(crate) board: Arc<Board>,
    /// The MCP servers that we front.
    pub(crate) servers: BTreeMap<String, mcp::Server>,
    /// The processes that we supervise.
    pub(crate) processes: Vec<supervisor::Process>,
    /// Cancelled when somebody asked us to stop.
    pub(crate) stop_asked: CancellationToken,
    /// Cancelled when no new work is taken.
    pub(crate) draining: CancellationToken,
    /// Cancelled when connections end.
    pub(crate) closing: CancellationToken,
    /// The requests to MCP servers that are under way.
    pub(crate) in_flight: TaskTracker,
}

impl App {
    /// What an instance serves that has just begun.
    pub(crate) fn new(
        record: Record,
        board: Arc<Board>,
        servers: BTreeMap<String, mcp::Server>,
        processes: Vec<supervisor::Process>,
    ) -> Self {
        Self {
            record,
            board,
            servers,
            processes,
            stop_asked: CancellationToken::new(),
            draining: CancellationToken::new(),
            closing: CancellationToken::new(),
            in_flight: TaskTracker::new(),
        }
    }
}

/// The gate of the connection that a request came on.
type Peer = Extension<Arc<Mutex<Gate>>>;

pub(super) fn router(app: Arc<App>) -> Router {
    Router::new()
        .route(path::VITALS, get(vitals))
        .route(path::STOP, post(stop))
        .route(&format!("{}{{name}}/restart", path::PROCESSES), post(restart))
        .route(&format!("{}{{server}}", path::MCP), any(mcp))
        .fallback(nothing_here)
        .layer(from_fn(proved_only))
        .route(path::HELLO, post(hello))
        .route(path::PROVE, post(prove))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(app)
}

async fn proved_only(Extension(gate): Peer, request: Request, next: Next) -> Answer {
    if gate.lock().is_proved() {
        return next.run(request).await;
    }
    let problem = Problem::new(Code::Unauthorized, "this connection has not proved that it knows the record's secret")
        .next(format!("POST {}, then {}", path::HELLO, path::PROVE));
    let mut answer = respond::not_executed(&problem);
    *answer.status_mut() = StatusCode::FORBIDDEN;
    answer
}

async fn nothing_here(request: Request) -> Answer {
    let problem = Problem::new(Code::NotFound, format!("an instance has nothing at {}", request.uri().path()))
        .next("use a hub and an instance of the same version");
    respond::problem(&problem)
}

async fn hello(State(app): State<Arc<App>>, Extension(gate): Peer, Json(hello): Json<Hello>) -> Answer {
    let nonce = match random() {
        Ok(nonce) => nonce,
        Err(error) => {
            let problem = Problem::from_io(&error, Code::Internal, "cannot make a nonce").next("try again");
            return respond::problem(&problem);
        }
    };
    match gate.lock().hello(hello, &app.record, nonce) {
        Ok(welcome) => respond::json(&welcome),
        Err(problem) => respond::problem(&problem),
    }
}

async fn prove(
    State(app): State<Arc<App>>,
    Extension(gate): Peer,
    Extension(seat): Extension<Arc<Seat>>,
    Json(proof): Json<Proof>,
) -> Answer {
    match gate.lock().prove(&proof, &app.record) {
        Ok(()) => {
            seat.keep();
            respond::empty(StatusCode::NO_CONTENT)
        }
        Err(problem) => respond::problem(&problem),
    }
}

#[derive(Deserialize)]
struct Watch {
    #[serde(default)]
    watch: u8,
}

async fn vitals(State(app): State<Arc<App>>, Query(query): Query<Watch>) -> Answer {
    let vitals = app.board.watch();
    if query.watch == 0 {
        return respond::json(&*vitals.borrow());
    }
    let lines = WatchStream::new(vitals).map(|vitals| line(&vitals));
    respond::stream("application/x-ndjson", lines.take_until(app.closing.clone().cancelled_owned()))
}

/// One JSON object and a line feed.
fn line(vitals: &Vitals) -> Bytes {
    let mut line = serde_json::to_vec(vitals).unwrap_or_default();
    line.push(b'\n');
    line.into()
}

async fn restart(State(app): State<Arc<App>>, Path(name): Path<String>) -> Answer {
    let Some(process) = app.processes.iter().find(|process| process.name() == name) else {
        let names: Vec<_> = app.processes.iter().map(supervisor::Process::name).collect();
        let problem = Problem::new(Code::ProcessNotFound, format!("{} has no process {name:?}", app.record.name))
            .seen("processes", names)
            .next(format!("linchpin status {}", app.record.name));
        return respond::problem(&problem);
    };
    process.restart();
    respond::empty(StatusCode::ACCEPTED)
}

async fn stop(State(app): State<Arc<App>>) -> Answer {
    app.stop_asked.cancel();
    respond::empty(StatusCode::ACCEPTED)
}

async fn mcp(State(app): State<Arc<App>>, Path(name): Path<String>, request: Request) -> Answer {
    let Some(server) = app.servers.get(&name) else {
        let names: Vec<_> = app.servers.keys().map(String::as_str).collect();
        let problem = Problem::new(Code::ServerNotFound, format!("{} has no MCP server {name:?}", app.record.name))
            .seen("servers", names)
            .next(format!("linchpin status {}", app.record.name));
        return respond::not_executed(&problem);
    };
    if request.method() != Method::POST {
        return server.handle(request).await;
    }
    // Counted before looking: whoever begins to drain afterwards sees this request.
    let under_way = app.in_flight.token();
    if app.draining.is_cancelled() {
        let problem = Problem::new(Code::ServerUnavailable, format!("{} is stopping", app.record.name))
            .next(format!("linchpin status {}", app.record.name));
        return respond::not_executed(&problem);
    }
    server.handle(request).await.map(|body| {
        Body::new(body.map_frame(move |frame| {
            // The request is under way until its answer has ended.
            let _ = &under_way;
            frame
        }))
    })
}
