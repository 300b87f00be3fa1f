//! The journal: sessions over a kill of the hub, and what happens to its file.

use crate::agent::Agent;
use crate::space::Lack;
use crate::within::{Changes, mount_tmpfs, within};
use crate::world::{World, until};
use anyhow::{Context, Result, ensure};
use linchpin_shared::process::{Identity, Signal};
use rusqlite::Connection;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Duration;

pub(crate) const URI: &str = "fix://tool/1";

/// A world whose agents need no token, with a server.
fn world() -> Result<World> {
    let mut world = World::with("LINCHPIN_HUB_TOKEN_REQUIRED", "false")?;
    world.serve("tool")?;
    Ok(world)
}

fn url(world: &World) -> Result<String> {
    Ok(format!("{}/mcp", world.file()?["url"].as_str().context("no url")?))
}

fn journal(world: &World) -> PathBuf {
    world.home().join("journal.db")
}

/// Level and subscriptions of the only session in the journal, and whether its list of tools is known.
fn kept(world: &World) -> Result<(Option<String>, String, bool)> {
    let connection = Connection::open(journal(world))?;
    let query = "SELECT level, subscriptions, tools IS NOT NULL FROM sessions WHERE level IS NOT NULL";
    Ok(connection.query_row(query, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?)
}

pub(crate) fn is_kept(world: &World, level: &str) -> Result<()> {
    until("the journal has the session", || {
        let kept = kept(world)?;
        ensure!(kept.0.as_deref() == Some(level) && kept.1.contains(URI) && kept.2, "{kept:?}");
        Ok(())
    })
}

async fn asked(agent: &Agent, method: &str, params: Value) -> Result<()> {
    agent.request(json!(method), method, params).await?.result().map(drop)
}

async fn begun(world: &World) -> Result<Agent> {
    let agent = Agent::begin(url(world)?).await?;
    agent.list("tools").await?;
    agent.list("resources").await?;
    agent.list("prompts").await?;
    asked(&agent, "logging/setLevel", json!({"level": "error"})).await?;
    asked(&agent, "resources/subscribe", json!({"uri": URI})).await?;
    Ok(agent)
}

/// The same session has its subscription, its level and its lists.
async fn goes_on(world: &World, agent: &Agent) -> Result<()> {
    until("the hub runs for a while", || {
        let status = world.json(&["status"])?;
        ensure!(status["hub"]["uptime_seconds"].as_f64() >= Some(1.0), "{status:#}");
        Ok(())
    })?;
    let agent = agent.elsewhere(url(world)?);
    let mut stream = agent.listen().await?;
    // Somebody else wants to see everything, so the server sends it.
    let other = Agent::begin(url(world)?).await?;
    asked(&other, "logging/setLevel", json!({"level": "debug"})).await?;
    let deadline = tokio::time::Instant::now() + crate::world::PATIENCE;
    loop {
        let facts = other.call("tool__facts", json!({})).await?;
        if facts.text()?.contains(r#""debug"]"#) {
            break;
        }
        ensure!(tokio::time::Instant::now() < deadline, "the server is not asked for everything: {facts:?}");
    }
    agent.call("tool__touch", json!({"uri": URI})).await?.text()?;
    let first = stream.next().await?.context("it ended")?;
    ensure!(first["method"] == "notifications/resources/updated", "first came {first}");
    other.call("tool__log", json!({"tag": "x"})).await?.text()?;
    let first = stream.wait_for_method("notifications/message").await?;
    ensure!(first["params"]["level"] == "error", "{first}");
    Ok(())
}

/// Fault 2.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_outlives_a_kill_of_the_hub_with_all_it_had() -> Result<()> {
    let world = world()?;
    let agent = begun(&world).await?;
    is_kept(&world, "error")?;
    world.kill_hub()?;
    goes_on(&world, &agent).await?;
    ensure!(agent.elsewhere(url(&world)?).end().await? == 204, "it cannot be ended");
    until("the journal has it no more", || {
        ensure!(kept(&world)?.0.as_deref() == Some("debug"), "{:?}", kept(&world));
        Ok(())
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_is_stopped_leaves_its_journal_as_one_file_and_the_next_one_goes_on() -> Result<()> {
    let world = world()?;
    let agent = begun(&world).await?;
    is_kept(&world, "error")?;
    ensure!(world.home().join("journal.db-wal").exists(), "nothing was to be closed");
    world.json(&["hub", "stop"])?;
    for beside in ["journal.db-wal", "journal.db-shm"] {
        ensure!(!world.home().join(beside).exists(), "{beside} is still there");
    }
    goes_on(&world, &agent).await
}

/// What status and doctor say of the journal.
fn told(world: &World) -> Result<(Vec<Value>, Vec<Value>)> {
    let of_journal = |list: &Value, name: &str| {
        let all = list.as_array().cloned().unwrap_or_default();
        all.into_iter().filter(|one| one.to_string().contains(name)).collect::<Vec<_>>()
    };
    let status = world.json(&["status"])?;
    let (_, doctor) = world.begin(&["--json", "doctor"])?.end()?;
    Ok((of_journal(&status["hub"]["problems"], "journal"), of_journal(&doctor["checks"], "kept_as")))
}

/// Fault 30.
#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_is_damaged_is_kept_and_told_of_and_the_hub_goes_on() -> Result<()> {
    let world = world()?;
    let agent = begun(&world).await?;
    is_kept(&world, "error")?;
    world.kill_hub()?;
    std::fs::write(journal(&world), "no database at all".repeat(1000))?;
    let _ = std::fs::remove_file(world.home().join("journal.db-wal"));
    until("it is told", || {
        let told = told(&world)?;
        ensure!(told.0.len() == 1 && told.1.len() == 1, "{told:?}");
        Ok(())
    })?;
    let log = std::fs::read_to_string(world.home().join("logs/hub-error.log"))?;
    ensure!(log.contains("put aside"), "{log}");
    // The session goes on, as its id says whose it is, and is kept again.
    let agent = agent.elsewhere(url(&world)?);
    ensure!(!agent.list("tools").await?.is_empty(), "no tools");
    asked(&agent, "logging/setLevel", json!({"level": "alert"})).await?;
    asked(&agent, "resources/subscribe", json!({"uri": URI})).await?;
    is_kept(&world, "alert")
}

/// Fault 26.
#[test]
fn a_journal_without_room_costs_nobody_a_call_and_has_everything_again_when_there_is() -> Result<()> {
    within(Changes::Mounts, "journal::inner_no_room")
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by the test before it, where it can mount a small disk"]
async fn inner_no_room() -> Result<()> {
    let mut world = World::with("LINCHPIN_HUB_TOKEN_REQUIRED", "false")?;
    mount_tmpfs(&world.home(), "size=16m")?;
    world.serve("tool")?;
    let agent = begun(&world).await?;
    is_kept(&world, "error")?;
    Lack::Bytes.fill(&world.home())?;
    let mut told = false;
    for number in 0..500 {
        asked(&agent, "resources/subscribe", json!({"uri": format!("fix://tool/{number}")})).await.ok();
        asked(&agent, "logging/setLevel", json!({"level": "alert"})).await?;
        ensure!(agent.call("tool__echo", json!({"text": number})).await?.text()? == format!("tool: {number}"), "lost");
        told = told || world.json(&["status"])?["hub"]["problems"].to_string().contains("no_space");
        if told {
            break;
        }
    }
    ensure!(told, "nobody was told that the journal is not written");
    asked(&agent, "logging/setLevel", json!({"level": "critical"})).await?;
    Lack::empty(&world.home())?;
    is_kept(&world, "critical")?;
    until("it is told no more", || {
        let problems = world.json(&["status"])?["hub"]["problems"].clone();
        ensure!(problems == json!([]), "{problems}");
        Ok(())
    })
}

/// Fault 31.
#[tokio::test(flavor = "multi_thread")]
async fn who_locks_the_journal_holds_up_nobody_and_all_is_written_later() -> Result<()> {
    let world = world()?;
    let agent = begun(&world).await?;
    is_kept(&world, "error")?;
    let other = Connection::open(journal(&world))?;
    other.execute_batch("BEGIN EXCLUSIVE")?;
    asked(&agent, "logging/setLevel", json!({"level": "alert"})).await?;
    until("it is told", || {
        let problems = world.json(&["status"])?["hub"]["problems"].clone();
        ensure!(problems[0]["code"] == "lock_timeout", "{problems}");
        Ok(())
    })?;
    // Longer than one batch is tried.
    let end = tokio::time::Instant::now() + Duration::from_secs(2);
    while tokio::time::Instant::now() < end {
        ensure!(agent.call("tool__echo", json!({"text": 1})).await?.text()? == "tool: 1", "no answer");
    }
    other.execute_batch("ROLLBACK")?;
    is_kept(&world, "alert")
}

/// The instance of the server.
fn instance(world: &World) -> Result<Value> {
    let status = world.json(&["status"])?;
    let instances = status["instances"].as_array().context("no list")?;
    instances.iter().find(|one| one["name"] == "tool").cloned().context("no tool")
}

/// Faults 2 and 5.
#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_was_killed_shows_the_lists_of_who_does_not_answer_yet() -> Result<()> {
    let world = world()?;
    let agent = begun(&world).await?;
    is_kept(&world, "error")?;
    let kinds = ["tools", "prompts", "resources", "resources/templates"];
    let mut before = Vec::new();
    for kind in kinds {
        before.push(agent.list(kind).await?);
    }
    ensure!(before.iter().all(|list| !list.is_empty()), "{before:?}");
    until("the journal has the lists", || {
        let kept: u32 =
            Connection::open(journal(&world))?.query_row("SELECT count(*) FROM lists", [], |row| row.get(0))?;
        ensure!(kept == 5, "{kept}");
        Ok(())
    })?;
    let process: Identity = serde_json::from_value(instance(&world)?["process"].clone())?;
    process.signal(Signal::STOP)?;
    world.kill_hub()?;
    world.json(&["status"])?;
    let agent = agent.elsewhere(url(&world)?);
    for (kind, before) in kinds.into_iter().zip(&before) {
        let now = agent.list(kind).await;
        if now.as_ref().ok() != Some(before) {
            process.signal(Signal::CONT)?;
        }
        ensure!(now? == *before, "{kind} are others");
    }
    process.signal(Signal::CONT)?;
    until("there is a session with it", || {
        let instance = instance(&world)?;
        ensure!(instance["servers"][0]["session"] == "ready", "{instance}");
        Ok(())
    })?;
    goes_on(&world, &agent).await
}
