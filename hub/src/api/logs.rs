//! `GET /v1/instances/NAME/logs`: what an instance's processes wrote.
//!
//! Owns the choice of files and the stream. The files are read here and not asked of the instance, so that the log of an
//! instance that died can be read as well. With several processes each line says whose it is.
//! Invariant: following survives the file being put aside; a client that goes away ends its stream.
//! Never: leaves the log directory; names are checked before they become paths.

use super::Api;
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

/// How often a followed file is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// The most lines that are sent from the past.
const MAX_LINES: usize = 10_000;

#[derive(Deserialize)]
pub(super) struct Which {
    process: Option<String>,
    lines: Option<usize>,
    #[serde(default)]
    follow: bool,
}

pub(super) async fn logs(
    State(api): State<Arc<Api>>,
    Path(name): Path<String>,
    Query(which): Query<Which>,
) -> Response {
    let opened = tokio::task::spawn_blocking({
        let api = api.clone();
        move || open(&api, &name, &which).map(|opened| (opened, which.follow))
    });
    match opened.await {
        Ok(Ok(((past, logs), follow))) => {
            let media = [(header::CONTENT_TYPE, "text/plain; charset=utf-8"), (header::CACHE_CONTROL, "no-store")];
            let body = if follow { followed(past, logs, api.stop.clone()) } else { Body::from(past) };
            (media, body).into_response()
        }
        Ok(Err(problem)) => answer::problem(&problem),
        Err(error) => answer::problem(&Problem::new(Code::Internal, error.to_string())),
    }
}

/// The last lines of a process's log, or of all of an instance.
pub(super) async fn last(
    api: Arc<Api>,
    name: String,
    process: Option<String>,
    lines: usize,
) -> Result<String, Problem> {
    let which = Which { process, lines: Some(lines), follow: false };
    let opened = tokio::task::spawn_blocking(move || open(&api, &name, &which).map(|(past, _)| past)).await;
    opened.unwrap_or_else(|error| Err(Problem::new(Code::Internal, error.to_string())))
}

/// The log of one process.
struct Log {
    /// Before each line, where several logs are shown.
    prefix: String,
    follower: Follower,
}

impl Log {
    fn render(&self, lines: Vec<String>, out: &mut String) {
        for line in lines {
            out.push_str(&self.prefix);
            out.push_str(&line);
            out.push('\n');
        }
    }
}

/// The last lines of the chosen logs, and the logs.
fn open(api: &Api, name: &str, which: &Which) -> Result<(String, Vec<Log>), Problem> {
    name::check(name)?;
    let lines = which.lines.unwrap_or(100).min(MAX_LINES);
    let processes = match &which.process {
        Some(process) => {
            name::check(process)?;
            vec![process.clone()]
        }
        None => logged(&api.home.logs().join(name)),
    };
    let (mut past, mut logs) = (String::new(), Vec::new());
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
        let log = Log { prefix, follower };
        log.render(last, &mut past);
        logs.push(log);
    }
    if logs.is_empty() { Err(no_log(api, name, &api.home.logs().join(name))) } else { Ok((past, logs)) }
}

/// The processes that have a log.
fn logged(dir: &FilePath) -> Vec<String> {
    let Ok(files) = dir.read_dir() else { return Vec::new() };
    let process = |path: PathBuf| Some(path.file_name()?.to_str()?.strip_suffix(".log")?.to_owned());
    let mut processes: Vec<String> = files.flatten().filter_map(|file| process(file.path())).collect();
    processes.retain(|process| name::check(process).is_ok());
    processes.sort();
    processes
}

fn no_log(api: &Api, name: &str, path: &FilePath) -> Problem {
    match super::instances::find(api, name) {
        Err(unknown) => unknown,
        Ok(_) => Problem::new(Code::ProcessNotFound, format!("{name} has written no such log"))
            .seen("path", path.display().to_string())
            .next(format!("linchpin status {name}")),
    }
}

/// The past and then whatever is added, until the client or the hub goes away.
fn followed(past: String, logs: Vec<Log>, stop: CancellationToken) -> Body {
    let begin = (Some(past), logs, stop);
    Body::from_stream(stream::unfold(begin, |(past, mut logs, stop)| async move {
        if let Some(past) = past {
            return Some((Ok::<_, Infallible>(Bytes::from(past)), (None, logs, stop)));
        }
        loop {
            stop.run_until_cancelled(tokio::time::sleep(LOOK)).await?;
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
    fn only_logs_with_a_valid_name_count() {
        let dir = tempfile::tempdir().unwrap();
        for file in ["web.log", "web.log.1", "api.log", "..log", "A B.log"] {
            std::fs::write(dir.path().join(file), "").unwrap();
        }
        assert_eq!(logged(dir.path()), ["api", "web"]);
    }
}
