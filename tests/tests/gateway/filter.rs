//! What an agent is shown, by the settings and by the URL that it uses.

use crate::lab::GatewayLab;
use anyhow::{Context, Result};
use linchpin_shared::pattern::Pattern;
use linchpin_tests::agent::http::Http;
use reqwest::StatusCode;
use serde_json::json;

fn patterns(text: &str) -> Vec<Pattern> {
    Pattern::parse(text).into_iter().collect()
}

async fn refused(agent: &Http, tool: &str) -> Result<String> {
    let answered = agent.try_call(tool, json!({"text": "x"})).await?;
    let error = answered.error()?;
    assert_eq!(error["code"], -32602, "{error}");
    Ok(error["message"].as_str().context("no message")?.to_owned())
}

#[tokio::test]
async fn tools_outside_the_filter_are_neither_listed_nor_callable() -> Result<()> {
    let mut lab = GatewayLab::new().await?;
    lab.start("shop").await?;
    lab.start("blog").await?;
    let all = lab.agent("/mcp").await?;
    let agent = lab.agent("/mcp?only=shop&except=shop/*/e?ho").await?;
    let names = agent.names("tools").await?;
    assert!(names.iter().all(|name| name.starts_with("shop__") && name != "shop__echo"), "{names:?}");
    assert_eq!(names.len(), all.names("tools").await?.iter().filter(|name| name.starts_with("shop__")).count() - 1);
    for kind in ["prompts", "resources", "resources/templates"] {
        assert!(agent.names(kind).await?.len() < all.names(kind).await?.len(), "{kind}");
    }
    assert!(refused(&agent, "shop__echo").await?.contains(r#""except" of this connection names "shop/*/e?ho""#));
    assert!(refused(&agent, "blog__echo").await?.contains(r#""only" of this connection does not name it"#));
    assert_eq!(all.try_call("blog__echo", json!({"text": "1"})).await?.text()?, "blog: 1");
    let theirs = all.names("resources").await?.into_iter().find(|uri| uri.contains("blog")).context("no resource")?;
    let read = agent.exchange(json!(2), "resources/read", json!({"uri": theirs})).await?;
    assert!(read.error()?["message"].as_str().is_some_and(|message| message.contains("hidden")), "{read:?}");
    Ok(())
}

#[tokio::test]
async fn settings_apply_at_every_path_and_cannot_be_widened() -> Result<()> {
    let mut lab = GatewayLab::with(|settings| {
        settings.gateway.allow = patterns("shop");
        settings.gateway.deny = patterns("*/*/echo");
    })
    .await?;
    lab.start("shop").await?;
    lab.start("blog").await?;
    let agent = lab.agent("/mcp?only=shop,blog").await?;
    assert!(agent.names("tools").await?.iter().all(|name| name.starts_with("shop__") && name != "shop__echo"));
    assert!(refused(&agent, "blog__grow").await?.contains("gateway.allow"));
    let one = lab.agent("/i/shop/mcp").await?;
    assert!(!one.names("tools").await?.contains(&String::from("echo")));
    assert!(refused(&one, "echo").await?.contains("gateway.deny"));
    let none = lab.agent("/i/blog/mcp").await?;
    assert!(none.names("tools").await?.is_empty());
    assert!(refused(&none, "echo").await?.contains("hidden"));
    Ok(())
}

#[tokio::test]
async fn filter_survives_the_hub_and_binds_its_session() -> Result<()> {
    let mut lab = GatewayLab::new().await?;
    lab.start("shop").await?;
    lab.start("blog").await?;
    let before = lab.agent("/mcp?only=shop,blog/*/echo").await?;
    let names = before.names("tools").await?;
    lab.restart_hub().await?;
    let wider = before.elsewhere(lab.url("/mcp"));
    let answer = wider.send(&json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"})).await?;
    assert_eq!(answer.status(), StatusCode::NOT_FOUND, "a session is bound to its filter");
    let after = before.elsewhere(lab.url("/mcp?only=blog/*/echo,shop"));
    assert_eq!(after.names("tools").await?, names, "the order of the names in a filter does not matter");
    assert!(refused(&after, "blog__die").await?.contains("hidden"));
    assert_eq!(after.try_call("blog__echo", json!({"text": "1"})).await?.text()?, "blog: 1");
    Ok(())
}

#[tokio::test]
async fn project_instances_come_first_and_may_be_shown_alone() -> Result<()> {
    let mut lab = GatewayLab::new().await?;
    lab.start("blog").await?;
    lab.start("shop").await?;
    let dir = lab.state("shop").display().to_string();
    let first = lab.agent(&format!("/mcp?project={dir}")).await?.names("tools").await?;
    let at = |name: &str| first.iter().position(|tool| tool == name).context("not listed");
    assert!(at("shop__echo")? < at("blog__echo")?, "{first:?}");
    let alone = lab.agent(&format!("/mcp?project={dir}/src&project_only=true")).await?;
    assert!(alone.names("tools").await?.iter().all(|name| name.starts_with("shop__")));
    assert!(refused(&alone, "blog__echo").await?.contains("the project"));
    Ok(())
}

#[tokio::test]
async fn invalid_filter_in_the_url_is_refused() -> Result<()> {
    let lab = GatewayLab::new().await?;
    for query in ["onyl=shop", "only=shop__echo", "project=here", "tools=some"] {
        let error = lab.agent(&format!("/mcp?{query}")).await.expect_err("it began a session");
        let told = error.to_string();
        assert!(told.contains("400") && told.contains("bad_request"), "{query}: {told}");
    }
    Ok(())
}
