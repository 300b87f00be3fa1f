//! The journal: sessions that survive a kill of the hub, and damage to its file.

use anyhow::{Context, Result, ensure};
use linchpin_shared::process::{Identity, Signal};
use linchpin_tests::agent::http::Http;
use linchpin_tests::lab::Lab;
use linchpin_tests::lab::disk::Lack;
use linchpin_tests::lab::namespace::{Changes, mount_tmpfs, within};
use linchpin_tests::wait::{PATIENCE, until};
use rusqlite::Connection;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Duration;

pub(crate) const URI: &str = "fix://tool/1";

/// A lab with the server of the fixtures.
async fn tool_lab() -> Result<Lab> {
    let lab = Lab::new()?;
    lab.serve("tool").await?;
    Ok(lab)
}

fn journal(lab: &Lab) -> PathBuf {
    lab.home().join("journal.db")
}

/// Level and subscriptions of the only session in the journal, and whether its list of tools is known.
fn kept(lab: &Lab) -> Result<(Option<String>, String, bool)> {
    let connection = Connection::open(journal(lab))?;
    let query = "SELECT level, subscriptions, tools IS NOT NULL FROM sessions WHERE level IS NOT NULL";
    Ok(connection.query_row(query, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?)
}

pub(crate) async fn is_kept(lab: &Lab, level: &str) -> Result<()> {
    until("the journal has the session", PATIENCE, async || {
        let kept = kept(lab)?;
        ensure!(kept.0.as_deref() == Some(level) && kept.1.contains(URI) && kept.2, "{kept:?}");
        Ok(())
    })
    .await
}

async fn asked(agent: &Http, method: &str, params: Value) -> Result<()> {
    agent.exchange(json!(method), method, params).await?.result().map(drop)
}

async fn begun(lab: &Lab) -> Result<Http> {
    let agent = lab.http("/mcp").await?;
    agent.names("tools").await?;
    agent.names("resources").await?;
    agent.names("prompts").await?;
    asked(&agent, "logging/setLevel", json!({"level": "error"})).await?;
    asked(&agent, "resources/subscribe", json!({"uri": URI})).await?;
    Ok(agent)
}

/// Checks that the session still has its subscription, its level and its lists.
async fn continues(lab: &Lab, agent: &Http) -> Result<()> {
    until("the hub runs long enough", PATIENCE, async || {
        let status = lab.json(&["status"]).await?;
        ensure!(status["hub"]["uptime_seconds"].as_f64() >= Some(1.0), "{status:#}");
        Ok(())
    })
    .await?;
    let agent = agent.elsewhere(lab.client("/mcp")?.url());
    let mut stream = agent.listen().await?;
    // Another agent wants to see everything, so the server sends everything.
    let other = lab.http("/mcp").await?;
    asked(&other, "logging/setLevel", json!({"level": "debug"})).await?;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let facts = other.try_call("tool__facts", json!({})).await?;
        if facts.text()?.contains(r#""debug"]"#) {
            break;
        }
        ensure!(tokio::time::Instant::now() < deadline, "the server is not asked for everything: {facts:?}");
    }
    agent.try_call("tool__touch", json!({"uri": URI})).await?.text()?;
    let first = stream.next().await?.context("it ended")?;
    ensure!(first["method"] == "notifications/resources/updated", "first came {first}");
    other.try_call("tool__log", json!({"tag": "x"})).await?.text()?;
    let first = stream.wait_for("notifications/message").await?;
    ensure!(first["params"]["level"] == "error", "{first}");
    Ok(())
}

/// Fault 2.
#[tokio::test(flavor = "multi_thread")]
async fn session_survives_a_killed_hub_with_its_state() -> Result<()> {
    let lab = tool_lab().await?;
    let agent = begun(&lab).await?;
    is_kept(&lab, "error").await?;
    lab.kill_hub().await?;
    continues(&lab, &agent).await?;
    ensure!(agent.elsewhere(lab.client("/mcp")?.url()).end().await? == 204, "it cannot be ended");
    until("the session is removed from the journal", PATIENCE, async || {
        ensure!(kept(&lab)?.0.as_deref() == Some("debug"), "{:?}", kept(&lab));
        Ok(())
    })
    .await?;
    lab.terminate().await
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_hub_leaves_one_journal_file_for_the_next() -> Result<()> {
    let lab = tool_lab().await?;
    let agent = begun(&lab).await?;
    is_kept(&lab, "error").await?;
    ensure!(lab.home().join("journal.db-wal").exists(), "the hub had no session to close");
    lab.json(&["hub", "stop"]).await?;
    for beside in ["journal.db-wal", "journal.db-shm"] {
        ensure!(!lab.home().join(beside).exists(), "{beside} still exists");
    }
    continues(&lab, &agent).await?;
    lab.terminate().await
}

/// What `status` and `doctor` report about the journal.
async fn told(lab: &Lab) -> Result<(Vec<Value>, Vec<Value>)> {
    let of_journal = |list: &Value, name: &str| {
        let all = list.as_array().cloned().unwrap_or_default();
        all.into_iter().filter(|one| one.to_string().contains(name)).collect::<Vec<_>>()
    };
    let status = lab.json(&["status"]).await?;
    let (_, doctor) = lab.begin(&["--json", "doctor"])?.end().await?;
    Ok((of_journal(&status["hub"]["problems"], "journal"), of_journal(&doctor["checks"], "kept_as")))
}

/// Fault 30.
#[tokio::test(flavor = "multi_thread")]
async fn damaged_journal_is_kept_reported_and_replaced() -> Result<()> {
    let lab = tool_lab().await?;
    let agent = begun(&lab).await?;
    is_kept(&lab, "error").await?;
    lab.kill_hub().await?;
    std::fs::write(journal(&lab), "no database at all".repeat(1000))?;
    let _ = std::fs::remove_file(lab.home().join("journal.db-wal"));
    until("the status warns about the journal", PATIENCE, async || {
        let told = told(&lab).await?;
        ensure!(told.0.len() == 1 && told.1.len() == 1, "{told:?}");
        Ok(())
    })
    .await?;
    let log = std::fs::read_to_string(lab.home().join("logs/hub-error.log"))?;
    ensure!(log.contains("put aside"), "{log}");
    // The session continues, because its signed id is enough, and is stored again.
    let agent = agent.elsewhere(lab.client("/mcp")?.url());
    ensure!(!agent.names("tools").await?.is_empty(), "no tools");
    asked(&agent, "logging/setLevel", json!({"level": "alert"})).await?;
    asked(&agent, "resources/subscribe", json!({"uri": URI})).await?;
    is_kept(&lab, "alert").await?;
    lab.terminate().await
}

/// Fault 26.
#[test]
fn journal_without_space_fails_no_call_and_catches_up() -> Result<()> {
    within(Changes::Mounts, "journal::inner_no_room")
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by the test before it, where it can mount a small disk"]
async fn inner_no_room() -> Result<()> {
    let lab = Lab::new()?;
    mount_tmpfs(&lab.home(), "size=16m")?;
    lab.serve("tool").await?;
    let agent = begun(&lab).await?;
    is_kept(&lab, "error").await?;
    Lack::Bytes.fill(&lab.home())?;
    let mut told = false;
    for number in 0..500 {
        asked(&agent, "resources/subscribe", json!({"uri": format!("fix://tool/{number}")})).await.ok();
        asked(&agent, "logging/setLevel", json!({"level": "alert"})).await?;
        ensure!(
            agent.try_call("tool__echo", json!({"text": number})).await?.text()? == format!("tool: {number}"),
            "lost"
        );
        told = told || lab.json(&["status"]).await?["hub"]["problems"].to_string().contains("no_space");
        if told {
            break;
        }
    }
    ensure!(told, "no warning that the journal is not written");
    asked(&agent, "logging/setLevel", json!({"level": "critical"})).await?;
    Lack::empty(&lab.home())?;
    is_kept(&lab, "critical").await?;
    until("the warning is gone", PATIENCE, async || {
        let problems = lab.json(&["status"]).await?["hub"]["problems"].clone();
        ensure!(problems == json!([]), "{problems}");
        Ok(())
    })
    .await?;
    lab.terminate().await
}

/// Fault 31.
#[tokio::test(flavor = "multi_thread")]
async fn locked_journal_delays_nobody_and_catches_up() -> Result<()> {
    let lab = tool_lab().await?;
    let agent = begun(&lab).await?;
    is_kept(&lab, "error").await?;
    let other = Connection::open(journal(&lab))?;
    other.execute_batch("BEGIN EXCLUSIVE")?;
    asked(&agent, "logging/setLevel", json!({"level": "alert"})).await?;
    until("the status warns about the journal", PATIENCE, async || {
        let problems = lab.json(&["status"]).await?["hub"]["problems"].clone();
        ensure!(problems[0]["code"] == "lock_timeout", "{problems}");
        Ok(())
    })
    .await?;
    // Longer than the hub tries to write one batch.
    let end = tokio::time::Instant::now() + Duration::from_secs(2);
    while tokio::time::Instant::now() < end {
        ensure!(agent.try_call("tool__echo", json!({"text": 1})).await?.text()? == "tool: 1", "no answer");
    }
    other.execute_batch("ROLLBACK")?;
    is_kept(&lab, "alert").await?;
    lab.terminate().await
}

/// The instance of the server.
async fn instance(lab: &Lab) -> Result<Value> {
    let status = lab.json(&["status"]).await?;
    let instances = status["instances"].as_array().context("no list")?;
    instances.iter().find(|one| one["name"] == "tool").cloned().context("no tool")
}

/// Faults 2 and 5.
#[tokio::test(flavor = "multi_thread")]
async fn restarted_hub_shows_lists_of_silent_instances() -> Result<()> {
    let lab = tool_lab().await?;
    let agent = begun(&lab).await?;
    is_kept(&lab, "error").await?;
    let kinds = ["tools", "prompts", "resources", "resources/templates"];
    let mut before = Vec::new();
    for kind in kinds {
        before.push(agent.names(kind).await?);
    }
    ensure!(before.iter().all(|list| !list.is_empty()), "{before:?}");
    until("the journal has the lists", PATIENCE, async || {
        let kept: u32 =
            Connection::open(journal(&lab))?.query_row("SELECT count(*) FROM lists", [], |row| row.get(0))?;
        ensure!(kept == 5, "{kept}");
        Ok(())
    })
    .await?;
    let process: Identity = serde_json::from_value(instance(&lab).await?["process"].clone())?;
    process.signal(Signal::STOP)?;
    lab.kill_hub().await?;
    lab.json(&["status"]).await?;
    let agent = agent.elsewhere(lab.client("/mcp")?.url());
    for (kind, before) in kinds.into_iter().zip(&before) {
        let now = agent.names(kind).await;
        if now.as_ref().ok() != Some(before) {
            process.signal(Signal::CONT)?;
        }
        ensure!(now? == *before, "the list of {kind} differs");
    }
    process.signal(Signal::CONT)?;
    until("a session with it exists", PATIENCE, async || {
        let instance = instance(&lab).await?;
        ensure!(instance["servers"][0]["session"] == "ready", "{instance}");
        Ok(())
    })
    .await?;
    continues(&lab, &agent).await?;
    lab.terminate().await
}
