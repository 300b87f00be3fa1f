//! Finds the hub, and starts one in the background if none is running.
//!
//! If many processes start a hub at once, one of them gets the hub's lease and the others use that hub. A hub that is
//! started here outlives its starter and belongs to no terminal. It reports by one line on a pipe whether it is ready,
//! so nothing polls for it.

use linchpin_instance::env::{DETACHED, OWNER};
use linchpin_shared::home::Home;
use linchpin_shared::hub_file::HubFile;
use linchpin_shared::problem::{Code, Problem};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};

/// How long a hub may take to report that it is ready. It needs a few milliseconds; on a loaded machine it may need
/// seconds.
const START_TIMEOUT: Duration = Duration::from_secs(15);

/// Returns the running hub, and starts one first if there is none and `autostart` is true.
///
/// # Errors
/// [`Code::HubUnreachable`] if no hub runs and none may be started or can be started; otherwise what the started hub
/// reported.
pub(super) async fn reach_hub(home: &Home, autostart: bool) -> Result<HubFile, Problem> {
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
        Problem::new(Code::HubUnreachable, "the hub started and ended again at once")
            .next(format!("tail {}", home.logs().join("hub.log").display()))
    })
}

/// Starts a hub in the background and waits until it is ready, or until it reports that another one is.
async fn start(home: &Home) -> Result<(), Problem> {
    let failed = |what: String| {
        Problem::new(Code::HubUnreachable, what)
            .seen("home", home.root().display().to_string())
            .next("linchpin hub")
            .next(format!("tail {}", home.logs().join("hub.log").display()))
    };
    let mut child = tokio::process::Command::new(executable())
        .args(["hub", "--background"])
        // An instance ends everything that its processes started, except what declares with this variable that it is
        // detached.
        .env(DETACHED, "1")
        .env_remove(OWNER)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| failed(format!("cannot start the hub: {error}")))?;
    let Some(stdout) = child.stdout.take() else {
        return Err(failed("the standard output of the hub is not available".to_owned()));
    };
    let mut line = String::new();
    match tokio::time::timeout(START_TIMEOUT, BufReader::new(stdout).read_line(&mut line)).await {
        Err(_) => return Err(failed(format!("the hub was not ready within {} s", START_TIMEOUT.as_secs()))),
        Ok(Err(error)) => return Err(failed(format!("the connection to the starting hub broke: {error}"))),
        Ok(Ok(_)) => {}
    }
    match serde_json::from_str::<StartReport>(&line) {
        Ok(StartReport::Ready) => Ok(()),
        Ok(StartReport::Failed(problem)) if problem.code == Code::HubRunning => Ok(()),
        Ok(StartReport::Failed(problem)) => Err(problem),
        Err(_) => Err(failed("the hub ended before it was ready".to_owned())),
    }
}

/// What a hub in the background reports to the process that started it.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum StartReport {
    /// The hub is serving.
    Ready,
    /// The hub could not start.
    Failed(Problem),
}

/// Returns the path of this program. After an upgrade the running file is deleted, and its successor is at the same
/// path.
pub(super) fn executable() -> PathBuf {
    let running = PathBuf::from("/proc/self/exe");
    let Ok(path) = std::env::current_exe() else { return running };
    let text = path.to_string_lossy();
    let place = text.strip_suffix(" (deleted)").map_or_else(|| path.clone(), PathBuf::from);
    if place.exists() { place } else { running }
}
