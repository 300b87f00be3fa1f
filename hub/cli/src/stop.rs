//! `linchpin stop NAME` stops an instance, and reports success when nothing of it is running any more.
//!
//! An instance ends its processes before it ends itself. If it was killed meanwhile, the hub ends what it left. This
//! verb signals no process.

use super::Context;
use super::client::{ApiClient, segment};
use linchpin_hub::declared::ServerList;
use linchpin_instance::leftovers;
use linchpin_shared::problem::{Code, Exit, Problem};
use linchpin_shared::process::{self, Identity};
use serde_json::Value;
use std::time::Duration;
use uuid::Uuid;

/// How often to check whether something that a killed instance left is still running.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The name of the instance
    name: String,
    /// How long to wait for its end, in seconds
    #[arg(long, default_value_t = 30)]
    timeout: u64,
}

pub(super) async fn main(context: &Context, args: Args) -> Result<Exit, Problem> {
    let client = ApiClient::new(context).await?;
    let path = format!("/v1/instances/{}", segment(&args.name));
    let instance = client.get(&path).await?;
    if instance["state"] == "dormant" {
        let answer = serde_json::json!({"stopping": args.name, "ran": false});
        context.output.value(&answer, |_| format!("{} is not running; {}", args.name, starts_again(&args.name)));
        return Ok(Exit::Ok);
    }
    let run = InstanceRun::of(&instance)?;
    let ran = run.agent.is_alive();
    let answer = match client.post(&format!("{path}/stop")).await {
        Ok(answer) => answer,
        // It received the request, and ended before the hub had read its answer.
        Err(_) if ran && !run.agent.is_alive() => serde_json::json!({"stopping": args.name}),
        Err(problem) => return Err(problem),
    };
    if tokio::time::timeout(Duration::from_secs(args.timeout), run.ended()).await.is_err() {
        return Err(run.still_running(&args));
    }
    let declared = ServerList::read(&context.home).is_ok_and(|list| list.servers.contains_key(&args.name));
    let then = if declared { format!("; {}", starts_again(&args.name)) } else { String::new() };
    context.output.value(&answer, |_| format!("stopped {} (pid {}){then}", args.name, run.agent.pid));
    Ok(Exit::Ok)
}

/// A declared server starts again after it was stopped.
fn starts_again(name: &str) -> String {
    format!("its next use starts it again (to prevent that: linchpin import --remove {name})")
}

/// One run of an instance.
#[derive(serde::Deserialize)]
struct InstanceRun {
    id: Uuid,
    #[serde(rename = "process")]
    agent: Identity,
}

impl InstanceRun {
    fn of(instance: &Value) -> Result<Self, Problem> {
        serde::Deserialize::deserialize(instance)
            .map_err(|error| Problem::new(Code::Internal, format!("the hub's answer does not name a process: {error}")))
    }

    /// Waits until nothing of it is running.
    async fn ended(&self) {
        process::exited(&self.agent).await;
        while !self.left().is_ok_and(|left| left.is_empty()) {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    fn left(&self) -> std::io::Result<Vec<Identity>> {
        leftovers::of(self.id, &self.agent)
    }

    fn still_running(&self, args: &Args) -> Problem {
        let Args { name, timeout } = args;
        let left: Vec<u32> = self.left().unwrap_or_default().iter().map(|process| process.pid).collect();
        let problem = Problem::new(Code::TimedOut, format!("{name} has not ended within {timeout} s"))
            .seen("pid", self.agent.pid)
            .seen("runs", self.agent.is_alive())
            .seen("processes", left)
            .next(format!("linchpin logs {name}"));
        if self.agent.is_alive() {
            problem.next(format!("kill {}    (a second signal makes it end everything at once)", self.agent.pid))
        } else {
            problem.next(format!("linchpin status {name}    (starts a hub, which ends what a killed instance left)"))
        }
    }
}
