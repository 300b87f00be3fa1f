//! `linchpin hub`, `linchpin hub stop` and `linchpin token`.
//!
//! The hub runs in the foreground, or in the background if [`super::reach`] started it. A second start reports the
//! running hub and succeeds, unless a port was asked for that the running hub does not have. `hub stop` reports success
//! only when the process has ended.

use super::client::ApiClient;
use super::output::Output;
use super::reach::{StartReport, executable, reach_hub};
use super::{Context, single_threaded};
use linchpin_hub::HubOptions;
use linchpin_shared::hub_file::HubFile;
use linchpin_shared::problem::{Code, Exit, Problem};
use linchpin_shared::process;
use std::io::Write;
use std::time::Duration;

/// How long a hub may take to finish its requests and end.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Option<Action>,
    /// Listen on this port or fail; by default the hub takes its last port, else 7777, else the next free one
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// Another verb starts the hub
    #[arg(long, hide = true)]
    background: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Stop the hub; the instances continue to run
    Stop,
}

pub(super) fn main(context: &Context, args: &Args) -> Result<Exit, Problem> {
    if let Some(Action::Stop) = args.action {
        return single_threaded(stop(context));
    }
    let start = HubOptions {
        home: context.home.clone(),
        port: args.port,
        foreground: !args.background,
        executable: executable(),
    };
    let result = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("hub")
        .build()
        .map_err(|error| Problem::from_io(&error, Code::Internal, "cannot start the async runtime"))?
        .block_on(async {
            if args.background {
                detach();
            }
            let output = context.output;
            let background = args.background;
            linchpin_hub::run(
                start,
                move |file| if background { report(&StartReport::Ready) } else { announce(output, file) },
            )
            .await
        });
    match result {
        Ok(()) => Ok(Exit::Ok),
        Err(problem) if args.background => {
            report(&StartReport::Failed(problem.clone()));
            Ok(problem.exit())
        }
        Err(problem) => already_running(context, args.port, problem),
    }
}

/// A running hub is what the user wanted, unless its port differs from the one that was asked for.
fn already_running(context: &Context, port: Option<u16>, problem: Problem) -> Result<Exit, Problem> {
    let running = HubFile::current(&context.home)?;
    match running {
        Some(file) if problem.code == Code::HubRunning && port.is_none_or(|port| port == file.port) => {
            let text = format!("a hub is already running: {} (pid {})", file.url, file.process.pid);
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

/// Leaves the session of the starter, so that its terminal and its end do not affect the hub.
fn detach() {
    // It fails only for the leader of a process group, which has no session to leave.
    let _ = rustix::process::setsid();
}

/// Writes one line to the process that started the hub, and closes the pipe.
fn report(report: &StartReport) {
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
    let request = request_stop(context).await;
    let serves = HubFile::current(&context.home)?.is_some_and(|now| now.process == file.process);
    // If it does not serve any more, something else told it to stop before, and it is stopping.
    if serves {
        request?;
    }
    if tokio::time::timeout(STOP_TIMEOUT, process::exited(&file.process)).await.is_err() {
        return Err(Problem::new(Code::TimedOut, "the hub was told to stop, but it has not ended")
            .seen("pid", file.process.pid)
            .next(format!("kill {}", file.process.pid)));
    }
    let stopped = serde_json::json!({"stopped": true, "pid": file.process.pid});
    context.output.value(&stopped, |_| format!("stopped the hub (pid {})", file.process.pid));
    Ok(Exit::Ok)
}

async fn request_stop(context: &Context) -> Result<(), Problem> {
    let without_start = Context { home: context.home.clone(), autostart: false, output: context.output };
    ApiClient::new(&without_start).await?.post("/v1/hub/stop").await.map(drop)
}

pub(super) async fn token(context: &Context) -> Result<Exit, Problem> {
    let file = reach_hub(&context.home, context.autostart).await?;
    let value = serde_json::json!({"token": file.token, "url": file.url});
    context.output.value(&value, |_| file.token.clone());
    Ok(Exit::Ok)
}
