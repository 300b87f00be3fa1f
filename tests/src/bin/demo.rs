//! `make demo`: the main feature on real servers, in one agent session that survives three kills.
//!
//! It runs in a lab with a temporary home: a hub, server-everything and server-filesystem as instances, and one agent
//! session through `linchpin mcp`. Then the server, the instance and the hub are killed with SIGKILL, one after
//! another, and the same session calls again each time. Everything that was started ends with the demo, also when it
//! is interrupted.
#![expect(clippy::print_stdout, reason = "a demo prints its steps")]

use anyhow::{Context, Result, ensure};
use linchpin_shared::process::Identity;
use linchpin_tests::agent::{Agent, stdio::Stdio};
use linchpin_tests::kit;
use linchpin_tests::lab::running::kill_9;
use linchpin_tests::lab::{Lab, leftovers};
use serde_json::{Value, json};
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

const NOTE: &str = "One steady address.";

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let lab = Lab::new()?;
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let outcome = tokio::select! {
        outcome = demo(&lab) => outcome.map(|()| ExitCode::SUCCESS),
        _ = interrupt.recv() => interrupted(),
        _ = terminate.recv() => interrupted(),
    };
    let mark = lab.mark().clone();
    drop(lab);
    let left = mark.processes();
    ensure!(left.is_empty(), "left behind:\n{}", leftovers::describe(&left));
    println!("\nEverything that was started has ended, and its home is gone.");
    outcome
}

#[expect(clippy::unnecessary_wraps, reason = "an arm of main's select, beside one that can fail")]
fn interrupted() -> Result<ExitCode> {
    println!("\nInterrupted: ending everything.");
    Ok(ExitCode::from(130))
}

async fn demo(lab: &Lab) -> Result<()> {
    println!("Linchpin demo, in a throw-away home: {}", lab.home().display());
    start(lab).await?;
    let mut session = Session::open(lab).await?;
    session.work().await?;

    let server = number(&lab.usable("everything").await?["processes"][0]["pid"])?;
    session.survives("the MCP server", server).await?;
    let instance = number(&lab.usable("everything").await?["pid"])?;
    session.survives("the instance", instance).await?;
    let hub = lab.hub_facts()?.pid;
    session.survives("the hub", hub).await?;

    println!("\n$ linchpin status\n{}", indented(&lab.verb(["status"]).await?.exits(0)?.stdout));
    println!("\nOne agent session, three deaths, {} calls, none failed.", session.calls);
    session.agent.close().await
}

/// Starts the hub and both instances, and shows them.
async fn start(lab: &Lab) -> Result<()> {
    let began = Instant::now();
    let hub = lab.hub().await?;
    step(&format!("a hub at {} (pid {}), up in {}", lab.hub_facts()?.url, hub.pid(), ms(began.elapsed())));
    let shown = lab.project("notes")?;
    std::fs::write(shown.join("note.txt"), NOTE)?;
    for (name, package, server) in [
        ("everything", "@modelcontextprotocol/server-everything", kit::everything()?),
        ("files", "@modelcontextprotocol/server-filesystem", kit::filesystem(&shown)?),
    ] {
        let began = Instant::now();
        lab.detached(name, &server).await?;
        lab.usable(name).await?;
        step(&format!("{package} as instance \"{name}\", usable in {}", ms(began.elapsed())));
    }
    println!("\n$ linchpin status\n{}", indented(&lab.verb(["status"]).await?.exits(0)?.stdout));
    Ok(())
}

/// The session of one agent, from beginning to end.
struct Session<'lab> {
    lab: &'lab Lab,
    agent: Stdio,
    calls: u32,
}

impl<'lab> Session<'lab> {
    async fn open(lab: &'lab Lab) -> Result<Self> {
        let agent = lab.shim(&[]).await?;
        let shim = agent.pid().context("the shim has ended")?;
        println!();
        step(&format!("an agent's session through `linchpin mcp` (pid {shim})"));
        Ok(Self { lab, agent, calls: 0 })
    }

    async fn call(&mut self, tool: &str, arguments: Value) -> Result<String> {
        let answer = self.agent.call(tool, arguments).await;
        self.calls += 1;
        answer.map_err(|error| anyhow::anyhow!("{error:#}\n{}", self.lab.logs()))
    }

    /// Lists, and calls a tool of each server.
    async fn work(&mut self) -> Result<()> {
        println!("  tools/list: {} tools", self.agent.tools().await?.len());
        self.echo("hello").await?;
        let path = self.lab.dir().join("projects/notes/note.txt");
        let text = self.call("files__read_text_file", json!({"path": path})).await?;
        ensure!(text == NOTE, "the note says {text}");
        println!("  files__read_text_file → {text:?}");
        Ok(())
    }

    async fn echo(&mut self, word: &str) -> Result<()> {
        let text = self.call("everything__echo", json!({"message": word})).await?;
        ensure!(text == format!("Echo: {word}"), "the echo says {text}");
        println!("  everything__echo → {text:?}");
        Ok(())
    }

    /// Kills a process and calls again in the same session.
    async fn survives(&mut self, what: &str, pid: u32) -> Result<()> {
        let shim = Identity::of(self.agent.pid().context("the shim has ended")?)?;
        println!();
        kill_9(pid).await?;
        let killed = Instant::now();
        step(&format!("kill -9 of {what} (pid {pid})"));
        self.echo(&format!("after the death of {what}")).await?;
        let recovered = killed.elapsed();
        ensure!(shim.is_alive(), "the session's own process is another");
        println!("  the same session's next call was answered {} after the kill", ms(recovered));
        Ok(())
    }
}

fn number(value: &Value) -> Result<u32> {
    Ok(u32::try_from(value.as_u64().with_context(|| format!("{value} is no pid"))?)?)
}

fn step(text: &str) {
    println!("• {text}");
}

fn ms(time: Duration) -> String {
    format!("{:.0} ms", time.as_secs_f64() * 1000.0)
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect::<String>().trim_end().to_owned()
}
