//! `GET /health`: whether the hub is healthy.
//!
//! It needs no token, so about the instances it tells only how many there are.

use super::ApiState;
use crate::http::answer;
use crate::link::LinkState;
use axum::extract::State;
use axum::response::Response;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::sync::Arc;
use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};

pub(super) async fn health(State(api): State<Arc<ApiState>>) -> Response {
    let links = api.links.watch().borrow().clone();
    let connected = links.iter().filter(|link| link.status().borrow().state == LinkState::Active).count();
    let (rejected, aside) = {
        let snapshot = api.discovery.snapshot.borrow();
        (snapshot.rejected.len(), snapshot.aside)
    };
    let senses = api.discovery.senses.borrow().clone();
    let registry = match (&senses.blind, rejected) {
        (Some(_), _) => "not readable",
        (None, 0) => "ok",
        (None, _) => "records rejected",
    };
    let held = api.recovery.hold().borrow().clone();
    let journal = api.journal.borrow().clone();
    let journal = match (journal.problem, journal.corrupt) {
        (Some(_), _) => "not written",
        (None, Some(_)) => "begun anew",
        (None, None) => "ok",
    };
    answer::json(&json!({
        "status": "ok",
        "instance": "hub",
        "port": api.hub.port,
        "data_path": api.home.root().display().to_string(),
        "timestamp": Timestamp::now(),
        "uptime_seconds": api.started.elapsed().as_secs(),
        "version": api.hub.version,
        "pid": api.hub.process.pid,
        "connections": connected,
        "checks": {
            "registry": registry,
            "watch": if senses.deaf.is_none() { "ok" } else { "polling" },
            "journal": journal,
            "machine": held.map_or_else(|| "ok".to_owned(), |held| held.why),
        },
        "metrics": {"instances": links.len(), "connected": connected, "rejected": rejected, "quarantined": aside.files, "quarantined_since": aside.since, "memory_bytes": memory(&api)},
    }))
}

/// Returns the resident memory of the hub in bytes, or null if the system does not show it.
fn memory(api: &ApiState) -> Value {
    let pid = Pid::from_u32(api.hub.process.pid);
    let Ok(mut system) = System::new() else { return Value::Null };
    system.refresh_processes_specifics(
        ProcessesToUpdate::Some(&[pid]),
        false,
        ProcessRefreshKind::nothing().with_memory(),
    );
    system.process(pid).map_or(Value::Null, |process| process.memory().into())
}
