//! What an agent asked for through the shim survives the death of the hub, in the same session.

use crate::journal::{URI, is_kept};
use anyhow::{Result, ensure};
use linchpin_tests::agent::stdio::Stdio;
use linchpin_tests::agent::{ANSWER, Agent};
use linchpin_tests::lab::Lab;
use linchpin_tests::wait::{PATIENCE, until};
use serde_json::{Value, json};

async fn asks(shim: &mut Stdio, method: &str, params: Value) -> Result<()> {
    shim.request(method, params).await?.result().map(drop)
}

async fn calls(shim: &mut Stdio, tool: &str, arguments: Value) -> Result<()> {
    asks(shim, "tools/call", json!({"name": tool, "arguments": arguments})).await
}

/// Waits until the server was last asked for this log level.
async fn level(lab: &Lab, wanted: &str) -> Result<()> {
    until("the server is asked for this level", PATIENCE, async || {
        let levels = lab.noted("tool", "levels");
        ensure!(levels.last().is_some_and(|level| level == wanted), "{levels:?}");
        Ok(())
    })
    .await
}

/// Fault 2: the session that an agent has through the shim keeps its level, its subscriptions and its lists, and it
/// gets no notification of what did not change.
#[tokio::test]
async fn shim_session_keeps_level_subscriptions_and_lists() -> Result<()> {
    let lab = Lab::new()?;
    lab.serve("tool").await?;
    let mut shim = lab.shim(&[]).await?;
    for method in ["tools/list", "prompts/list", "resources/list"] {
        asks(&mut shim, method, json!({})).await?;
    }
    asks(&mut shim, "logging/setLevel", json!({"level": "error"})).await?;
    asks(&mut shim, "resources/subscribe", json!({"uri": URI})).await?;
    is_kept(&lab, "error").await?;
    lab.kill_hub().await?;
    shim.ping().await?;
    calls(&mut shim, "tool__touch", json!({"uri": URI})).await?;
    shim.notification("notifications/resources/updated", ANSWER).await?;
    // Another agent wants to see everything, so the server sends everything.
    let mut other = lab.shim(&[]).await?;
    asks(&mut other, "logging/setLevel", json!({"level": "debug"})).await?;
    level(&lab, "debug").await?;
    shim.send("tools/call", json!({"name": "tool__log", "arguments": {"tag": "x"}})).await?;
    let first = shim.notification("notifications/message", ANSWER).await?;
    ensure!(first["params"]["level"] == "error", "{first}");
    other.close().await?;
    let (_, rest) = shim.leave().await?;
    ensure!(!json!(rest).to_string().contains("list_changed"), "no list changed: {rest:?}");
    lab.terminate().await
}
