//! `linchpin register` registers a program that is already running.
//!
//! The instance crate checks the program and keeps it registered. This verb runs for as long as the registration lasts,
//! because it holds the lease for the program. It never starts, supervises or stops the program.

use super::run::{ConflictArgs, ensure_hub_runs, log_to_stderr};
use super::{Context, prompt, single_threaded};
use linchpin_instance::Conflict;
use linchpin_instance::external::{self, ExternalProgram, Unregistered};
use linchpin_instance::keeper::Started;
use linchpin_shared::problem::{Code, Exit, Problem};
use tracing::level_filters::LevelFilter;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The name of the instance
    #[arg(long)]
    name: String,
    /// The process that serves; it stays registered until this process ends
    #[arg(long)]
    pid: u32,
    /// Where it listens: http://127.0.0.1:PORT
    #[arg(long)]
    url: String,
    /// Where it speaks MCP over Streamable HTTP: a path such as /mcp, or a whole URL
    #[arg(long)]
    mcp_url: Option<String>,
    /// A label for the instance; can be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_label)]
    label: Vec<(String, String)>,
    #[command(flatten)]
    conflict: ConflictArgs,
}

fn parse_label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').filter(|(key, _)| !key.is_empty()).ok_or("not KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

pub(super) fn main(context: &Context, args: Args) -> Result<Exit, Problem> {
    log_to_stderr(LevelFilter::WARN);
    single_threaded(register(context, args))
}

async fn register(context: &Context, args: Args) -> Result<Exit, Problem> {
    let project_dir = std::env::current_dir().map_err(|error| {
        Problem::from_io(&error, Code::BadRequest, "cannot determine the current directory")
            .next("change to a directory that exists")
    })?;
    let Args { name, pid, url, mcp_url, label, conflict } = args;
    let program = ExternalProgram { name, pid, url, mcp_url, project_dir, labels: label.into_iter().collect() };
    let ended = prompt::attempt_with_prompt(context, conflict.into(), async |conflict| {
        stay_registered(context, program.clone(), conflict).await
    });
    let Some((name, ended)) = ended.await? else { return Ok(Exit::Conflict) };
    context.output.note(&match ended {
        Unregistered::ProcessEnded => format!("{name} is no longer registered, because its process {pid} has ended"),
        Unregistered::Stopped(by) => format!("{name} is no longer registered: stopped by {by}"),
    });
    Ok(Exit::Ok)
}

/// Keeps the program registered until it ends, and tells the person when it is registered. Also returns the name, which
/// may differ from the one that was asked for.
async fn stay_registered(
    context: &Context,
    program: ExternalProgram,
    conflict: Conflict,
) -> Result<(String, Unregistered), Problem> {
    let mut name = program.name.clone();
    let (registered, started) = tokio::sync::oneshot::channel();
    let lasting = external::register(&context.home, program, conflict, |record| {
        name.clone_from(&record.name);
        // The receiver is dropped only when this process is about to end.
        let _ = registered.send(Started::from(record));
    });
    let greet = async {
        if let Ok(started) = started.await {
            let value = serde_json::to_value(&started).unwrap_or_default();
            context.output.value(&value, |_| format!("{} is registered (pid {})", started.name, started.pid));
            ensure_hub_runs(context, &started).await;
        }
        std::future::pending().await
    };
    let ended = tokio::select! {
        ended = lasting => ended?,
        never = greet => never,
    };
    Ok((name, ended))
}

#[cfg(test)]
mod tests {
    #[test]
    fn labels() {
        assert_eq!(super::parse_label("tier=a=b"), Ok(("tier".to_owned(), "a=b".to_owned())));
        assert!(super::parse_label("tier").is_err() && super::parse_label("=x").is_err());
    }
}
