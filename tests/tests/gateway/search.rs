//! Searching tools instead of listing them.

use crate::lab::GatewayLab;
use anyhow::{Context, Result, ensure};
use linchpin_tests::agent::http::Http;
use linchpin_tests::agent::stream::PATIENCE;
use linchpin_tests::wait::until;
use serde_json::{Value, json};

const META: [&str; 3] = ["linchpin__search_tools", "linchpin__describe_tool", "linchpin__call_tool"];

async fn two_instance_lab() -> Result<GatewayLab> {
    let mut lab = GatewayLab::new().await?;
    lab.start("shop").await?;
    lab.start("blog").await?;
    Ok(lab)
}

async fn found(agent: &Http, arguments: Value) -> Result<Vec<String>> {
    let answered = agent.try_call(META[0], arguments).await?;
    let tools = answered.result()?["structuredContent"]["tools"].as_array().context("no tools")?.clone();
    Ok(tools.iter().map(|tool| tool["name"].as_str().unwrap_or_default().to_owned()).collect())
}

fn wrapped(tool: &str, arguments: &Value) -> Value {
    json!({"name": tool, "arguments": arguments})
}

#[tokio::test]
async fn three_search_tools_stand_for_all_tools() -> Result<()> {
    let mut lab = two_instance_lab().await?;
    let agent = lab.agent("/mcp?tools=search").await?;
    assert!(agent.about()["instructions"].as_str().is_some_and(|told| told.contains(META[0])), "{}", agent.about());
    assert_eq!(agent.names("tools").await?, META);
    assert_eq!(found(&agent, json!({"query": "shop echo"})).await?[0], "shop__echo");
    assert_eq!(found(&agent, json!({"limit": 100})).await?.len(), 24, "all of them, in order");
    assert!(found(&agent, json!({"query": "weather"})).await?.is_empty());
    let described = agent.try_call(META[1], json!({"name": "shop__facts"})).await?;
    let tool = &described.result()?["structuredContent"]["tool"];
    assert_eq!((&tool["name"], &tool["x_unknown"]["kept"]), (&json!("shop__facts"), &json!(1.0)));
    let described = agent.try_call(META[1], json!({"name": "shop__ehco"})).await?;
    assert!(described.result()?["isError"] == true && described.text()?.contains("shop__echo"), "{described:?}");

    assert_eq!(agent.try_call(META[2], wrapped("shop__echo", &json!({"text": "1"}))).await?.text()?, "shop: 1");
    assert_eq!(agent.try_call(META[2], json!({"name": "blog__echo"})).await?.text()?, "blog: None");
    lab.restart_hub().await?;
    let after = agent.elsewhere(lab.url("/mcp?tools=search"));
    assert_eq!(after.names("tools").await?, META, "the same session of the next hub");
    assert_eq!(after.try_call(META[2], wrapped("blog__echo", &json!({"text": "2"}))).await?.text()?, "blog: 2");
    Ok(())
}

#[tokio::test]
async fn call_tool_behaves_like_a_direct_call() -> Result<()> {
    let lab = two_instance_lab().await?;
    let agent = lab.agent("/mcp?tools=search&except=blog").await?;
    let call = json!({"name": META[2], "arguments": wrapped("shop__progress", &json!({"steps": 2, "say": "on"})),
        "_meta": {"progressToken": "t"}});
    let answered = agent.exchange(json!(7), "tools/call", call).await?;
    let progress: Vec<_> = answered.before.iter().map(|message| &message["params"]["progressToken"]).collect();
    assert_eq!((progress, answered.text()?), (vec![&json!("t"); 2], "on"));

    for (arguments, code) in [
        (wrapped("blog__echo", &json!({})), -32602),
        (wrapped("shop__none", &json!({})), -32602),
        (wrapped(META[2], &json!({})), -32602),
        (json!({}), -32602),
        (json!([]), -32602),
        (wrapped("shop__die", &json!({})), -32000),
    ] {
        let answered = agent.try_call(META[2], arguments.clone()).await?;
        assert_eq!(answered.error()?["code"], code, "{arguments}");
    }
    let waiting = agent.clone();
    let call = wrapped("shop__wait", &json!({"tag": "mine"}));
    let waiting = tokio::spawn(async move { waiting.exchange(json!(9), "tools/call", wrapped(META[2], &call)).await });
    until("the call arrived", PATIENCE, async || {
        ensure!(!lab.noted("shop", "waiting").is_empty(), "nothing waits");
        Ok(())
    })
    .await?;
    agent.notify("notifications/cancelled", json!({"requestId": 9})).await?;
    until("the cancellation arrived", PATIENCE, async || {
        let cancelled = lab.noted("shop", "cancelled");
        ensure!(cancelled == ["mine"], "{cancelled:?}");
        Ok(())
    })
    .await?;
    assert!(waiting.await??.response.is_none());
    Ok(())
}

#[tokio::test]
async fn search_tool_list_is_independent_of_instances() -> Result<()> {
    let lab = two_instance_lab().await?;
    let listing = lab.agent("/mcp").await?;
    // Otherwise lists that arrive later would cause a notification.
    for kind in ["tools", "prompts", "resources", "resources/templates"] {
        listing.names(kind).await?;
    }
    let searching = lab.agent("/mcp?tools=search").await?;
    let (mut quiet, mut told) = (searching.listen().await?, listing.listen().await?);
    searching.try_call("shop__grow", json!({"name": "grown"})).await?.text()?;
    told.wait_for("notifications/tools/list_changed").await?;
    searching.try_call("shop__log", json!({"tag": "end"})).await?;
    lab.agent("/i/shop/mcp").await?.try_call("log", json!({"tag": "end"})).await?;
    let first = quiet.first("the first message", PATIENCE, |_| true).await?;
    assert_eq!(first["method"], "notifications/message", "{first}");
    assert_eq!(found(&searching, json!({"query": "grown"})).await?, ["shop__grown"]);
    Ok(())
}

#[tokio::test]
async fn search_mode_is_set_by_settings_or_by_connection() -> Result<()> {
    let mut lab = GatewayLab::with(|settings| {
        settings.gateway.tools = linchpin_shared::settings::ToolListing::Search;
        settings.gateway.own_tools = true;
    })
    .await?;
    lab.start("shop").await?;
    let names = lab.agent("/mcp").await?.names("tools").await?;
    assert_eq!((names.len(), &names[4..]), (7, &META.map(String::from)[..]));
    assert_eq!(lab.agent("/mcp?tools=all").await?.names("tools").await?.len(), 12 + 4);
    let agent = lab.agent("/mcp").await?;
    let through = agent.try_call(META[2], wrapped("linchpin__status", &json!({}))).await?;
    assert!(through.text()?.contains("shop"), "{through:?}");
    Ok(())
}
