//! What an agent is shown: by the settings, and by the address it uses.

use crate::client::Agent;
use crate::world::World;
use anyhow::{Context, Result};
use linchpin_shared::pattern::Pattern;
use reqwest::StatusCode;
use serde_json::json;

fn patterns(text: &str) -> Vec<Pattern> {
    Pattern::parse(text).into_iter().collect()
}

async fn refused(agent: &Agent, tool: &str) -> Result<String> {
    let answered = agent.call(tool, json!({"text": "x"})).await?;
    let error = answered.error()?;
    assert_eq!(error["code"], -32602, "{error}");
    Ok(error["message"].as_str().context("no message")?.to_owned())
}

#[tokio::test]
async fn what_an_address_does_not_name_is_neither_listed_nor_callable() -> Result<()> {
    let mut world = World::new().await?;
    world.start("shop").await?;
    world.start("blog").await?;
    let all = world.agent("/mcp").await?;
    let agent = world.agent("/mcp?only=shop&except=shop/*/e?ho").await?;
    let names = agent.list("tools").await?;
    assert!(names.iter().all(|name| name.starts_with("shop__") && name != "shop__echo"), "{names:?}");
    assert_eq!(names.len(), all.list("tools").await?.iter().filter(|name| name.starts_with("shop__")).count() - 1);
    for kind in ["prompts", "resources", "resources/templates"] {
        assert!(agent.list(kind).await?.len() < all.list(kind).await?.len(), "{kind}");
    }
    assert!(refused(&agent, "shop__echo").await?.contains(r#""except" of this connection names "shop/*/e?ho""#));
    assert!(refused(&agent, "blog__echo").await?.contains(r#""only" of this connection does not name it"#));
    assert_eq!(all.call("blog__echo", json!({"text": "1"})).await?.text()?, "blog: 1");
    let theirs = all.list("resources").await?.into_iter().find(|uri| uri.contains("blog")).context("no resource")?;
    let read = agent.request(json!(2), "resources/read", json!({"uri": theirs})).await?;
    assert!(read.error()?["message"].as_str().is_some_and(|message| message.contains("hidden")), "{read:?}");
    Ok(())
}

#[tokio::test]
async fn the_settings_hold_at_every_address_and_a_connection_cannot_widen_them() -> Result<()> {
    let mut world = World::with(|settings| {
        settings.gateway.allow = patterns("shop");
        settings.gateway.deny = patterns("*/*/echo");
    })
    .await?;
    world.start("shop").await?;
    world.start("blog").await?;
    let agent = world.agent("/mcp?only=shop,blog").await?;
    assert!(agent.list("tools").await?.iter().all(|name| name.starts_with("shop__") && name != "shop__echo"));
    assert!(refused(&agent, "blog__grow").await?.contains("gateway.allow"));
    let one = world.agent("/i/shop/mcp").await?;
    assert!(!one.list("tools").await?.contains(&String::from("echo")));
    assert!(refused(&one, "echo").await?.contains("gateway.deny"));
    let none = world.agent("/i/blog/mcp").await?;
    assert!(none.list("tools").await?.is_empty());
    assert!(refused(&none, "echo").await?.contains("hidden"));
    Ok(())
}

#[tokio::test]
async fn a_choice_outlives_the_hub_and_its_session_is_good_for_it_only() -> Result<()> {
    let mut world = World::new().await?;
    world.start("shop").await?;
    world.start("blog").await?;
    let before = world.agent("/mcp?only=shop,blog/*/echo").await?;
    let names = before.list("tools").await?;
    world.restart_hub().await?;
    let wider = before.elsewhere(world.url("/mcp"));
    let answer = wider.send(&json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"})).await?;
    assert_eq!(answer.status(), StatusCode::NOT_FOUND, "a session is bound to what it shows");
    let after = before.elsewhere(world.url("/mcp?only=blog/*/echo,shop"));
    assert_eq!(after.list("tools").await?, names, "the same session, in whatever order the choice is written");
    assert!(refused(&after, "blog__die").await?.contains("hidden"));
    assert_eq!(after.call("blog__echo", json!({"text": "1"})).await?.text()?, "blog: 1");
    Ok(())
}

#[tokio::test]
async fn a_project_comes_first_and_may_stand_alone() -> Result<()> {
    let mut world = World::new().await?;
    world.start("blog").await?;
    world.start("shop").await?;
    let dir = world.state("shop").display().to_string();
    let first = world.agent(&format!("/mcp?project={dir}")).await?.list("tools").await?;
    let at = |name: &str| first.iter().position(|tool| tool == name).context("not listed");
    assert!(at("shop__echo")? < at("blog__echo")?, "{first:?}");
    let alone = world.agent(&format!("/mcp?project={dir}/src&project_only=true")).await?;
    assert!(alone.list("tools").await?.iter().all(|name| name.starts_with("shop__")));
    assert!(refused(&alone, "blog__echo").await?.contains("the project"));
    Ok(())
}

#[tokio::test]
async fn an_address_that_cannot_be_read_is_refused() -> Result<()> {
    let world = World::new().await?;
    for query in ["onyl=shop", "only=shop__echo", "project=here", "tools=some"] {
        let error = Agent::begin(world.url(&format!("/mcp?{query}"))).await.expect_err("it began a session");
        let told = error.to_string();
        assert!(told.contains("400") && told.contains("bad_request"), "{query}: {told}");
    }
    Ok(())
}
