//! Lists that change, and the notifications about it.

use crate::lab::GatewayLab;
use anyhow::Result;
use linchpin_tests::agent::stream::PATIENCE;
use serde_json::json;
use std::time::Duration;

const CHANGED: &str = "notifications/tools/list_changed";

#[tokio::test]
async fn instances_that_come_and_go_are_announced() -> Result<()> {
    let mut lab = GatewayLab::new().await?;
    let agent = lab.agent("/mcp").await?;
    assert!(agent.names("tools").await?.is_empty());
    let mut stream = agent.listen().await?;
    lab.start("shop").await?;
    stream.wait_for(CHANGED).await?;
    assert_eq!(agent.names("tools").await?.len(), 12);
    lab.stop("shop").await?;
    stream.wait_for(CHANGED).await?;
    assert!(agent.names("tools").await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn changed_list_is_announced_with_its_new_content() -> Result<()> {
    let mut lab = GatewayLab::new().await?;
    lab.start("shop").await?;
    let agent = lab.agent("/i/shop/mcp").await?;
    let mut stream = agent.listen().await?;
    agent.try_call("grow", json!({"name": "grown"})).await?.text()?;
    stream.wait_for(CHANGED).await?;
    assert!(agent.names("tools").await?.contains(&String::from("grown")));
    assert_eq!(agent.try_call("grown", json!({})).await?.text()?, "grown");
    Ok(())
}

#[tokio::test]
async fn restart_announces_a_list_only_if_it_changed() -> Result<()> {
    let mut lab = GatewayLab::new().await?;
    lab.start("shop").await?;
    let agent = lab.agent("/mcp").await?;
    agent.names("tools").await?;
    let mut stream = agent.listen().await?;
    agent.try_call("shop__die", json!({})).await?.error()?;
    assert_eq!(agent.try_call("shop__echo", json!({"text": "1"})).await?.text()?, "shop: 1");

    std::fs::write(lab.state("shop").join("tools"), "added\n")?;
    agent.try_call("shop__die", json!({})).await?.error()?;
    let first = stream.first("the first message", PATIENCE, |_| true).await?;
    assert_eq!(first["method"], CHANGED, "and nothing before it, for the first restart changed nothing");
    let names = agent.names("tools").await?;
    assert_eq!((names.len(), names.last().map(String::as_str)), (13, Some("shop__added")));
    Ok(())
}

#[tokio::test]
async fn lists_of_a_dead_server_are_kept_for_the_grace_period() -> Result<()> {
    let mut lab = GatewayLab::with(|settings| {
        settings.gateway.grace = Duration::from_millis(1500);
        settings.gateway.wait = Duration::from_millis(300);
    })
    .await?;
    lab.start("shop").await?;
    let agent = lab.agent("/mcp").await?;
    assert_eq!(agent.names("tools").await?.len(), 12);
    let mut stream = agent.listen().await?;
    lab.kill("shop").await?;
    assert_eq!(agent.names("tools").await?.len(), 12, "the list that was known last");
    let answered = agent.try_call("shop__echo", json!({})).await?;
    let error = answered.error()?;
    assert_eq!((&error["code"], &error["data"]["code"]), (&json!(-32000), &json!("instance_unavailable")), "{error}");
    assert!(error["data"]["observed"]["waited_ms"].as_u64().is_some_and(|waited| waited >= 250), "{error}");
    assert!(error["data"]["observed"]["last_seen"].is_string(), "{error}");
    stream.wait_for(CHANGED).await?;
    assert!(agent.names("tools").await?.is_empty(), "its grace is over");
    let answered = agent.try_call("shop__echo", json!({})).await?;
    assert_eq!(answered.error()?["data"]["code"], "instance_unavailable", "the tool is unknown");
    lab.start("shop").await?;
    stream.wait_for(CHANGED).await?;
    assert_eq!(agent.names("tools").await?.len(), 12);
    Ok(())
}

#[tokio::test]
async fn first_list_waits_for_a_starting_instance() -> Result<()> {
    let mut lab = GatewayLab::new().await?;
    lab.start("shop").await?;
    lab.restart_hub().await?;
    let agent = lab.agent("/mcp").await?;
    assert_eq!(agent.names("tools").await?.len(), 12, "the new hub had already connected to it");
    Ok(())
}
