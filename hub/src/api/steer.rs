//! `POST /v1/instances/NAME/restart` and `/stop`: asking an instance to act.
//!
//! Owns the way of the wish to the instance, over its link. Never: signals anything; the instance knows its own.

use super::Api;
use super::instances::find;
use crate::http::answer;
use crate::link::{Body, Handle};
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

/// How long an instance may take to say that it has understood.
const ANSWER: Duration = Duration::from_secs(5);

#[derive(Deserialize)]
pub(super) struct Which {
    process: Option<String>,
}

pub(super) async fn restart(
    State(api): State<Arc<Api>>,
    Path(name): Path<String>,
    Query(which): Query<Which>,
) -> Response {
    match begin_again(&api, &name, which.process).await {
        Ok(processes) => answer::json(&json!({"restarting": processes})),
        Err(problem) => answer::problem(&problem),
    }
}

/// Restarts a process of an instance, or all of them, and says which.
pub(super) async fn begin_again(api: &Api, name: &str, process: Option<String>) -> Result<Vec<String>, Problem> {
    let link = find(api, name)?;
    is_ours(&link)?;
    let processes = chosen(&link, process)?;
    for process in &processes {
        tell(&link, &format!("{}{process}/restart", path::PROCESSES)).await?;
    }
    Ok(processes)
}

pub(super) async fn stop(State(api): State<Arc<Api>>, Path(name): Path<String>) -> Response {
    let stopped = async {
        let link = find(&api, &name)?;
        is_ours(&link)?;
        tell(&link, path::STOP).await
    };
    match stopped.await {
        Ok(()) => answer::json(&json!({"stopping": name})),
        Err(problem) => answer::problem(&problem),
    }
}

/// A program that speaks HTTP/1.1 knows nothing of our wishes, and was not started by us.
fn is_ours(link: &Handle) -> Result<(), Problem> {
    let record = Arc::clone(&link.status().borrow().record);
    match record.protocol {
        Protocol::H2c => Ok(()),
        Protocol::Http1 => {
            let detail =
                format!("{} is a foreign program: Linchpin did not start it and does not stop it", link.name());
            Err(Problem::new(Code::BadRequest, detail)
                .seen("pid", record.process.pid)
                .seen("executable", record.process.executable.display().to_string())
                .next(format!("kill {}    (ends the program; it is unregistered by itself)", record.process.pid))
                .next("or end its `linchpin register`, and it is merely not listed any more"))
        }
    }
}

/// The named process, or all of them.
fn chosen(link: &Handle, process: Option<String>) -> Result<Vec<String>, Problem> {
    let vitals = link.vitals().borrow().clone();
    let all: Vec<String> =
        vitals.iter().flat_map(|vitals| vitals.processes.iter().map(|process| process.name.clone())).collect();
    match process {
        None if all.is_empty() => {
            let detail = format!("{} shows no process that could be restarted", link.name());
            Err(Problem::new(Code::ProcessNotFound, detail).next(format!("linchpin explain {}", link.name())))
        }
        None => Ok(all),
        Some(process) if all.contains(&process) => Ok(vec![process]),
        Some(process) => {
            let detail = format!("{} has no process called {process:?}", link.name());
            let problem = Problem::new(Code::ProcessNotFound, detail).seen("processes", all);
            Err(problem.next(format!("linchpin status {}", link.name())))
        }
    }
}

async fn tell(link: &Handle, path: &str) -> Result<(), Problem> {
    let body: Body = Empty::new().map_err(|never: Infallible| match never {}).boxed_unsync();
    let request = http::Request::post(path)
        .body(body)
        .map_err(|error| Problem::new(Code::Internal, format!("cannot build the request: {error}")))?;
    let answer = tokio::time::timeout(ANSWER, link.request(request)).await.map_err(|_| {
        let detail = format!("{} has not answered within {} s", link.name(), ANSWER.as_secs());
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
