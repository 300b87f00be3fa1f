//! Processes that are stopped and continued (SIGSTOP, SIGCONT), and a port that another program gets.
//!
//! A stopped process is not dead: nothing is restarted, nothing is marked gone, and no caller waits without a limit.

use anyhow::{Context, Result, ensure};
use linchpin_shared::process::{Identity, Signal};
use linchpin_tests::agent::Agent;
use linchpin_tests::kit;
use linchpin_tests::lab::Lab;
use linchpin_tests::lab::ledger::Load;
use linchpin_tests::lab::running::{gone, kill_9};
use linchpin_tests::lab::witness::Witness;
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

async fn several(lab: &Lab, names: &[&str]) -> Result<Vec<Witness>> {
    let mut witnesses = Vec::new();
    for name in names {
        lab.detached(name, &kit::echo(name)?).await?;
    }
    for name in names {
        witnesses.push(Witness::of(lab, name).await?);
    }
    Ok(witnesses)
}

fn send(pid: u32, signal: Signal) -> Result<()> {
    ensure!(Identity::of(pid)?.signal(signal)?, "{pid} is gone");
    Ok(())
}

fn counted(word: &str, ledger: &Path) -> Value {
    json!({"name": "shop__echo-shop", "arguments": {"message": word, "ledger": ledger}})
}

fn executions(ledger: &Path, word: &str) -> usize {
    std::fs::read_to_string(ledger).unwrap_or_default().lines().filter(|line| *line == word).count()
}

/// Fault 6: a hub that is stopped for some seconds answers when it continues. No link is lost, and no agent notices.
#[tokio::test]
async fn hub_stopped_for_seconds_is_waited_for() -> Result<()> {
    let lab = Lab::new()?;
    let hub = lab.hub().await?;
    let witnesses = several(&lab, &["shop", "second", "third", "fourth"]).await?;
    let (mut agent, ledger) = (lab.shim(&[]).await?, lab.dir().join("ledger"));
    hub.signal(Signal::STOP)?;
    let id = agent.send("tools/call", counted("patience", &ledger)).await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    hub.signal(Signal::CONT)?;
    let answer = agent.answer(id).await?.result()?;
    ensure!(answer["content"][0]["text"] == "patience" && executions(&ledger, "patience") == 1, "{answer}");
    for witness in witnesses {
        witness.untouched(&lab).await?;
    }
    agent.close().await?;
    lab.finish().await
}

/// Fault 6: a hub that stays stopped does not answer. The shim reports it in time, and continues with the same hub.
#[tokio::test]
async fn call_to_a_stopped_hub_fails_and_the_session_goes_on() -> Result<()> {
    let lab = Lab::new()?;
    let hub = lab.hub().await?;
    let witnesses = several(&lab, &["shop", "other"]).await?;
    let (mut agent, ledger) = (lab.shim(&[]).await?, lab.dir().join("ledger"));
    hub.signal(Signal::STOP)?;
    let call = agent.send("tools/call", counted("lost", &ledger)).await?;
    let list = agent.send("tools/list", json!({})).await?;
    for (id, code) in [(call, "call_interrupted"), (list, "hub_unreachable")] {
        let error = agent.answer(id).await?.error()?;
        ensure!(error["data"]["code"] == code && error["data"]["observed"]["pid"] == hub.pid(), "{error}");
        ensure!(error["data"]["next_steps"].to_string().contains("kill -CONT"), "{error}");
    }
    hub.signal(Signal::CONT)?;
    let next = agent.request("tools/call", counted("next", &ledger)).await?.result()?;
    ensure!(next["content"][0]["text"] == "next", "{next}");
    ensure!(executions(&ledger, "lost") <= 1 && executions(&ledger, "next") == 1, "executed twice");
    ensure!(lab.hub_facts()?.pid == hub.pid(), "a second hub was started beside a running one");
    for witness in witnesses {
        witness.untouched(&lab).await?;
    }
    agent.close().await?;
    lab.finish().await
}

/// Fault 5: an instance that is stopped is unresponsive, not dead.
#[tokio::test]
async fn stopped_instance_is_unresponsive_and_comes_back_unchanged() -> Result<()> {
    let lab = Lab::new()?.with("LINCHPIN_GATEWAY_WAIT_MS", "1000");
    let _hub = lab.hub().await?;
    let witnesses = several(&lab, &["shop", "other"]).await?;
    let others = Load::start(&lab, "other__echo-other", 1).await?;
    let mut agent = lab.http("/mcp").await?;
    let shop = &witnesses[0];
    send(shop.pid()?, Signal::STOP)?;
    lab.shows("shop", "it is unresponsive", |instance| instance["state"] == "unresponsive").await?;
    let error = agent.request("tools/call", counted("refused", &lab.dir().join("ledger"))).await?.error()?;
    ensure!(error["data"]["code"].as_str().is_some_and(|code| code.ends_with("_unavailable")), "{error}");
    others.continues(&lab, 20).await?;
    send(shop.pid()?, Signal::CONT)?;
    shop.untouched(&lab).await.context("its connection is kept")?;
    let next = agent.request("tools/call", counted("next", &lab.dir().join("ledger"))).await?.result()?;
    ensure!(next["content"][0]["text"] == "next" && executions(&lab.dir().join("ledger"), "refused") == 0, "{next}");
    let others = others.finish().await?;
    ensure!(others.interrupted + others.refused == 0, "{others:?}");
    witnesses[1].untouched(&lab).await?;
    agent.close().await?;
    lab.finish().await
}

/// Fault 51: everything is stopped, as in a paused virtual machine, and continues in any order.
#[tokio::test]
async fn pause_of_all_processes_loses_nothing() -> Result<()> {
    let lab = Lab::new()?;
    let hub = lab.hub().await?;
    let witnesses = several(&lab, &["shop", "second", "third", "fourth"]).await?;
    let load = Load::start(&lab, "shop__echo-shop", 2).await?;
    load.continues(&lab, 20).await?;
    let all = lab.mark().processes();
    for process in &all {
        process.signal(Signal::STOP)?;
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    // The hub continues first, and for a moment none of its instances answers.
    hub.signal(Signal::CONT)?;
    tokio::time::sleep(Duration::from_millis(200)).await;
    for process in &all {
        process.signal(Signal::CONT)?;
    }
    load.continues(&lab, 20).await?;
    let load = load.finish().await?;
    ensure!(load.interrupted + load.refused == 0, "{load:?}");
    for witness in witnesses {
        witness.untouched(&lab).await.with_context(|| lab.logs())?;
    }
    lab.finish().await
}

/// Checks that these bytes of HTTP/2 are one request at most, with the body of a hello.
fn only_a_hello(told: &[u8]) -> Result<()> {
    const PREFACE: usize = 24;
    let (mut rest, mut requests, mut body) = (told.get(PREFACE..).unwrap_or_default(), 0, Vec::new());
    // Length, kind, flags and stream id have nine bytes (RFC 9113, 4.1). A body is DATA, and a request begins with
    // HEADERS.
    while let Some((head, after)) = rest.split_at_checked(9) {
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let (payload, next) = after.split_at_checked(length).unwrap_or((after, &[]));
        match head[3] {
            0 => body.extend_from_slice(payload),
            1 => requests += 1,
            _ => {}
        }
        rest = next;
    }
    ensure!(requests <= 1, "{requests} requests");
    if !body.is_empty() {
        let hello: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&body)?;
        ensure!(hello.keys().eq(["format", "nonce", "version"]), "{hello:?}");
    }
    Ok(())
}

/// Faults 1 and 14: an instance is killed for good and another program gets its port. It may get a hello that was in
/// flight, which only the instance could answer. The next agent of the instance is reached at its own address.
#[tokio::test]
async fn stranger_on_the_port_of_a_dead_instance_learns_nothing() -> Result<()> {
    let lab = Lab::new()?;
    let _hub = lab.hub().await?;
    let witnesses = several(&lab, &["shop", "other"]).await?;
    let [shop, other] = &witnesses[..] else { unreachable!() };
    let of_shop = |process: &Identity| {
        let line = linchpin_shared::process::command_line(process.pid).unwrap_or_default();
        line.ends_with("shop")
    };
    let victims: Vec<Identity> = lab.mark().processes().into_iter().filter(of_shop).collect();
    // Stopped first, so that neither agent nor keeper can start the other again.
    for victim in &victims {
        victim.signal(Signal::STOP)?;
    }
    for victim in victims {
        // The server may have ended with its agent.
        let _ = kill_9(victim.pid).await;
        gone(&victim, Duration::from_secs(5)).await?;
    }
    let stranger = lab.wait_for("the port is free", async || Ok(TcpListener::bind(("127.0.0.1", shop.port)).await?));
    let stranger = stranger.await?;
    lab.shows("shop", "it is gone", |instance| instance["state"] == "gone").await?;
    lab.detached("shop", &kit::echo("shop")?).await?;
    let next = Witness::of(&lab, "shop").await?;
    ensure!(next.port != shop.port && next.pid()? != shop.pid()?, "{next:?}");
    if let Ok(Ok((mut stream, _))) = tokio::time::timeout(Duration::from_millis(100), stranger.accept()).await {
        let mut told = Vec::new();
        let _ = tokio::time::timeout(Duration::from_millis(500), stream.read_to_end(&mut told)).await;
        only_a_hello(&told).with_context(|| format!("the stranger received {:?}", String::from_utf8_lossy(&told)))?;
    }
    other.untouched(&lab).await?;
    lab.finish().await
}
