//! `GET /v1/instances/NAME/logs`: what the processes of an instance wrote.
//!
//! The hub reads the files itself, so that the log of a dead instance can be read too. If there are several processes,
//! each line names its process. Following continues when a file is rotated, and ends when the client disconnects. Names
//! are checked before they become paths, so nothing outside the log directory is read.

use super::ApiState;
use crate::http::answer;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use linchpin_shared::logfile::Follower;
use linchpin_shared::name;
use linchpin_shared::problem::{Code, Problem};
use serde::Deserialize;
use std::convert::Infallible;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often a followed file is read.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// The largest number of earlier lines that are sent.
const MAX_LINES: usize = 10_000;

#[derive(Deserialize)]
pub(super) struct LogQuery {
    process: Option<String>,
    lines: Option<usize>,
    #[serde(default)]
    follow: bool,
}

pub(super) async fn logs(
    State(api): State<Arc<ApiState>>,
    Path(name): Path<String>,
    Query(query): Query<LogQuery>,
) -> Response {
    let opened = tokio::task::spawn_blocking({
        let api = api.clone();
        move || open(&api, &name, &query).map(|opened| (opened, query.follow))
    });
    match opened.await {
        Ok(Ok(((earlier, logs), follow))) => {
            let media = [(header::CONTENT_TYPE, "text/plain; charset=utf-8"), (header::CACHE_CONTROL, "no-store")];
            let body = if follow { followed(earlier, logs, api.stop.clone()) } else { Body::from(earlier) };
            (media, body).into_response()
        }
        Ok(Err(problem)) => answer::problem(&problem),
        Err(error) => answer::problem(&Problem::new(Code::Internal, error.to_string())),
    }
}

/// Returns the last lines of the log of one process, or of all processes of an instance.
pub(super) async fn last(
    api: Arc<ApiState>,
    name: String,
    process: Option<String>,
    lines: usize,
) -> Result<String, Problem> {
    let query = LogQuery { process, lines: Some(lines), follow: false };
    let opened = tokio::task::spawn_blocking(move || open(&api, &name, &query).map(|(earlier, _)| earlier)).await;
    opened.unwrap_or_else(|error| Err(Problem::new(Code::Internal, error.to_string())))
}

/// The log of one process.
struct ProcessLog {
    /// The prefix of each line if several logs are shown.
    prefix: String,
    follower: Follower,
}

impl ProcessLog {
    fn render(&self, lines: Vec<String>, out: &mut String) {
        for line in lines {
            out.push_str(&self.prefix);
            out.push_str(&line);
            out.push('\n');
        }
    }
}

/// Opens the chosen logs, and returns their last lines.
fn open(api: &ApiState, name: &str, query: &LogQuery) -> Result<(String, Vec<ProcessLog>), Problem> {
    name::check(name)?;
    let lines = query.lines.unwrap_or(100).min(MAX_LINES);
    let processes = match &query.process {
        Some(process) => {
            name::check(process)?;
            vec![process.clone()]
        }
        None => processes_with_logs(&api.home.logs().join(name)),
    };
    let (mut earlier, mut logs) = (String::new(), Vec::new());
    for process in &processes {
        let path = api.home.process_log(name, process);
        if !path.exists() {
            return Err(no_log(api, name, &path));
        }
        let (last, follower) = Follower::open(&path, lines).map_err(|error| {
            Problem::from_io(&error, Code::Internal, format!("cannot read {}", path.display()))
                .next(format!("ls -l {}", path.display()))
        })?;
        let prefix = if processes.len() > 1 { format!("{process} | ") } else { String::new() };
        let log = ProcessLog { prefix, follower };
        log.render(last, &mut earlier);
        logs.push(log);
    }
    if logs.is_empty() { Err(no_log(api, name, &api.home.logs().join(name))) } else { Ok((earlier, logs)) }
}

/// Returns the names of the processes that have a log.
fn processes_with_logs(dir: &FilePath) -> Vec<String> {
    let Ok(files) = dir.read_dir() else { return Vec::new() };
    let process = |path: PathBuf| Some(path.file_name()?.to_str()?.strip_suffix(".log")?.to_owned());
    let mut processes: Vec<String> = files.flatten().filter_map(|file| process(file.path())).collect();
    processes.retain(|process| name::check(process).is_ok());
    processes.sort();
    processes
}

fn no_log(api: &ApiState, name: &str, path: &FilePath) -> Problem {
    match super::instances::find(api, name) {
        Err(unknown) => unknown,
        Ok(_) => Problem::new(Code::ProcessNotFound, format!("{name} has no such log"))
            .seen("path", path.display().to_string())
            .next(format!("linchpin status {name}")),
    }
}

/// Returns the earlier lines and then everything that is added, until the client or the hub ends the stream.
fn followed(earlier: String, logs: Vec<ProcessLog>, stop: CancellationToken) -> Body {
    let begin = (Some(earlier), logs, stop);
    Body::from_stream(stream::unfold(begin, |(earlier, mut logs, stop)| async move {
        if let Some(earlier) = earlier {
            return Some((Ok::<_, Infallible>(Bytes::from(earlier)), (None, logs, stop)));
        }
        loop {
            stop.run_until_cancelled(tokio::time::sleep(POLL_INTERVAL)).await?;
            let read = tokio::task::spawn_blocking(move || {
                let mut added = String::new();
                for log in &mut logs {
                    let lines = log.follower.read().ok()?;
                    log.render(lines, &mut added);
                }
                Some((added, logs))
            });
            let (added, back) = read.await.ok()??;
            logs = back;
            if !added.is_empty() {
                return Some((Ok(Bytes::from(added)), (None, logs, stop)));
            }
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_with_a_valid_name_are_logs() {
        let dir = tempfile::tempdir().unwrap();
        for file in ["web.log", "web.log.1", "api.log", "..log", "A B.log"] {
            std::fs::write(dir.path().join(file), "").unwrap();
        }
        assert_eq!(processes_with_logs(dir.path()), ["api", "web"]);
    }
}
