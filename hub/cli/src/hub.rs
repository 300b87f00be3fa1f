//! `linchpin hub`, `linchpin hub stop`, `linchpin token`.
//!
//! Owns how the hub's process begins: in the foreground, or in the background for [`super::reach`].
//! Invariant: a second start reports the hub that runs and ends well; only a port that was asked for and cannot be had
//! is an error. Stopping says "stopped" when the process has ended.

use super::client::Client;
use super::output::Output;
use super::reach::{Report, executable, reach};
use super::{Context, single_threaded};
use linchpin_hub::Start;
use linchpin_shared::hub_file::HubFile;
use linchpin_shared::problem::{Code, Exit, Problem};
use linchpin_shared::process;
use std::io::Write;
use std::time::Duration;

/// How long a hub may take to let its requests end.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Option<Action>,
    /// Listen on this port or fail; without it the hub takes its last one, 7777 or the next free one
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// Started by another verb
    #[arg(long, hide = true)]
    background: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Stop the hub; instances go on
    Stop,
}

pub(super) fn main(context: &Context, args: &Args) -> Result<Exit, Problem> {
    if let Some(Action::Stop) = args.action {
        return single_threaded(stop(context));
    }
    let start =
        Start { home: context.home.clone(), port: args.port, foreground: !args.background, executable: executable() };
    let result = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("hub")
        .build()
        .map_err(|error| Problem::from_io(&error, Code::Internal, "cannot start the runtime"))?
        .block_on(async {
            if args.background {
                detach();
            }
            let output = context.output;
            let background = args.background;
            linchpin_hub::run(
                start,
                move |file| if background { report(&Report::Ready) } else { announce(output, file) },
            )
            .await
        });
    match result {
        Ok(()) => Ok(Exit::Ok),
        Err(problem) if args.background => {
            report(&Report::Failed(problem.clone()));
            Ok(problem.exit())
        }
        Err(problem) => already_running(context, args.port, problem),
    }
}

/// A hub that runs already is what the user wanted, unless it is on another port than the one asked for.
fn already_running(context: &Context, port: Option<u16>, problem: Problem) -> Result<Exit, Problem> {
    let running = HubFile::current(&context.home)?;
    match running {
        Some(file) if problem.code == Code::HubRunning && port.is_none_or(|port| port == file.port) => {
            let text = format!("a hub is running already: {} (pid {})", file.url, file.process.pid);
            context.output.value(&described(&file), |_| text);
            Ok(Exit::Ok)
        }
        Some(_) | None => Err(problem),
    }
}

fn described(file: &HubFile) -> serde_json::Value {
    serde_json::json!({"url": file.url, "pid": file.process.pid, "version": file.version})
}

fn announce(output: Output, file: &HubFile) {
    output.value(&described(file), |_| format!("hub on {} (pid {}); Ctrl-C stops it", file.url, file.process.pid));
}

/// Leaves the starter's session, so that neither its terminal nor its end concerns us.
fn detach() {
    // Fails only for the leader of a process group, which has nothing to leave.
    let _ = rustix::process::setsid();
}

/// Says one line to who started us and lets go of the pipe.
fn report(report: &Report) {
    if let Ok(line) = serde_json::to_string(report) {
        let _ = writeln!(std::io::stdout().lock(), "{line}");
    }
    if let Ok(null) = std::fs::OpenOptions::new().write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdout(null);
    }
}

async fn stop(context: &Context) -> Result<Exit, Problem> {
    let Some(file) = HubFile::running(&context.home)? else {
        context.output.value(&serde_json::json!({"stopped": false}), |_| "no hub is running".to_owned());
        return Ok(Exit::Ok);
    };
    let told = tell_to_stop(context).await;
    let serves = HubFile::current(&context.home)?.is_some_and(|now| now.process == file.process);
    // Whoever told it before us: it stops, and that is what counts.
    if serves {
        told?;
    }
    if tokio::time::timeout(STOP_TIMEOUT, process::exited(&file.process)).await.is_err() {
        return Err(Problem::new(Code::TimedOut, "the hub was told to stop and has not ended")
            .seen("pid", file.process.pid)
            .next(format!("kill {}", file.process.pid)));
    }
    let stopped = serde_json::json!({"stopped": true, "pid": file.process.pid});
    context.output.value(&stopped, |_| format!("stopped the hub (pid {})", file.process.pid));
    Ok(Exit::Ok)
}

async fn tell_to_stop(context: &Context) -> Result<(), Problem> {
    let without_start = Context { home: context.home.clone(), autostart: false, output: context.output };
    Client::new(&without_start).await?.post("/v1/hub/stop").await.map(drop)
}

pub(super) async fn token(context: &Context) -> Result<Exit, Problem> {
    let file = reach(&context.home, context.autostart).await?;
    let value = serde_json::json!({"token": file.token, "url": file.url});
    context.output.value(&value, |_| file.token.clone());
    Ok(Exit::Ok)
}
