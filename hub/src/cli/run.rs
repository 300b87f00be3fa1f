//! `linchpin run`.
//!
//! Owns the arguments' way to an instance, and what a person is told when it is registered. The instance's life is the
//! instance crate's. A hub is started beside it unless that is forbidden, because an instance without a hub is of no use
//! to anybody; that it cannot be started is a warning, since the instance works and the next hub finds it.
//! Never: lets the command's own output be mixed with ours: that goes to standard error.

use super::reach::{executable, reach};
use super::{Context, ask, single_threaded};
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
    /// The instance's name; without it, the name of the current directory
    #[arg(long)]
    name: Option<String>,
    /// CMD speaks MCP on its standard input and output
    #[arg(long, conflicts_with = "mcp_url")]
    mcp: bool,
    /// CMD speaks MCP over HTTP at this URL; without CMD, whatever listens there
    #[arg(long, value_name = "URL")]
    mcp_url: Option<String>,
    /// Run in the background, and start again after a crash
    #[arg(long, short)]
    detach: bool,
    #[command(flatten)]
    conflict: OnConflict,
    /// The port that CMD is given in the variable PORT: a number, `any` free one, or `none`; by default a free one, unless
    /// PORT is set or CMD speaks MCP
    #[arg(long, value_name = "PORT", value_parser = port)]
    port: Option<PortChoice>,
    /// The command and its arguments
    #[arg(last = true, value_name = "CMD", required_unless_present = "mcp_url")]
    command: Vec<OsString>,
}

fn port(text: &str) -> Result<PortChoice, String> {
    match text {
        "any" | "0" => Ok(PortChoice::Any),
        "none" => Ok(PortChoice::Nothing),
        number => number.parse().map(PortChoice::Exactly).map_err(|_| "not a port, `any` or `none`".to_owned()),
    }
}

/// What to do when a live instance has the name.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(super) struct OnConflict {
    /// When a live instance has the name: stop it and take its place
    #[arg(long, conflicts_with = "alongside")]
    take_over: bool,
    /// When a live instance has the name: run beside it as NAME-2
    #[arg(long)]
    alongside: bool,
}

impl From<OnConflict> for Conflict {
    fn from(flags: OnConflict) -> Self {
        match (flags.take_over, flags.alongside) {
            (true, _) => Self::TakeOver,
            (false, true) => Self::Alongside,
            (false, false) => Self::Fail,
        }
    }
}

/// What stands in the list of processes for a keeper or an agent: the name, and the person's words.
#[derive(Debug, clap::Args)]
pub(super) struct Inner {
    #[arg(allow_hyphen_values = true, trailing_var_arg = true)]
    _words: Vec<OsString>,
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

/// The process that keeps an agent in the background.
pub(super) fn keeper() -> Result<Exit, Problem> {
    allow_huge_pages();
    log_to_stderr(LevelFilter::INFO);
    single_threaded(async { Ok(keeper::keep().await) })
}

/// The agent under a keeper.
pub(super) fn agent() -> Result<Exit, Problem> {
    allow_huge_pages();
    log_to_stderr(LevelFilter::INFO);
    single_threaded(async { Ok(keeper::serve().await) })
}

fn options(args: Args) -> Result<RunOptions, Problem> {
    let project_dir = std::env::current_dir().map_err(|error| {
        Problem::from_io(&error, Code::BadRequest, "cannot tell the current directory").next("cd to one that exists")
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
    let started = ask::attempt(context, options.conflict, async |conflict| {
        let options = RunOptions { conflict, ..options.clone() };
        keeper::detach(&context.home, relaunch.clone(), options).await
    });
    let Some(started) = started.await? else { return Ok(Exit::Conflict) };
    let value = serde_json::to_value(&started).unwrap_or_default();
    context.output.value(&value, |_| format!("{} runs in the background (pid {})", started.name, started.pid));
    offer(context, &started).await;
    Ok(Exit::Ok)
}

async fn foreground(context: &Context, options: RunOptions) -> Result<Exit, Problem> {
    let ended = ask::attempt(context, options.conflict, async |conflict| {
        attended(context, RunOptions { conflict, ..options.clone() }).await
    });
    let Some(ended) = ended.await? else { return Ok(Exit::Conflict) };
    if let Ended::Stopped(by) = ended {
        context.output.note(&format!("stopped by {by}"));
    }
    Ok(Exit::Ok)
}

/// Runs the instance to its end; the person is told when it is registered.
async fn attended(context: &Context, options: RunOptions) -> Result<Ended, Problem> {
    let (registered, started) = tokio::sync::oneshot::channel();
    let run = agent::run(&context.home, options, |record| {
        // Nobody listens any more only if we are about to end.
        let _ = registered.send(Started::from(record));
    });
    let greet = async {
        if let Ok(started) = started.await {
            context.output.note(&format!("{} is registered (pid {})", started.name, started.pid));
            offer(context, &started).await;
        }
        std::future::pending::<()>().await;
    };
    // A defect in there ends the instance too, and in good order.
    let greet = async {
        let _: Option<()> = panics::unless("greet", greet).await;
        std::future::pending().await
    };
    tokio::select! {
        ended = run => ended,
        never = greet => never,
    }
}

/// Sees to it that there is a hub.
pub(super) async fn offer(context: &Context, started: &Started) {
    if !context.autostart {
        return;
    }
    if let Err(problem) = reach(&context.home, true).await {
        context.output.note(&format!("{} runs, but no hub does: {problem}", started.name));
    }
}

/// Our allocator switches transparent huge pages off for this process, and children inherit that (PR_SET_THP_DISABLE of
/// prctl(2)). What an instance runs shall have what the system gives.
fn allow_huge_pages() {
    // Refused only by kernels that know no such switch.
    let _ = rustix::thread::disable_transparent_huge_pages(false);
}

/// Logs to standard error, which for a keeper and its agent is their log file.
pub(super) fn log_to_stderr(level: LevelFilter) {
    let filter = EnvFilter::builder().with_default_directive(level.into()).with_env_var("LINCHPIN_LOG");
    let logging = tracing_subscriber::fmt().with_ansi(false).with_writer(io::stderr).with_target(false);
    // Refused only where something logs already.
    let _ = logging.with_env_filter(filter.from_env_lossy()).try_init();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports() {
        assert_eq!(port("3000"), Ok(PortChoice::Exactly(3000)));
        assert_eq!(
            (port("any"), port("0"), port("none")),
            (Ok(PortChoice::Any), Ok(PortChoice::Any), Ok(PortChoice::Nothing))
        );
        assert!(port("65536").is_err() && port("").is_err());
    }
}
