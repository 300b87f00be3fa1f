//! The checks `hub` and `token`: whether the hub's lease, its file, its process and its answer belong to one hub.
//!
//! A hub is healthy if its lease is held, `hub.json` names a running process, and `/health` there answers within a
//! second with the pid of that process. It is also fine if none of this is so. A hub that is just starting or stopping
//! gets a moment. No hub is started.

use super::check::Check;
use super::process_info;
use crate::client::{http, http_to};
use jiff::{SignedDuration, Timestamp};
use linchpin_shared::home::Home;
use linchpin_shared::hub_file::HubFile;
use linchpin_shared::problem::{Code, Problem};
use linchpin_shared::process::Identity;
use linchpin_shared::registry::Lease;
use linchpin_shared::settings::Settings;
use serde_json::Value;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long the hub may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// How long to wait until the findings are consistent. A starting hub writes its file milliseconds after it takes its
/// lease.
const PATIENCE: Duration = Duration::from_millis(500);

/// How long a hub may take to stop. It waits for its requests, and then for its tasks.
const STOP_TIMEOUT: SignedDuration = SignedDuration::from_secs(20);

/// The version of this program, which the hub should have too.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What was found out about the hub.
pub(super) struct HubFindings {
    held: bool,
    /// The process that the lease names as its holder.
    holder: Option<Identity>,
    pub(super) file: Option<HubFile>,
    /// Whether the process that the file names is running.
    alive: bool,
    /// The pid and version that `/health` reports, or why it reports nothing; `None` if it was not asked.
    health: Option<Result<(u64, String), String>>,
    /// Whether `/status` requires a token; `None` if that could not be determined.
    guarded: Option<bool>,
}

impl HubFindings {
    /// Examines the hub until the findings are consistent, or until a moment has passed.
    pub(super) async fn gather(home: &Home) -> Self {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let findings = Self::examine(home).await;
            if findings.held == findings.alive || Instant::now() > deadline {
                return findings;
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    async fn examine(home: &Home) -> Self {
        let file = HubFile::read(home).ok().flatten();
        let held = Lease::is_held(&home.hub_lease()).unwrap_or(false);
        let holder = Lease::holder(&home.hub_lease()).filter(Identity::is_alive);
        let alive = file.as_ref().is_some_and(|file| file.process.is_alive());
        let mut findings = Self { held, holder, file, alive, health: None, guarded: None };
        if let Some(file) = findings.file.as_ref().filter(|_| held && alive) {
            findings.health = Some(health(file).await);
            findings.guarded = is_guarded(file).await;
        }
        findings
    }

    /// Whether a hub is running, healthy or not.
    pub(super) const fn runs(&self) -> bool {
        self.held && self.alive
    }

    /// Whether it was told to stop, and has not exceeded the time that a stop may take.
    pub(super) fn is_stopping(&self) -> bool {
        let stopped_at = self.file.as_ref().filter(|_| self.runs()).and_then(|file| file.stopped_at);
        stopped_at.is_some_and(|at| Timestamp::now().duration_since(at) < STOP_TIMEOUT)
    }

    /// Returns both checks.
    pub(super) fn checks(&self, home: &Home, settings: &Settings) -> Vec<Check> {
        let hub = match &self.file {
            Some(file) if self.is_stopping() => Check::ok("hub", format!("pid {} is stopping", file.process.pid)),
            Some(file) if self.runs() => self.judge_running(file),
            Some(_) | None => self.judge_absent(home),
        };
        vec![hub, self.judge_token(settings)]
    }

    /// Lease and process exist: does it answer, and is it the hub?
    fn judge_running(&self, file: &HubFile) -> Check {
        let pid = file.process.pid;
        let problem = |code, detail: String| Problem::new(code, detail).seen("url", file.url.clone());
        match &self.health {
            Some(Ok((answered, version))) if *answered == u64::from(pid) && version == VERSION => {
                Check::ok("hub", format!("{} answers, pid {pid}, version {version}", file.url))
            }
            Some(Ok((answered, version))) if *answered == u64::from(pid) => {
                let detail = format!("the hub has version {version}, and this program has version {VERSION}");
                let problem = problem(Code::VersionMismatch, detail).seen("pid", pid);
                let next = "linchpin hub stop    (instances continue to run; the next command starts the new hub)";
                Check::warning("hub", problem.next(next))
            }
            Some(Ok((answered, _))) => {
                let detail = format!("pid {answered} answers at the hub's address, but the hub has pid {pid}");
                let problem = problem(Code::HubUnreachable, detail).seen("pid", pid);
                Check::error("hub", problem.next(format!("kill {pid}")).next("linchpin status    (starts it again)"))
            }
            Some(Err(why)) => {
                let problem = problem(Code::HubUnreachable, format!("the hub is running but does not answer: {why}"));
                Check::error(
                    "hub",
                    process_info::describe(problem, &file.process).next(format!("kill {pid}; linchpin status")),
                )
            }
            None => Check::ok("hub", format!("pid {pid} is running")),
        }
    }

    /// The lease, the file or the process is missing: are all of them, as it should be?
    fn judge_absent(&self, home: &Home) -> Check {
        match &self.file {
            _ if self.held => {
                let problem = absent(home, "the hub's lease is held, but hub.json does not name the holder");
                Check::error("hub", self.with_holder(problem, home))
            }
            Some(file) if self.alive => {
                let pid = file.process.pid;
                let detail = format!("pid {pid} runs as the hub but has lost its lease, so another hub could start");
                let problem = process_info::describe(absent(home, &detail), &file.process);
                Check::error("hub", problem.next(format!("kill {pid}; linchpin status")))
            }
            Some(file) if file.stopped_at.is_none() => {
                let problem = absent(home, "the last hub ended without being stopped").seen("pid", file.process.pid);
                let log = home.logs().join("hub-error.log");
                let problem = problem.next("linchpin status    (starts it again)");
                Check::warning("hub", problem.next(format!("tail {}", log.display())))
            }
            Some(_) => Check::ok("hub", "stopped; the next command that needs it starts it"),
            None if home.hub_file().symlink_metadata().is_ok() => {
                let problem = absent(home, "hub.json cannot be parsed; the next hub would take a new token and port");
                Check::warning("hub", problem.next(format!("ls -l {}", home.hub_file().display())).next("linchpin hub"))
            }
            None => Check::ok("hub", "no hub has run yet; the first command that needs it starts it"),
        }
    }

    /// Names the process that holds the lease, as far as it is known.
    fn with_holder(&self, problem: Problem, home: &Home) -> Problem {
        match &self.holder {
            Some(holder) => {
                process_info::describe(problem, holder).next(format!("kill {}; linchpin status", holder.pid))
            }
            None => problem.next(format!("fuser -v {}    (shows who holds it)", home.hub_lease().display())),
        }
    }

    fn judge_token(&self, settings: &Settings) -> Check {
        if self.guarded.unwrap_or(settings.hub.token_required) {
            return Check::ok("token", "requests to the hub require it");
        }
        let origin = settings.origin("hub.token_required").map_or_else(String::new, ToString::to_string);
        let detail = "requests to the hub require no token: every program on this machine can use it";
        let problem = Problem::new(Code::Unguarded, detail).seen("from", origin);
        Check::warning("token", problem.next("set hub.token_required to true, then: linchpin hub stop"))
    }
}

/// The problem of a hub of which something is missing.
fn absent(home: &Home, detail: &str) -> Problem {
    Problem::new(Code::HubUnreachable, detail)
        .seen("lease", home.hub_lease().display().to_string())
        .seen("file", home.hub_file().display().to_string())
}

async fn health(file: &HubFile) -> Result<(u64, String), String> {
    let describe = |error: reqwest::Error| {
        if error.is_timeout() { format!("no answer within {ANSWER_TIMEOUT:?}") } else { format!("{error:?}") }
    };
    let http = http().map_err(|problem| problem.detail)?;
    let answer = http.get(format!("{}/health", file.url)).timeout(ANSWER_TIMEOUT).send().await.map_err(describe)?;
    let health: Value = answer.json().await.map_err(describe)?;
    let pid = health["pid"].as_u64().ok_or("the answer is not that of a hub")?;
    Ok((pid, health["version"].as_str().unwrap_or_default().to_owned()))
}

/// Whether the hub refuses a request without a token.
async fn is_guarded(file: &HubFile) -> Option<bool> {
    let answer = http().ok()?.get(format!("{}/v1/instances", file.url)).timeout(ANSWER_TIMEOUT).send().await.ok()?;
    Some(!answer.status().is_success())
}

/// Returns what the hub reports about itself and its instances, if one answers.
pub(super) async fn status(file: &HubFile) -> Option<Value> {
    let request =
        http_to(file).ok()?.get(format!("{}/status", file.url)).bearer_auth(&file.token).timeout(2 * ANSWER_TIMEOUT);
    let answer = request.send().await.ok()?.error_for_status().ok()?;
    answer.json().await.ok()
}

/// Returns what the hub itself reports to be wrong.
pub(super) fn reported_problems(status: Option<Value>) -> Vec<Check> {
    let problems = status.map(|mut status| status["hub"]["problems"].take()).unwrap_or_default();
    let problems: Vec<Problem> = serde_json::from_value(problems).unwrap_or_default();
    let about_journal = |problem: &Problem| {
        problem.observed.get("path").and_then(Value::as_str).is_some_and(|at| at.ends_with("journal.db"))
    };
    let name = |problem: &Problem| if about_journal(problem) { "journal" } else { "discovery" };
    problems.into_iter().map(|problem| Check::warning(name(&problem), problem)).collect()
}

#[cfg(test)]
#[path = "hub_tests.rs"]
mod tests;
