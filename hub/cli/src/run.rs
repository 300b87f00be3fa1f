//! `linchpin run` runs a command as an instance.
//!
//! The instance crate does the work. This file has the arguments, and the messages for the person. A hub is started beside
//! the instance unless `--no-autostart` is given, because an instance is of little use without one; if that fails it is
//! only a warning, since the next hub finds the instance. Our own messages go to standard error, so that they are never
//! mixed with the output of the command.

use super::reach::{executable, reach_hub};
use super::{Context, prompt, single_threaded};
use linchpin_instance::Conflict;
use linchpin_instance::agent::{self, Ended, Kind, LaunchOptions, PortChoice, RunOptions};
use linchpin_instance::keeper::{self, Relaunch, Started};
use linchpin_shared::panics;
use linchpin_shared::problem::{Code, Exit, Problem};
use std::ffi::OsString;
use std::io;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The name of the instance; the default is the name of the current directory
    #[arg(long)]
    name: Option<String>,
    /// CMD speaks MCP on its standard input and output
    #[arg(long, conflicts_with = "mcp_url")]
    mcp: bool,
    /// CMD speaks MCP over HTTP at this URL; without CMD, a server that is already listening there
    #[arg(long, value_name = "URL")]
    mcp_url: Option<String>,
    /// Run in the background, and restart after a crash
    #[arg(long, short)]
    detach: bool,
    #[command(flatten)]
    conflict: ConflictArgs,
    /// The port that CMD gets in the variable PORT: a number, `any` for a free one, or `none`; the default is a free
    /// one, unless PORT is set or CMD speaks MCP
    #[arg(long, value_name = "PORT", value_parser = parse_port)]
    port: Option<PortChoice>,
    /// The command and its arguments
    #[arg(last = true, value_name = "CMD", required_unless_present = "mcp_url")]
    command: Vec<OsString>,
}

fn parse_port(text: &str) -> Result<PortChoice, String> {
    match text {
        "any" | "0" => Ok(PortChoice::Any),
        "none" => Ok(PortChoice::Nothing),
        number => {
            number.parse().map(PortChoice::Exactly).map_err(|_| "expected a port number, `any` or `none`".to_owned())
        }
    }
}

/// What to do if a live instance has the name.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(super) struct ConflictArgs {
    /// If a live instance has the name, stop it and take its place
    #[arg(long, conflicts_with = "alongside")]
    take_over: bool,
    /// If a live instance has the name, run beside it as NAME-2
    #[arg(long)]
    alongside: bool,
}

impl From<ConflictArgs> for Conflict {
    fn from(flags: ConflictArgs) -> Self {
        match (flags.take_over, flags.alongside) {
            (true, _) => Self::TakeOver,
            (false, true) => Self::Alongside,
            (false, false) => Self::Fail,
        }
    }
}

/// What the process list shows for a keeper or an agent: the name, and the arguments that the person gave.
#[derive(Debug, clap::Args)]
pub(super) struct InternalArgs {
    #[arg(allow_hyphen_values = true, trailing_var_arg = true)]
    _arguments: Vec<OsString>,
}

pub(super) fn main(context: &Context, args: Args) -> Result<Exit, Problem> {
    let detach = args.detach;
    allow_huge_pages();
    let options = options(args)?;
    if detach {
        return single_threaded(detached(context, options));
    }
    log_to_stderr(LevelFilter::WARN);
    single_threaded(foreground(context, options))
}

/// Runs the process that keeps a background agent running.
pub(super) fn keeper() -> Result<Exit, Problem> {
    allow_huge_pages();
    log_to_stderr(LevelFilter::INFO);
    single_threaded(async { Ok(keeper::keep().await) })
}

/// Runs the agent that a keeper started.
pub(super) fn agent() -> Result<Exit, Problem> {
    allow_huge_pages();
    log_to_stderr(LevelFilter::INFO);
    single_threaded(async { Ok(keeper::serve().await) })
}

fn options(args: Args) -> Result<RunOptions, Problem> {
    let project_dir = std::env::current_dir().map_err(|error| {
        Problem::from_io(&error, Code::BadRequest, "cannot determine the current directory")
            .next("change to a directory that exists")
    })?;
    Ok(RunOptions {
        name: args.name,
        project_dir,
        command: args.command,
        kind: match args.mcp_url {
            Some(url) => Kind::McpUrl(url),
            None if args.mcp => Kind::McpStdio,
            None => Kind::Plain,
        },
        conflict: args.conflict.into(),
        port: args.port.unwrap_or_default(),
        pass_through: true,
        launch: LaunchOptions::default(),
    })
}

async fn detached(context: &Context, options: RunOptions) -> Result<Exit, Problem> {
    let relaunch = Relaunch {
        executable: executable(),
        keeper: vec![OsString::from("keeper")],
        agent: vec![OsString::from("agent")],
        typed: std::env::args_os().skip(1).collect(),
    };
    let started = prompt::attempt_with_prompt(context, options.conflict, async |conflict| {
        let options = RunOptions { conflict, ..options.clone() };
        keeper::detach(&context.home, relaunch.clone(), options).await
    });
    let Some(started) = started.await? else { return Ok(Exit::Conflict) };
    let value = serde_json::to_value(&started).unwrap_or_default();
    context.output.value(&value, |_| format!("{} runs in the background (pid {})", started.name, started.pid));
    ensure_hub_runs(context, &started).await;
    Ok(Exit::Ok)
}

async fn foreground(context: &Context, options: RunOptions) -> Result<Exit, Problem> {
    let ended = prompt::attempt_with_prompt(context, options.conflict, async |conflict| {
        run_to_end(context, RunOptions { conflict, ..options.clone() }).await
    });
    let Some(ended) = ended.await? else { return Ok(Exit::Conflict) };
    if let Ended::Stopped(by) = ended {
        context.output.note(&format!("stopped by {by}"));
    }
    Ok(Exit::Ok)
}

/// Runs the instance to its end, and tells the person when it is registered.
async fn run_to_end(context: &Context, options: RunOptions) -> Result<Ended, Problem> {
    let (registered, started) = tokio::sync::oneshot::channel();
    let run = agent::run(&context.home, options, |record| {
        // The receiver is dropped only when this process is about to end.
        let _ = registered.send(Started::from(record));
    });
    let greet = async {
        if let Ok(started) = started.await {
            context.output.note(&format!("{} is registered (pid {})", started.name, started.pid));
            ensure_hub_runs(context, &started).await;
        }
        std::future::pending::<()>().await;
    };
    // A panic there ends the instance too, in good order.
    let greet = async {
        let _: Option<()> = panics::unless("greet", greet).await;
        std::future::pending().await
    };
    tokio::select! {
        ended = run => ended,
        never = greet => never,
    }
}

/// Starts a hub if none is running, unless `--no-autostart` was given.
pub(super) async fn ensure_hub_runs(context: &Context, started: &Started) {
    if !context.autostart {
        return;
    }
    if let Err(problem) = reach_hub(&context.home, true).await {
        context.output.note(&format!("{} is running, but no hub is: {problem}", started.name));
    }
}

/// Our allocator disables transparent huge pages for this process, and children inherit that (PR_SET_THP_DISABLE,
/// prctl(2)). What an instance runs gets the default of the system.
fn allow_huge_pages() {
    // Only a kernel without this switch refuses it.
    let _ = rustix::thread::disable_transparent_huge_pages(false);
}

/// Logs to standard error. For a keeper and its agent that is their log file.
pub(super) fn log_to_stderr(level: LevelFilter) {
    let filter = EnvFilter::builder().with_default_directive(level.into()).with_env_var("LINCHPIN_LOG");
    let logging = tracing_subscriber::fmt().with_ansi(false).with_writer(io::stderr).with_target(false);
    // It fails only if a subscriber is installed already.
    let _ = logging.with_env_filter(filter.from_env_lossy()).try_init();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports() {
        assert_eq!(parse_port("3000"), Ok(PortChoice::Exactly(3000)));
        assert_eq!(
            (parse_port("any"), parse_port("0"), parse_port("none")),
            (Ok(PortChoice::Any), Ok(PortChoice::Any), Ok(PortChoice::Nothing))
        );
        assert!(parse_port("65536").is_err() && parse_port("").is_err());
    }
}
