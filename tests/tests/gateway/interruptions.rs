//! The session of an agent while servers, instances and the hub die.

use crate::lab::GatewayLab;
use anyhow::{Context, Result, ensure};
use linchpin_tests::agent::http::Http;
use linchpin_tests::agent::stream::PATIENCE;
use linchpin_tests::wait::until;
use serde_json::{Value, json};

async fn pid(agent: &Http, tool: &str) -> Result<i64> {
    let facts: Value = serde_json::from_str(agent.try_call(tool, json!({})).await?.text()?)?;
    facts["pid"].as_i64().context("no pid")
}

/// Kills a process and waits until it is gone.
async fn kill(pid: i64) -> Result<()> {
    let process = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw).context("no pid")?;
    rustix::process::kill_process(process, rustix::process::Signal::KILL)?;
    until("it is gone", PATIENCE, async || {
        ensure!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "{pid} is there");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn server_killed_between_calls_only_delays_the_next() -> Result<()> {
    let mut lab = GatewayLab::new().await?;
    lab.start("shop").await?;
    let agent = lab.agent("/mcp").await?;
    for _ in 0..3 {
        let before = pid(&agent, "shop__facts").await?;
        kill(before).await?;
        assert_ne!(pid(&agent, "shop__facts").await?, before);
    }
    assert_eq!(lab.noted("shop", "initialized").len(), 4, "one session for each run of the server");
    Ok(())
}

#[tokio::test]
async fn call_in_flight_fails_and_is_not_repeated() -> Result<()> {
    let mut lab = GatewayLab::new().await?;
    lab.start("shop").await?;
    let agent = lab.agent("/mcp").await?;
    assert_eq!(agent.try_call("shop__count", json!({})).await?.text()?, "1");
    let answered = agent.try_call("shop__count", json!({"die_at": 2})).await?;
    let error = answered.error()?;
    assert_eq!((&error["code"], &error["data"]["code"]), (&json!(-32000), &json!("call_interrupted")), "{error}");
    assert_eq!(agent.try_call("shop__count", json!({})).await?.text()?, "3", "it was called twice before");
    Ok(())
}

#[tokio::test]
async fn read_only_call_is_repeated_after_a_server_death() -> Result<()> {
    let mut lab = GatewayLab::new().await?;
    lab.start("shop").await?;
    let agent = lab.agent("/mcp").await?;
    assert_eq!(agent.try_call("shop__count_safely", json!({"die_at": 1})).await?.text()?, "2");
    Ok(())
}

#[tokio::test]
async fn instance_killed_and_restarted_only_delays_calls() -> Result<()> {
    let mut lab = GatewayLab::new().await?;
    lab.start("shop").await?;
    let agent = lab.agent("/mcp").await?;
    let before = pid(&agent, "shop__facts").await?;
    lab.kill("shop").await?;
    let waiting = {
        let agent = agent.clone();
        tokio::spawn(async move { pid(&agent, "shop__facts").await })
    };
    lab.launch("shop")?;
    assert_ne!(waiting.await??, before);
    Ok(())
}

#[tokio::test]
async fn session_survives_a_hub_without_a_journal() -> Result<()> {
    let mut lab = GatewayLab::new().await?;
    lab.start("shop").await?;
    let agent = lab.agent("/mcp").await?;
    assert_eq!(agent.try_call("shop__count", json!({})).await?.text()?, "1");
    let before = pid(&agent, "shop__facts").await?;
    lab.restart_hub().await?;
    let agent = agent.elsewhere(lab.url("/mcp"));
    assert_eq!(agent.try_call("shop__count", json!({})).await?.text()?, "2", "the call was not answered at once");
    assert_eq!(pid(&agent, "shop__facts").await?, before, "the server was restarted");
    assert_eq!(lab.noted("shop", "initialized").len(), 1, "the server was initialized again");
    let mut stream = agent.listen().await?;
    stream.wait_for("notifications/tools/list_changed").await?;
    let one = lab.agent("/i/shop/mcp").await?;
    lab.restart_hub().await?;
    let one = one.elsewhere(lab.url("/i/shop/mcp"));
    assert_eq!(one.try_call("count", json!({})).await?.text()?, "3");
    Ok(())
}

#[tokio::test]
async fn answer_for_a_dead_hub_reaches_no_other_call() -> Result<()> {
    let mut lab = GatewayLab::new().await?;
    lab.start("shop").await?;
    let agent = lab.agent("/mcp").await?;
    let late = |agent: &Http, say: String, seconds: f64| {
        let agent = agent.clone();
        tokio::spawn(async move { agent.try_call("shop__late", json!({"say": say, "seconds": seconds})).await })
    };
    let of_the_dead = late(&agent, String::from("for the dead"), 2.0);
    until("it is under way", PATIENCE, async || {
        ensure!(lab.noted("shop", "calls").len() == 1, "not yet");
        Ok(())
    })
    .await?;
    lab.restart_hub().await?;
    assert!(of_the_dead.await?.is_err(), "its connection broke");
    let agent = agent.elsewhere(lab.url("/mcp"));
    let calls: Vec<_> = (0..40).map(|n| late(&agent, n.to_string(), 2.5)).collect();
    for (n, call) in calls.into_iter().enumerate() {
        assert_eq!(call.await??.text()?, n.to_string());
    }
    Ok(())
}

#[tokio::test]
async fn calls_across_server_deaths_are_answered_once_each() -> Result<()> {
    let mut lab = GatewayLab::new().await?;
    lab.start("shop").await?;
    let agent = lab.agent("/mcp").await?;
    let calls = (0..200).map(|n| {
        let agent = agent.clone();
        tokio::spawn(async move {
            let params = json!({"name": "shop__echo", "arguments": {"text": n}});
            let answered = agent.exchange(json!(n), "tools/call", params).await?;
            match answered.result() {
                Ok(_) => ensure!(answered.text()? == format!("shop: {n}"), "{answered:?}"),
                Err(_) => ensure!(answered.error()?["data"]["code"] == "call_interrupted", "{answered:?}"),
            }
            anyhow::Ok(())
        })
    });
    let calls: Vec<_> = calls.collect();
    for _ in 0..2 {
        kill(pid(&lab.agent("/mcp").await?, "shop__facts").await?).await?;
    }
    for call in calls {
        call.await??;
    }
    let made = lab.noted("shop", "calls").iter().filter(|name| *name == "echo").count();
    assert!(made <= 200, "{made} calls were made of 200");
    Ok(())
}
