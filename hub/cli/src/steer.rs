//! `linchpin restart` and `linchpin stop`.
//!
//! Owns the spelling `NAME[/PROCESS]`. "Stopped" is said when the instance's process has ended and nothing that it started
//! runs: an instance ends in this order by itself, and after one that was killed meanwhile the hub does.
//! Never: signals a process itself; instance and hub do, and know their own.

use super::Context;
use super::client::{Client, segment};
use linchpin_instance::leftovers;
use linchpin_shared::declared::Declared;
use linchpin_shared::problem::{Code, Exit, Problem};
use linchpin_shared::process::{self, Identity};
use serde_json::Value;
use std::time::Duration;
use uuid::Uuid;

/// How often to look whether something that a killed instance left still runs.
const LOOK: Duration = Duration::from_millis(20);

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
    let instance = client.get(&path).await?;
    if instance["state"] == "dormant" {
        let answer = serde_json::json!({"stopping": args.name, "ran": false});
        context.output.value(&answer, |_| format!("{} does not run; {}", args.name, again(&args.name)));
        return Ok(Exit::Ok);
    }
    let life = Life::of(&instance)?;
    let ran = life.agent.is_alive();
    let answer = match client.post(&format!("{path}/stop")).await {
        Ok(answer) => answer,
        // It was told, and ended before the hub had read its answer.
        Err(_) if ran && !life.agent.is_alive() => serde_json::json!({"stopping": args.name}),
        Err(problem) => return Err(problem),
    };
    if tokio::time::timeout(Duration::from_secs(args.timeout), life.gone()).await.is_err() {
        return Err(life.stays(&args));
    }
    let declared = Declared::read(&context.home).is_ok_and(|list| list.servers.contains_key(&args.name));
    let then = if declared { format!("; {}", again(&args.name)) } else { String::new() };
    context.output.value(&answer, |_| format!("stopped {} (pid {}){then}", args.name, life.agent.pid));
    Ok(Exit::Ok)
}

/// What becomes of a declared server that was stopped.
fn again(name: &str) -> String {
    format!("its next use starts it (to prevent that: linchpin import --remove {name})")
}

/// One life of an instance.
#[derive(serde::Deserialize)]
struct Life {
    id: Uuid,
    #[serde(rename = "process")]
    agent: Identity,
}

impl Life {
    fn of(instance: &Value) -> Result<Self, Problem> {
        serde::Deserialize::deserialize(instance)
            .map_err(|error| Problem::new(Code::Internal, format!("the hub's answer names no process: {error}")))
    }

    /// Waits until nothing of it runs.
    async fn gone(&self) {
        process::exited(&self.agent).await;
        while !self.left().is_ok_and(|left| left.is_empty()) {
            tokio::time::sleep(LOOK).await;
        }
    }

    fn left(&self) -> std::io::Result<Vec<Identity>> {
        leftovers::of(self.id, &self.agent)
    }

    fn stays(&self, args: &Stop) -> Problem {
        let Stop { name, timeout } = args;
        let left: Vec<u32> = self.left().unwrap_or_default().iter().map(|process| process.pid).collect();
        let problem = Problem::new(Code::TimedOut, format!("{name} has not ended within {timeout} s"))
            .seen("pid", self.agent.pid)
            .seen("runs", self.agent.is_alive())
            .seen("processes", left)
            .next(format!("linchpin logs {name}"));
        if self.agent.is_alive() {
            problem.next(format!("kill {}    (once more: it then ends everything at once)", self.agent.pid))
        } else {
            problem.next(format!("linchpin status {name}    (the hub ends what a killed instance left)"))
        }
    }
}
