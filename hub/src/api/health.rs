//! `GET /health`: whether the hub is well. The one route that needs no token, so it tells nothing about the instances
//! but how many there are.

use super::{Api, reply};
use crate::link::State as LinkState;
use axum::extract::State;
use axum::response::Response;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::sync::Arc;
use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};

pub(super) async fn health(State(api): State<Arc<Api>>) -> Response {
    let links = api.links.watch().borrow().clone();
    let connected = links.iter().filter(|link| link.status().borrow().state == LinkState::Active).count();
    let rejected = api.discovery.snapshot.borrow().rejected.len();
    reply::json(&json!({
        "status": "ok",
        "instance": "hub",
        "port": api.hub.port,
        "data_path": api.home.root(),
        "timestamp": Timestamp::now(),
        "uptime_seconds": api.started.elapsed().as_secs(),
        "version": api.hub.version,
        "pid": api.hub.process.pid,
        "connections": connected,
        "checks": {"registry": if rejected == 0 { "ok" } else { "records rejected" }},
        "metrics": {"instances": links.len(), "connected": connected, "rejected": rejected, "memory_bytes": memory(&api)},
    }))
}

/// The hub's resident memory in bytes, or null where the system does not tell.
fn memory(api: &Api) -> Value {
    let pid = Pid::from_u32(api.hub.process.pid);
    let Ok(mut system) = System::new() else { return Value::Null };
    system.refresh_processes_specifics(
        ProcessesToUpdate::Some(&[pid]),
        false,
        ProcessRefreshKind::nothing().with_memory(),
    );
    system.process(pid).map_or(Value::Null, |process| process.memory().into())
}
