//! `POST /v1/instances/NAME/restart` and `/stop`: ask an instance to restart its processes, or to stop.
//!
//! The request goes to the instance over its link. The hub signals no process here, because only the instance knows its
//! own.

use super::ApiState;
use super::instances::find;
use crate::http::answer;
use crate::link::{Body, LinkHandle};
use axum::extract::{Path, Query, State};
use axum::response::Response;
use http_body_util::{BodyExt, Empty};
use linchpin_shared::problem::{Code, Problem};
use linchpin_shared::protocol::path;
use linchpin_shared::registry::record::Protocol;
use serde::Deserialize;
use serde_json::json;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

/// How long an instance may take to confirm the request.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Deserialize)]
pub(super) struct ProcessQuery {
    process: Option<String>,
}

pub(super) async fn restart(
    State(api): State<Arc<ApiState>>,
    Path(name): Path<String>,
    Query(query): Query<ProcessQuery>,
) -> Response {
    match restart_processes(&api, &name, query.process).await {
        Ok(processes) => answer::json(&json!({"restarting": processes})),
        Err(problem) => answer::problem(&problem),
    }
}

/// Restarts a process of an instance, or all of them, and returns their names.
pub(super) async fn restart_processes(
    api: &ApiState,
    name: &str,
    process: Option<String>,
) -> Result<Vec<String>, Problem> {
    let link = find(api, name)?;
    ensure_supervised(&link)?;
    let processes = chosen(&link, process)?;
    for process in &processes {
        post(&link, &format!("{}{process}/restart", path::PROCESSES)).await?;
    }
    Ok(processes)
}

pub(super) async fn stop(State(api): State<Arc<ApiState>>, Path(name): Path<String>) -> Response {
    let stopped = async {
        let link = find(&api, &name)?;
        ensure_supervised(&link)?;
        post(&link, path::STOP).await
    };
    match stopped.await {
        Ok(()) => answer::json(&json!({"stopping": name})),
        Err(problem) => answer::problem(&problem),
    }
}

/// A program that speaks HTTP/1.1 does not understand these requests, and was not started by Linchpin.
fn ensure_supervised(link: &LinkHandle) -> Result<(), Problem> {
    let record = Arc::clone(&link.status().borrow().record);
    match record.protocol {
        Protocol::H2c => Ok(()),
        Protocol::Http1 => {
            let detail =
                format!("{} is an external program: Linchpin did not start it, so it does not stop it", link.name());
            Err(Problem::new(Code::BadRequest, detail)
                .seen("pid", record.process.pid)
                .seen("executable", record.process.executable.display().to_string())
                .next(format!("kill {}    (ends the program, which also ends its registration)", record.process.pid))
                .next("or end its `linchpin register`, and it is no longer listed"))
        }
    }
}

/// Returns the named process, or all processes.
fn chosen(link: &LinkHandle, process: Option<String>) -> Result<Vec<String>, Problem> {
    let vitals = link.vitals().borrow().clone();
    let all: Vec<String> =
        vitals.iter().flat_map(|vitals| vitals.processes.iter().map(|process| process.name.clone())).collect();
    match process {
        None if all.is_empty() => {
            let detail = format!("{} reports no process that could be restarted", link.name());
            Err(Problem::new(Code::ProcessNotFound, detail).next(format!("linchpin explain {}", link.name())))
        }
        None => Ok(all),
        Some(process) if all.contains(&process) => Ok(vec![process]),
        Some(process) => {
            let detail = format!("{} has no process named {process:?}", link.name());
            let problem = Problem::new(Code::ProcessNotFound, detail).seen("processes", all);
            Err(problem.next(format!("linchpin status {}", link.name())))
        }
    }
}

async fn post(link: &LinkHandle, path: &str) -> Result<(), Problem> {
    let body: Body = Empty::new().map_err(|never: Infallible| match never {}).boxed_unsync();
    let request = http::Request::post(path)
        .body(body)
        .map_err(|error| Problem::new(Code::Internal, format!("cannot build the request: {error}")))?;
    let answer = tokio::time::timeout(ANSWER_TIMEOUT, link.request(request)).await.map_err(|_| {
        let detail = format!("{} has not answered within {} s", link.name(), ANSWER_TIMEOUT.as_secs());
        Problem::new(Code::TimedOut, detail).next(format!("linchpin explain {}", link.name()))
    })?;
    let response = answer.map_err(|error| error.problem(link.name()))?;
    if response.status().is_success() {
        return Ok(());
    }
    let status = response.status();
    let body = response.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    Err(serde_json::from_slice(&body)
        .unwrap_or_else(|_| Problem::new(Code::Internal, format!("{} answered {status}", link.name()))))
}
