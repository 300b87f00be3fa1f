//! `linchpin register`.
//!
//! Owns the arguments' way to an external program's place in the registry, and what a person is told. The checks and the
//! registration's life are the instance crate's. The verb goes on running: it holds the lease on the program's behalf.
//! Never: starts, watches over or stops the program. Whoever started it does that.

use super::run::{OnConflict, log_to_stderr, offer};
use super::{Context, ask, single_threaded};
use linchpin_instance::Conflict;
use linchpin_instance::external::{self, ExternalProgram, Unregistered};
use linchpin_instance::keeper::Started;
use linchpin_shared::problem::{Code, Exit, Problem};
use tracing::level_filters::LevelFilter;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The instance's name
    #[arg(long)]
    name: String,
    /// The process that serves; it is registered until this process ends
    #[arg(long)]
    pid: u32,
    /// Where it listens: http://127.0.0.1:PORT
    #[arg(long)]
    url: String,
    /// Where it speaks MCP over Streamable HTTP: /mcp, or the whole address
    #[arg(long)]
    mcp_url: Option<String>,
    /// Something else to be known of it; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = label)]
    label: Vec<(String, String)>,
    #[command(flatten)]
    conflict: OnConflict,
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').filter(|(key, _)| !key.is_empty()).ok_or("not KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

pub(super) fn main(context: &Context, args: Args) -> Result<Exit, Problem> {
    log_to_stderr(LevelFilter::WARN);
    single_threaded(registered(context, args))
}

async fn registered(context: &Context, args: Args) -> Result<Exit, Problem> {
    let project_dir = std::env::current_dir().map_err(|error| {
        Problem::from_io(&error, Code::BadRequest, "cannot tell the current directory").next("cd to one that exists")
    })?;
    let Args { name, pid, url, mcp_url, label, conflict } = args;
    let program = ExternalProgram { name, pid, url, mcp_url, project_dir, labels: label.into_iter().collect() };
    let ended = ask::attempt(context, conflict.into(), async |conflict| stay(context, program.clone(), conflict).await);
    let Some((name, ended)) = ended.await? else { return Ok(Exit::Conflict) };
    context.output.note(&match ended {
        Unregistered::ProcessEnded => format!("{name} is unregistered: its process {pid} has ended"),
        Unregistered::Stopped(by) => format!("{name} is unregistered: stopped by {by}"),
    });
    Ok(Exit::Ok)
}

/// Keeps the program registered to its end; the person is told when it is. Also returns the name, which may be another
/// than was asked for.
async fn stay(
    context: &Context,
    program: ExternalProgram,
    conflict: Conflict,
) -> Result<(String, Unregistered), Problem> {
    let mut name = program.name.clone();
    let (registered, started) = tokio::sync::oneshot::channel();
    let stay = external::register(&context.home, program, conflict, |record| {
        name.clone_from(&record.name);
        // Nobody listens any more only if we are about to end.
        let _ = registered.send(Started::from(record));
    });
    let greet = async {
        if let Ok(started) = started.await {
            let value = serde_json::to_value(&started).unwrap_or_default();
            context.output.value(&value, |_| format!("{} is registered (pid {})", started.name, started.pid));
            offer(context, &started).await;
        }
        std::future::pending().await
    };
    let ended = tokio::select! {
        ended = stay => ended?,
        never = greet => never,
    };
    Ok((name, ended))
}

#[cfg(test)]
mod tests {
    #[test]
    fn labels() {
        assert_eq!(super::label("tier=a=b"), Ok(("tier".to_owned(), "a=b".to_owned())));
        assert!(super::label("tier").is_err() && super::label("=x").is_err());
    }
}
