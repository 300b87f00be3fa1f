//! The caller's side of `linchpin run --detach`.

use super::orders::{Orders, Relaunch, Report, Started, open_log};
use crate::agent::{RunOptions, Signals};
use crate::env::{DETACHED, OWNER};
use linchpin_shared::home::Home;
use linchpin_shared::name;
use linchpin_shared::problem::{Code, Problem};
use linchpin_shared::process::{Identity, Signal};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};

/// How long an instance may take to be registered. A take-over waits for another instance to stop.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// Starts an instance in the background and waits until it is registered. SIGTERM, SIGINT and SIGHUP cancel that.
///
/// # Errors
/// The [`Problem`] that the agent reported, or one of starting it.
pub async fn detach(home: &Home, relaunch: Relaunch, mut options: RunOptions) -> Result<Started, Problem> {
    options.pass_through = false;
    let name = options.name.clone().unwrap_or_else(|| name::from_path(&options.project_dir));
    name::check(&name)?;
    home.prepare()?;
    let log = home.process_log(&name, "agent");
    let mut command = Command::new(&relaunch.executable);
    command.args(&relaunch.keeper).arg(&name).args(relaunch.typed_args()).current_dir("/");
    command.env(DETACHED, "1").env_remove(OWNER);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(open_log(&log)?);
    let failed = |error: std::io::Error| {
        Problem::from_io(&error, Code::Internal, "cannot start the keeper")
            .seen("executable", relaunch.executable.display().to_string())
            .next(format!("cat {}", log.display()))
    };
    let mut signals = Signals::listen()?;
    let mut keeper = command.spawn().map_err(failed)?;
    let orders = Orders { relaunch: relaunch.clone(), options, log: log.clone(), keeper: None, adopt: None };
    if let Some(mut stdin) = keeper.stdin.take() {
        let orders = orders.to_line().map_err(|error| failed(error.into()))?;
        stdin.write_all(&orders).await.map_err(failed)?;
    }
    let mut line = String::new();
    if let Some(stdout) = keeper.stdout.take() {
        let mut stdout = BufReader::new(stdout);
        let reading = tokio::time::timeout(READY_WITHIN, stdout.read_line(&mut line));
        let read = match signals.or_signal(reading).await {
            Ok(read) => read,
            Err(signal) => return Err(cancel(keeper, &mut signals, signal, &name).await),
        };
        read.map_err(|_| not_in_time(&name, &log))?.map_err(failed)?;
    }
    outcome(&line, &name, &log)
}

/// Interprets the first report.
fn outcome(line: &str, name: &str, log: &Path) -> Result<Started, Problem> {
    match serde_json::from_str(line) {
        Ok(Report::Ready(started)) => Ok(started),
        Ok(Report::Problem(problem)) => Err(problem),
        Ok(Report::Stopping) | Err(_) => {
            Err(Problem::new(Code::Internal, format!("the keeper of {name:?} ended without a report"))
                .next(format!("cat {}", log.display())))
        }
    }
}

/// Ends the keeper that was started. It belongs to no terminal, so Ctrl-C does not reach it.
async fn cancel(mut keeper: Child, signals: &mut Signals, mut signal: &'static str, name: &str) -> Problem {
    let identity = keeper.id().and_then(|pid| Identity::of(pid).ok());
    let mut ended = std::pin::pin!(tokio::time::timeout(READY_WITHIN, keeper.wait()));
    loop {
        // It fails only when the keeper has ended, and then no signal is needed.
        let _ = identity.as_ref().map(|keeper| keeper.signal(Signal::TERM));
        match signals.or_signal(ended.as_mut()).await {
            Ok(_) => break,
            Err(another) => signal = another,
        }
    }
    Problem::new(Code::Cancelled, format!("{name:?} was not started: {signal} arrived before it was registered"))
        .next(format!("linchpin status {name}"))
}

fn not_in_time(name: &str, log: &Path) -> Problem {
    Problem::new(Code::TimedOut, format!("the instance {name:?} was not registered in time; it is still being started"))
        .seen("waited_s", READY_WITHIN.as_secs())
        .next(format!("cat {}", log.display()))
        .next(format!("linchpin status {name}"))
}
