//! `linchpin restart` and `linchpin stop`.
//!
//! Owns the spelling `NAME[/PROCESS]`. "Stopped" is said when the instance's process has ended, which it does only when
//! everything it started is gone. Never: signals a process itself; the instance does, and knows its own.

use super::Context;
use super::client::{Client, segment};
use linchpin_shared::problem::{Code, Exit, Problem};
use linchpin_shared::process::{self, Identity};
use std::time::Duration;

#[derive(Debug, clap::Args)]
pub(super) struct Restart {
    /// The instance, or one process of it
    #[arg(value_name = "NAME[/PROCESS]")]
    target: String,
}

#[derive(Debug, clap::Args)]
pub(super) struct Stop {
    /// The instance
    name: String,
    /// How long to wait for its end, in seconds
    #[arg(long, default_value_t = 30)]
    timeout: u64,
}

pub(super) async fn restart(context: &Context, args: Restart) -> Result<Exit, Problem> {
    let (name, process) = match args.target.split_once('/') {
        Some((name, process)) => (name, Some(process)),
        None => (args.target.as_str(), None),
    };
    let query = process.map(|process| format!("?process={}", segment(process))).unwrap_or_default();
    let client = Client::new(context).await?;
    let answer = client.post(&format!("/v1/instances/{}/restart{query}", segment(name))).await?;
    context.output.value(&answer, |_| format!("restarting {}", args.target));
    Ok(Exit::Ok)
}

pub(super) async fn stop(context: &Context, args: Stop) -> Result<Exit, Problem> {
    let client = Client::new(context).await?;
    let path = format!("/v1/instances/{}", segment(&args.name));
    let before = client.get(&path).await?;
    let identity: Identity = serde_json::from_value(before["process"].clone())
        .map_err(|error| Problem::new(Code::Internal, format!("the hub's answer names no process: {error}")))?;
    let answer = client.post(&format!("{path}/stop")).await?;
    if tokio::time::timeout(Duration::from_secs(args.timeout), process::exited(&identity)).await.is_err() {
        return Err(Problem::new(Code::TimedOut, format!("{} has not ended within {} s", args.name, args.timeout))
            .seen("pid", identity.pid)
            .next(format!("linchpin logs {}", args.name))
            .next(format!("kill {}", identity.pid)));
    }
    context.output.value(&answer, |_| format!("stopped {} (pid {})", args.name, identity.pid));
    Ok(Exit::Ok)
}
