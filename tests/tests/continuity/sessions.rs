//! One agent session over `kill -9` of the server, the instance and the hub (faults 1 and 2).
//!
//! The agents here never reconnect: if a session ended, the next call would fail. So each success below is in the same
//! session, and the tests check that the killed process was replaced.

use anyhow::{Context, Result, ensure};
use linchpin_shared::process::Identity;
use linchpin_tests::agent::{ANSWER, Agent};
use linchpin_tests::kit;
use linchpin_tests::lab::Lab;
use linchpin_tests::lab::running::{gone, kill_9};
use serde_json::{Value, json};
use std::time::Duration;

const NAME: &str = "everything";

async fn everything_lab() -> Result<Lab> {
    let lab = Lab::new()?;
    lab.detached(NAME, &kit::everything()?).await?;
    Ok(lab)
}

fn pid(value: &Value) -> Result<u32> {
    Ok(u32::try_from(value.as_u64().with_context(|| format!("{value} is no pid"))?)?)
}

async fn server_pid(lab: &Lab) -> Result<u32> {
    pid(&lab.usable(NAME).await?["processes"][0]["pid"])
}

async fn instance_pid(lab: &Lab) -> Result<u32> {
    pid(&lab.usable(NAME).await?["pid"])
}

async fn echoes(lab: &Lab, agent: &mut impl Agent, word: &str) -> Result<()> {
    let call = agent.call("everything__echo", json!({"message": word})).await;
    let text = call.map_err(|error| anyhow::anyhow!("{error:#}\n{}", lab.logs()))?;
    assert_eq!(text, format!("Echo: {word}"));
    Ok(())
}

async fn outlives_the_server(lab: &Lab, agent: &mut impl Agent) -> Result<()> {
    let (before, tools) = (server_pid(lab).await?, agent.tools().await?);
    kill_9(before).await?;
    echoes(lab, agent, "after the server").await?;
    ensure!(server_pid(lab).await? != before, "the same process answered");
    assert_eq!(agent.tools().await?, tools, "the same tools");
    Ok(())
}

async fn outlives_the_instance(lab: &Lab, agent: &mut impl Agent) -> Result<()> {
    let (before, tools) = (instance_pid(lab).await?, agent.tools().await?);
    let orphan = Identity::of(server_pid(lab).await?)?;
    kill_9(before).await?;
    echoes(lab, agent, "after the instance").await?;
    ensure!(instance_pid(lab).await? != before, "the same process answered");
    assert_eq!(agent.tools().await?, tools, "the same tools");
    gone(&orphan, Duration::from_secs(5)).await.context("the dead instance's server stays")
}

#[tokio::test]
async fn shim_session_survives_server_instance_and_hub() -> Result<()> {
    let lab = everything_lab().await?;
    let mut agent = lab.shim(&[]).await?;
    echoes(&lab, &mut agent, "at first").await?;
    outlives_the_server(&lab, &mut agent).await?;
    outlives_the_instance(&lab, &mut agent).await?;
    let instance = instance_pid(&lab).await?;

    let before = lab.hub_facts()?.pid;
    kill_9(before).await?;
    echoes(&lab, &mut agent, "after the hub").await?;
    ensure!(lab.hub_facts()?.pid != before, "the same hub answered");
    assert_eq!(instance_pid(&lab).await?, instance, "the death of a hub ended the server");

    // The same once more with the second hub.
    outlives_the_server(&lab, &mut agent).await?;
    outlives_the_instance(&lab, &mut agent).await?;
    agent.close().await?;
    lab.finish().await
}

#[tokio::test]
async fn http_session_survives_server_instance_and_hub() -> Result<()> {
    let lab = everything_lab().await?;
    let mut hub = lab.hub().await?;
    let mut agent = lab.http("/mcp").await?;
    let (session, url) = (agent.session().map(str::to_owned), lab.hub_facts()?.url);
    echoes(&lab, &mut agent, "at first").await?;
    outlives_the_server(&lab, &mut agent).await?;
    outlives_the_instance(&lab, &mut agent).await?;

    hub.kill_9().await?;
    let _hub = lab.hub().await?;
    assert_eq!(lab.hub_facts()?.url, url, "the steady address");
    echoes(&lab, &mut agent, "after the hub").await?;
    assert_eq!(agent.session().map(str::to_owned), session, "the same session id");
    outlives_the_server(&lab, &mut agent).await?;
    lab.finish().await
}

/// A call of a tool that may change something, in flight when its server or the hub dies, ends with an error that says
/// so; it is not executed again, and the session continues.
#[tokio::test]
async fn call_in_flight_reports_its_interruption() -> Result<()> {
    let lab = Lab::new()?;
    lab.detached("slow", &kit::echo("slow")?).await?;
    let mut agent = lab.shim(&[]).await?;
    let held = json!({"name": "slow__echo-slow", "arguments": {"message": "", "hold": true},
                      "_meta": {"progressToken": "mine"}});
    for (round, victim) in ["server", "hub"].into_iter().enumerate() {
        let server = pid(&lab.usable("slow").await?["processes"][0]["pid"])?;
        let id = agent.send("tools/call", held.clone()).await?;
        agent.notification("notifications/progress", ANSWER).await.context("the call is under way")?;
        kill_9(if victim == "server" { server } else { lab.hub_facts()?.pid }).await?;
        let answer = agent.answer(id).await.map_err(|error| anyhow::anyhow!("{victim}: {error:#}\n{}", lab.logs()))?;
        let error = answer.error()?;
        assert_eq!(error["data"]["code"], "call_interrupted", "{victim}: {error}");
        linchpin_tests::lab::verb::check_problem(&error["data"])?;
        assert_eq!(agent.call("slow__echo-slow", json!({"message": "next"})).await?, "next", "{victim}");
        let log = lab.verb(["logs", "slow"]).await?.exits(0)?.stdout;
        assert_eq!(log.matches("held").count(), round + 1, "executed once each:\n{log}");
    }
    agent.close().await?;
    lab.finish().await
}

/// A call of a read-only tool is repeated, and the agent does not notice the death of the server.
#[tokio::test]
async fn read_only_call_in_flight_is_repeated() -> Result<()> {
    let lab = everything_lab().await?;
    let mut agent = lab.shim(&[]).await?;
    let server = server_pid(&lab).await?;
    let long = json!({"name": "everything__trigger-long-running-operation",
                      "arguments": {"duration": 1, "steps": 4}, "_meta": {"progressToken": 1}});
    let id = agent.send("tools/call", long).await?;
    agent.notification("notifications/progress", ANSWER).await.context("the call is under way")?;
    kill_9(server).await?;
    let answer = agent.answer(id).await?.result()?;
    ensure!(answer["content"].to_string().contains("completed"), "{answer}");
    agent.close().await?;
    lab.finish().await
}

/// Everything at once, as after a crash of the desktop session: only the shim and the keeper survive (fault 4).
#[tokio::test]
async fn session_survives_server_instance_and_hub_killed_together() -> Result<()> {
    let lab = everything_lab().await?;
    let mut agent = lab.shim(&[]).await?;
    echoes(&lab, &mut agent, "at first").await?;
    let victims = [server_pid(&lab).await?, instance_pid(&lab).await?, lab.hub_facts()?.pid];
    for victim in victims {
        // The keeper may have ended the server already when its instance died.
        let _ = kill_9(victim).await;
    }
    echoes(&lab, &mut agent, "after all of them").await?;
    agent.close().await?;
    lab.finish().await
}

/// Fault 2: a new hub finds its instances one after another. A list at that moment is complete, possibly after a wait,
/// and never partial.
#[tokio::test]
async fn list_right_after_a_hub_death_is_complete() -> Result<()> {
    let lab = Lab::new()?;
    for number in 0..8 {
        lab.detached(&format!("s{number}"), &kit::echo("x")?).await?;
    }
    let mut agent = lab.shim(&[]).await?;
    for number in 0..8 {
        lab.usable(&format!("s{number}")).await?;
    }
    let tools = agent.tools().await?;
    for round in 0..20 {
        lab.kill_hub().await?;
        let now = agent.tools().await?;
        ensure!(now == tools, "round {round}: {now:?}\n{}", lab.logs());
    }
    agent.close().await?;
    lab.finish().await
}
