//! Finding the hub, and starting it when there is none.
//!
//! Owns the way from "a verb needs the hub" to the file of a hub that runs. Invariant: of many that start a hub at once
//! one wins by the hub's lease, and all others get that one. A hub that was started here outlives its starter, belongs
//! to no terminal, and says whether it is ready by one line on a pipe; nobody polls for it.
//! Never: starts a hub under `--no-autostart`.

use crate::daemon::file::HubFile;
use linchpin_instance::env::{DETACHED, OWNER};
use linchpin_shared::home::Home;
use linchpin_shared::problem::{Code, Problem};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};

/// How long a hub may take to say that it is ready. It needs a few milliseconds; a loaded machine may need seconds.
const START_TIMEOUT: Duration = Duration::from_secs(15);

/// The hub that runs; one is started if there is none and `autostart` allows it.
///
/// # Errors
/// [`Code::HubUnreachable`] when none runs and none may or can be started, or what the started hub reported.
pub(super) async fn reach(home: &Home, autostart: bool) -> Result<HubFile, Problem> {
    if let Some(file) = HubFile::current(home)? {
        return Ok(file);
    }
    if !autostart {
        return Err(Problem::new(Code::HubUnreachable, "no hub is running and --no-autostart was given")
            .seen("home", home.root().display().to_string())
            .next("linchpin hub"));
    }
    home.prepare()?;
    start(home).await?;
    HubFile::current(home)?.ok_or_else(|| {
        Problem::new(Code::HubUnreachable, "the hub started and ended at once")
            .next(format!("tail {}", home.logs().join("hub.log").display()))
    })
}

/// Starts a hub in the background and waits until it is ready, or another one is.
async fn start(home: &Home) -> Result<(), Problem> {
    let failed = |what: String| {
        Problem::new(Code::HubUnreachable, what)
            .seen("home", home.root().display().to_string())
            .next("linchpin hub")
            .next(format!("tail {}", home.logs().join("hub.log").display()))
    };
    let mut child = tokio::process::Command::new(executable())
        .args(["hub", "--background"])
        // An instance ends all that its processes started, except what says that it belongs to nobody.
        .env(DETACHED, "1")
        .env_remove(OWNER)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| failed(format!("cannot start the hub: {error}")))?;
    let Some(stdout) = child.stdout.take() else { return Err(failed("the hub has no output".to_owned())) };
    let mut line = String::new();
    match tokio::time::timeout(START_TIMEOUT, BufReader::new(stdout).read_line(&mut line)).await {
        Err(_) => return Err(failed(format!("the hub was not ready within {} s", START_TIMEOUT.as_secs()))),
        Ok(Err(error)) => return Err(failed(format!("the hub went away: {error}"))),
        Ok(Ok(_)) => {}
    }
    match serde_json::from_str::<Report>(&line) {
        Ok(Report::Ready) => Ok(()),
        Ok(Report::Failed(problem)) if problem.code == Code::HubRunning => Ok(()),
        Ok(Report::Failed(problem)) => Err(problem),
        Err(_) => Err(failed("the hub ended before it was ready".to_owned())),
    }
}

/// What a hub in the background says to who started it.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Report {
    /// It serves.
    Ready,
    /// It does not.
    Failed(Problem),
}

/// This program. After an upgrade the path of the running one is gone and its successor stands in the same place.
pub(super) fn executable() -> PathBuf {
    let running = PathBuf::from("/proc/self/exe");
    let Ok(path) = std::env::current_exe() else { return running };
    let text = path.to_string_lossy();
    let place = text.strip_suffix(" (deleted)").map_or_else(|| path.clone(), PathBuf::from);
    if place.exists() { place } else { running }
}
