//! Lists that change, and clients that hear of it.

use crate::world::World;
use anyhow::Result;
use serde_json::json;
use std::time::Duration;

const CHANGED: &str = "notifications/tools/list_changed";

#[tokio::test]
async fn instances_that_come_and_go_are_told() -> Result<()> {
    let mut world = World::new().await?;
    let agent = world.agent("/mcp").await?;
    assert!(agent.list("tools").await?.is_empty());
    let mut stream = agent.listen().await?;
    world.start("shop").await?;
    stream.wait_for_method(CHANGED).await?;
    assert_eq!(agent.list("tools").await?.len(), 12);
    world.stop("shop")?;
    stream.wait_for_method(CHANGED).await?;
    assert!(agent.list("tools").await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn a_list_that_a_server_changes_is_told_with_the_right_content() -> Result<()> {
    let mut world = World::new().await?;
    world.start("shop").await?;
    let agent = world.agent("/i/shop/mcp").await?;
    let mut stream = agent.listen().await?;
    agent.call("grow", json!({"name": "grown"})).await?.text()?;
    stream.wait_for_method(CHANGED).await?;
    assert!(agent.list("tools").await?.contains(&String::from("grown")));
    assert_eq!(agent.call("grown", json!({})).await?.text()?, "grown");
    Ok(())
}

#[tokio::test]
async fn a_list_that_is_another_after_a_restart_is_told_and_an_equal_one_is_not() -> Result<()> {
    let mut world = World::new().await?;
    world.start("shop").await?;
    let agent = world.agent("/mcp").await?;
    agent.list("tools").await?;
    let mut stream = agent.listen().await?;
    agent.call("shop__die", json!({})).await?.error()?;
    assert_eq!(agent.call("shop__echo", json!({"text": "1"})).await?.text()?, "shop: 1");

    std::fs::write(world.state("shop").join("tools"), "added\n")?;
    agent.call("shop__die", json!({})).await?.error()?;
    let first = stream.wait_for("the first message", |_| true).await?;
    assert_eq!(first["method"], CHANGED, "and nothing before it, for the first restart changed nothing");
    let names = agent.list("tools").await?;
    assert_eq!((names.len(), names.last().map(String::as_str)), (13, Some("shop__added")));
    Ok(())
}

#[tokio::test]
async fn lists_are_served_while_a_server_is_down_until_its_grace_is_over() -> Result<()> {
    let mut world = World::with(|settings| {
        settings.gateway.grace = Duration::from_millis(1500);
        settings.gateway.wait = Duration::from_millis(300);
    })
    .await?;
    world.start("shop").await?;
    let agent = world.agent("/mcp").await?;
    assert_eq!(agent.list("tools").await?.len(), 12);
    let mut stream = agent.listen().await?;
    world.kill("shop")?;
    assert_eq!(agent.list("tools").await?.len(), 12, "what was known last");
    let answered = agent.call("shop__echo", json!({})).await?;
    let error = answered.error()?;
    assert_eq!((&error["code"], &error["data"]["code"]), (&json!(-32000), &json!("instance_unavailable")), "{error}");
    assert!(error["data"]["observed"]["waited_ms"].as_u64().is_some_and(|waited| waited >= 250), "{error}");
    assert!(error["data"]["observed"]["last_seen"].is_string(), "{error}");
    stream.wait_for_method(CHANGED).await?;
    assert!(agent.list("tools").await?.is_empty(), "its grace is over");
    let answered = agent.call("shop__echo", json!({})).await?;
    assert_eq!(answered.error()?["data"]["code"], "instance_unavailable", "but it is not unknown");
    world.start("shop").await?;
    stream.wait_for_method(CHANGED).await?;
    assert_eq!(agent.list("tools").await?.len(), 12);
    Ok(())
}

#[tokio::test]
async fn the_first_list_waits_for_an_instance_that_is_coming() -> Result<()> {
    let mut world = World::new().await?;
    world.start("shop").await?;
    world.restart_hub().await?;
    let agent = world.agent("/mcp").await?;
    assert_eq!(agent.list("tools").await?.len(), 12, "the new hub had not met it yet");
    Ok(())
}
