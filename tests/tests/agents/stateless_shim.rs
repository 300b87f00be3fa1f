//! Stateless agents (2026-07-28) through the shim: no session, one pipe, and a hub that dies in between.

use anyhow::{Context, Result, ensure};
use linchpin_tests::agent::stdio::Stdio;
use linchpin_tests::agent::{ANSWER, Reply, stateless_meta};
use linchpin_tests::kit;
use linchpin_tests::lab::Lab;
use linchpin_tests::wait::until;
use serde_json::{Value, json};
use std::time::Duration;

const SUBSCRIPTION: &str = "io.modelcontextprotocol/subscriptionId";

/// Adds to the params what every request of this dialect carries.
fn params(mut params: Value) -> Value {
    for (key, value) in stateless_meta(&json!({})) {
        params["_meta"][key] = value;
    }
    params
}

async fn ask(agent: &mut Stdio, method: &str, with: Value) -> Result<Reply> {
    let id = agent.send(method, params(with)).await?;
    agent.answer(id).await
}

/// Subscribes to the list of tools, and waits until that is acknowledged.
async fn subscribed(agent: &mut Stdio) -> Result<u64> {
    let id = agent.send("subscriptions/listen", params(json!({"notifications": {"toolsListChanged": true}}))).await?;
    let acknowledged = agent.notification("notifications/subscriptions/acknowledged", ANSWER).await?;
    assert_eq!(acknowledged["params"]["_meta"][SUBSCRIPTION], id, "{acknowledged}");
    assert_eq!(acknowledged["params"]["notifications"], json!({"toolsListChanged": true}));
    Ok(id)
}

/// The method of the next message of a subscription.
async fn news(agent: &mut Stdio, id: u64) -> Result<String> {
    let message = agent.first("news", ANSWER, |message| message["params"]["_meta"][SUBSCRIPTION] == id).await?;
    Ok(message["method"].as_str().context("no method")?.to_owned())
}

async fn echoes(agent: &mut Stdio, tool: &str) -> Result<()> {
    let called = ask(agent, "tools/call", json!({"name": tool, "arguments": {"message": "hello"}})).await?.result()?;
    assert_eq!((&called["resultType"], &called["content"][0]["text"]), (&json!("complete"), &json!("hello")));
    Ok(())
}

#[tokio::test]
async fn stateless_agent_survives_the_death_of_the_hub() -> Result<()> {
    let lab = Lab::new()?;
    lab.detached("first", &kit::echo("one")?).await?;
    let mut agent = lab.bare_shim()?;
    let found = ask(&mut agent, "server/discover", json!({})).await?.result()?;
    ensure!(found["supportedVersions"][0] == "2026-07-28", "{found}");
    let subscription = subscribed(&mut agent).await?;
    echoes(&mut agent, "first__echo-one").await?;
    let unknown = ask(&mut agent, "nothing/at/all", json!({})).await?.error()?;
    assert_eq!(unknown["code"], -32601, "{unknown}");

    lab.kill_hub().await?;
    agent.forget();
    echoes(&mut agent, "first__echo-one").await.with_context(|| lab.logs())?;
    let told = news(&mut agent, subscription).await.with_context(|| lab.logs())?;
    assert_eq!(told, "notifications/tools/list_changed", "a second acknowledgement was sent");

    // The subscription continues in the second hub.
    agent.forget();
    lab.detached("second", &kit::echo("two")?).await?;
    assert_eq!(news(&mut agent, subscription).await?, "notifications/tools/list_changed");
    echoes(&mut agent, "second__echo-two").await?;
    agent.close().await?;
    lab.finish().await
}

#[tokio::test]
async fn stateless_cancellation_reaches_the_server() -> Result<()> {
    let lab = Lab::new()?;
    lab.detached("slow", &kit::echo("slow")?).await?;
    let mut agent = lab.bare_shim()?;
    let held = json!({"name": "slow__echo-slow", "arguments": {"message": "", "hold": true},
                      "_meta": {"progressToken": "mine"}});
    let call = agent.send("tools/call", params(held)).await?;
    agent.notification("notifications/progress", ANSWER).await.context("the call is under way")?;
    let subscription = subscribed(&mut agent).await?;
    for id in [call, subscription] {
        agent.notify("notifications/cancelled", json!({"requestId": id})).await?;
    }
    until("the server receives the cancellation", ANSWER, async || {
        let log = lab.verb(["logs", "slow"]).await?.exits(0)?.stdout;
        ensure!(log.contains("cancelled"), "{log}");
        Ok(())
    })
    .await?;
    lab.detached("later", &kit::echo("later")?).await?;
    echoes(&mut agent, "later__echo-later").await?;
    let late = agent.first("nothing", Duration::ZERO, |message| {
        message["id"] == call || message["params"]["_meta"][SUBSCRIPTION] == subscription
    });
    ensure!(late.await.is_err(), "a cancelled call was answered");
    agent.close().await?;
    lab.finish().await
}
