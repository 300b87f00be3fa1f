//! The paths of [`linchpin_shared::protocol::path`].
//!
//! One check in front of all other handlers refuses everything but hello and prove until the peer is verified. Once the
//! instance drains, requests that could have an effect are refused as not executed.

use super::state::ServerState;
use super::verification::Verification;
use crate::connection_slots::ConnectionPermit;
use crate::respond;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Extension, Path, Query, Request, State};
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use axum::routing::{any, get, post};
use axum::{Json, Router};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use linchpin_shared::problem::{Code, Problem};
use linchpin_shared::protocol::hello::{Hello, Proof, random};
use linchpin_shared::protocol::path;
use linchpin_shared::protocol::vitals::Vitals;
use parking_lot::Mutex;
use serde::Deserialize;
use std::sync::Arc;
use tokio::sync::watch;

/// The largest body of our own messages. Those of MCP have a limit of their own.
const MAX_BODY: usize = 64 << 10;

/// The verification of the connection on which a request arrived.
type Peer = Extension<Arc<Mutex<Verification>>>;

pub(super) fn router(state: Arc<ServerState>) -> Router {
    Router::new()
        .route(path::VITALS, get(vitals))
        .route(path::STOP, post(stop))
        .route(&format!("{}{{name}}/restart", path::PROCESSES), post(restart))
        .route(&format!("{}{{server}}", path::MCP), any(mcp))
        .fallback(no_such_path)
        .layer(from_fn(verified_only))
        .route(path::HELLO, post(hello))
        .route(path::PROVE, post(prove))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(state)
}

async fn verified_only(Extension(peer): Peer, request: Request, next: Next) -> Response {
    if peer.lock().is_verified() {
        return next.run(request).await;
    }
    let problem = Problem::new(Code::Unauthorized, "this connection has not proved that it knows the record's secret")
        .next(format!("POST {}, then {}", path::HELLO, path::PROVE));
    let mut response = respond::not_executed(&problem);
    *response.status_mut() = StatusCode::FORBIDDEN;
    response
}

async fn no_such_path(request: Request) -> Response {
    let problem = Problem::new(Code::NotFound, format!("an instance has nothing at {}", request.uri().path()))
        .next("use a hub and an instance of the same version");
    respond::problem(&problem)
}

async fn hello(State(state): State<Arc<ServerState>>, Extension(peer): Peer, Json(hello): Json<Hello>) -> Response {
    let nonce = match random() {
        Ok(nonce) => nonce,
        Err(error) => {
            let problem = Problem::from_io(&error, Code::Internal, "cannot create a nonce").next("try again");
            return respond::problem(&problem);
        }
    };
    match peer.lock().hello(hello, &state.record, nonce) {
        Ok(welcome) => respond::json(&welcome),
        Err(problem) => respond::problem(&problem),
    }
}

async fn prove(
    State(state): State<Arc<ServerState>>,
    Extension(peer): Peer,
    Extension(permit): Extension<Arc<ConnectionPermit>>,
    Json(proof): Json<Proof>,
) -> Response {
    match peer.lock().prove(&proof, &state.record) {
        Ok(()) => {
            permit.make_permanent();
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

async fn vitals(State(state): State<Arc<ServerState>>, Query(query): Query<Watch>) -> Response {
    let mut vitals = state.vitals.subscribe();
    if query.watch == 0 {
        return respond::json(&*vitals.borrow());
    }
    // The first line is the current value.
    vitals.mark_changed();
    let lines = stream::unfold(vitals, next_line);
    respond::stream("application/x-ndjson", lines.take_until(state.closing.clone().cancelled_owned()))
}

/// Waits for the next value and returns it as a line.
async fn next_line(mut vitals: watch::Receiver<Vitals>) -> Option<(Bytes, watch::Receiver<Vitals>)> {
    vitals.changed().await.ok()?;
    let line = line(&vitals.borrow_and_update());
    Some((line, vitals))
}

/// One JSON object and a line feed.
fn line(vitals: &Vitals) -> Bytes {
    let mut line = serde_json::to_vec(vitals).unwrap_or_default();
    line.push(b'\n');
    line.into()
}

async fn restart(State(state): State<Arc<ServerState>>, Path(name): Path<String>) -> Response {
    let Some(restart) = state.processes.get(&name) else {
        let names: Vec<_> = state.processes.keys().map(String::as_str).collect();
        let problem = Problem::new(Code::ProcessNotFound, format!("{} has no process {name:?}", state.record.name))
            .seen("processes", names)
            .next(format!("linchpin status {}", state.record.name));
        return respond::problem(&problem);
    };
    restart();
    respond::empty(StatusCode::ACCEPTED)
}

async fn stop(State(state): State<Arc<ServerState>>) -> Response {
    state.stop_requested.cancel();
    respond::empty(StatusCode::ACCEPTED)
}

async fn mcp(State(state): State<Arc<ServerState>>, Path(name): Path<String>, request: Request) -> Response {
    let Some(server) = state.servers.get(&name) else {
        let names: Vec<_> = state.servers.keys().map(String::as_str).collect();
        let problem = Problem::new(Code::ServerNotFound, format!("{} has no MCP server {name:?}", state.record.name))
            .seen("servers", names)
            .next(format!("linchpin status {}", state.record.name));
        return respond::not_executed(&problem);
    };
    if request.method() != Method::POST {
        return server.handle(request).await;
    }
    // It is counted before the check: a drain that starts afterwards waits for this request.
    let in_flight = state.in_flight.token();
    if state.draining.is_cancelled() {
        let problem = Problem::new(Code::ServerUnavailable, format!("{} is stopping", state.record.name))
            .next(format!("linchpin status {}", state.record.name));
        return respond::not_executed(&problem);
    }
    server.handle(request).await.map(|body| {
        Body::new(body.map_frame(move |frame| {
            // The request is in flight until its response has ended.
            let _ = &in_flight;
            frame
        }))
    })
}
