//! The builtin tools and resources of the hub, with which an agent sees what is wrong and repairs it.

use crate::lab::GatewayLab;
use anyhow::{Context, Result, ensure};
use linchpin_shared::pattern::Pattern;
use linchpin_tests::agent::http::Http;
use linchpin_tests::agent::stream::PATIENCE;
use linchpin_tests::wait::until;
use serde_json::{Value, json};

const OWN: [&str; 4] = ["linchpin__status", "linchpin__explain", "linchpin__logs", "linchpin__restart"];

async fn builtin_lab() -> Result<GatewayLab> {
    let mut lab = GatewayLab::with(|settings| settings.gateway.own_tools = true).await?;
    lab.start("shop").await?;
    Ok(lab)
}

/// The text and the structured content of a call that succeeds.
async fn succeeded(agent: &Http, tool: &str, arguments: Value) -> Result<(String, Value)> {
    let answered = agent.try_call(tool, arguments).await?;
    let result = answered.result()?;
    ensure!(result["isError"] == false, "{result}");
    Ok((answered.text()?.to_owned(), result["structuredContent"].clone()))
}

/// The text and the problem of a call that fails.
async fn failed(agent: &Http, tool: &str, arguments: Value) -> Result<(String, Value)> {
    let answered = agent.try_call(tool, arguments).await?;
    let result = answered.result()?;
    ensure!(result["isError"] == true, "{result}");
    Ok((answered.text()?.to_owned(), result["structuredContent"].clone()))
}

#[tokio::test]
async fn builtin_tools_are_listed_last_with_annotations() -> Result<()> {
    let mut lab = builtin_lab().await?;
    lab.start("zebra").await?;
    let agent = lab.agent("/mcp").await?;
    let names = agent.names("tools").await?;
    assert_eq!(names[names.len() - 4..], OWN, "{names:?}");
    let listed = agent.exchange(json!(1), "tools/list", json!({})).await?;
    for tool in listed.result()?["tools"].as_array().context("no list")?.iter().rev().take(4) {
        let reads = tool["name"] != "linchpin__restart";
        assert_eq!(tool["annotations"]["readOnlyHint"], reads, "{tool}");
        assert_eq!(tool["annotations"]["destructiveHint"] == true, !reads, "{tool}");
        assert_eq!(tool["inputSchema"]["additionalProperties"], false, "{tool}");
    }
    assert!(!lab.agent("/i/shop/mcp").await?.names("tools").await?.iter().any(|name| name.contains("linchpin")));
    Ok(())
}

#[tokio::test]
async fn builtin_tools_explain_an_instance_that_is_down() -> Result<()> {
    let mut lab = builtin_lab().await?;
    let agent = lab.agent("/mcp").await?;
    let (text, status) = succeeded(&agent, "linchpin__status", json!({})).await?;
    assert!(text.contains("shop") && text.contains("active"), "{text}");
    assert_eq!(status["instances"][0]["servers"][0]["session"], "ready");
    lab.kill("shop").await?;
    until("the hub knows", PATIENCE, async || {
        let catalog = lab.gateway().servers();
        ensure!(catalog.iter().all(|server| server.why.is_some()), "{catalog:?}");
        Ok(())
    })
    .await?;
    let (text, one) = succeeded(&agent, "linchpin__status", json!({"instance": "shop"})).await?;
    assert!(one["name"] == "shop" && one["state"] != "active" && text.contains("shop"), "{one}");
    let (text, story) = succeeded(&agent, "linchpin__explain", json!({"instance": "shop", "lines": 5})).await?;
    assert!(text.starts_with("shop is ") && story["transitions"].is_array(), "{text}");
    let (text, problem) = failed(&agent, "linchpin__restart", json!({"instance": "shop"})).await?;
    assert!(problem["code"].is_string() && text.contains("1. "), "the next steps are missing: {text}");
    let (_, problem) = failed(&agent, "linchpin__explain", json!({"instance": "shpo"})).await?;
    assert_eq!(problem["code"], "instance_not_found");
    let (_, problem) = failed(&agent, "linchpin__restart", json!({"instance": "shop", "command": "x"})).await?;
    assert_eq!(problem["code"], "bad_request");
    Ok(())
}

#[tokio::test]
async fn builtin_tools_read_logs_and_restart_processes() -> Result<()> {
    let lab = builtin_lab().await?;
    let agent = lab.agent("/mcp").await?;
    let pid = async || -> Result<Value> {
        let facts: Value = serde_json::from_str(agent.try_call("shop__facts", json!({})).await?.text()?)?;
        Ok(facts["pid"].clone())
    };
    let before = pid().await?;
    let (_, failure) = failed(&agent, "linchpin__restart", json!({"instance": "shop", "process": "none"})).await?;
    assert_eq!(failure["code"], "process_not_found");
    let (text, done) = succeeded(&agent, "linchpin__restart", json!({"instance": "shop"})).await?;
    assert!(done["restarting"].as_array().is_some_and(|all| all.len() == 1) && text.contains("shop"), "{done}");
    // The same session continues: a call waits for the server, or is interrupted by its end.
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        match pid().await {
            Ok(now) if now != before => break,
            seen if tokio::time::Instant::now() > deadline => anyhow::bail!("not restarted: {seen:?}, it was {before}"),
            Ok(_) | Err(_) => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
        }
    }
    let process = done["restarting"][0].clone();
    let log = lab.home().process_log("shop", process.as_str().context("no name")?);
    std::fs::create_dir_all(log.parent().context("no parent")?)?;
    std::fs::write(&log, "one\ntwo\n")?;
    let (text, structured) = succeeded(&agent, "linchpin__logs", json!({"instance": "shop", "lines": 1})).await?;
    assert_eq!((text.as_str(), &structured["lines"]), ("two\n", &json!(["two"])));
    Ok(())
}

#[tokio::test]
async fn instances_are_resources_and_changes_are_announced() -> Result<()> {
    let mut lab = builtin_lab().await?;
    // What servers offer is hidden, so that every notification is about the instances.
    let agent = lab.agent("/mcp?except=*/*/?*").await?;
    assert_eq!(agent.names("resources").await?, ["linchpin://instances", "linchpin://instances/shop"]);
    assert_eq!(agent.names("resources/templates").await?, ["linchpin://instances/{name}/logs"]);
    let all = lab.agent("/mcp").await?.names("resources").await?;
    assert_eq!(all[all.len() - 2..], ["linchpin://instances", "linchpin://instances/shop"], "last");
    let mut stream = agent.listen().await?;
    lab.start("blog").await?;
    stream.wait_for("notifications/resources/list_changed").await?;
    assert!(agent.names("resources").await?.contains(&String::from("linchpin://instances/blog")));
    let read = async |uri: &str| agent.exchange(json!(1), "resources/read", json!({"uri": uri})).await;
    let one = read("linchpin://instances/shop").await?;
    let text = one.result()?["contents"][0]["text"].as_str().context("no text")?;
    assert_eq!(serde_json::from_str::<Value>(text)?["name"], "shop");
    let all = read("linchpin://instances").await?;
    assert!(all.result()?["contents"][0]["text"].as_str().is_some_and(|text| text.contains("blog")), "{all:?}");
    for uri in ["linchpin://instances/none", "linchpin://other", "linchpin://instances/../logs"] {
        assert_eq!(read(uri).await?.error()?["code"], -32002, "{uri}");
    }
    Ok(())
}

#[tokio::test]
async fn builtin_tools_respect_the_filter_of_the_connection() -> Result<()> {
    let mut lab = builtin_lab().await?;
    lab.start("blog").await?;
    let agent = lab.agent("/mcp?only=shop").await?;
    let (text, status) = succeeded(&agent, "linchpin__status", json!({})).await?;
    assert!(!text.contains("blog") && !status.to_string().contains("blog"), "{status}");
    for tool in &OWN[1..] {
        let (text, _) = failed(&agent, tool, json!({"instance": "blog"})).await?;
        assert!(text.contains("hidden") && text.contains("only"), "{tool}: {text}");
    }
    assert!(!agent.names("resources").await?.contains(&String::from("linchpin://instances/blog")));
    let read = agent.exchange(json!(1), "resources/read", json!({"uri": "linchpin://instances/blog/logs"})).await?;
    assert_eq!(read.error()?["code"], -32002);
    Ok(())
}

#[tokio::test]
async fn builtin_tools_are_disabled_by_settings() -> Result<()> {
    let lab = GatewayLab::new().await?;
    let agent = lab.agent("/mcp").await?;
    assert!(agent.names("tools").await?.is_empty() && agent.names("resources").await?.is_empty());
    assert_eq!(agent.try_call("linchpin__status", json!({})).await?.error()?["data"]["code"], "unknown_tool");
    let lab = GatewayLab::with(|settings| {
        settings.gateway.own_tools = true;
        settings.gateway.deny = Pattern::parse("linchpin/*/restart").into_iter().collect();
    })
    .await?;
    let agent = lab.agent("/mcp").await?;
    assert_eq!(agent.names("tools").await?, OWN[..3]);
    let refused = agent.try_call("linchpin__restart", json!({"instance": "shop"})).await?;
    assert!(refused.error()?["message"].as_str().is_some_and(|told| told.contains("gateway.deny")), "{refused:?}");
    Ok(())
}

#[tokio::test]
async fn instance_changes_are_sent_to_subscribers() -> Result<()> {
    let mut lab = builtin_lab().await?;
    lab.start("blog").await?;
    let agent = lab.agent("/mcp").await?;
    let mut stream = agent.listen().await?;
    let subscribe = async |uri: &str| agent.exchange(json!(1), "resources/subscribe", json!({"uri": uri})).await;
    for uri in ["linchpin://instances", "linchpin://instances/shop", "linchpin://instances/blog"] {
        subscribe(uri).await?.result()?;
    }
    assert_eq!(subscribe("linchpin://instances/shop/logs").await?.error()?["code"], -32602);
    let unsubscribed = json!({"uri": "linchpin://instances/blog"});
    agent.exchange(json!(2), "resources/unsubscribe", unsubscribed).await?.result()?;
    let mut seen = Vec::new();
    // A change before the first look of the hub causes no notification, so the test changes it until there is one.
    let mut rounds = 0;
    while !(seen.contains(&json!("linchpin://instances")) && seen.contains(&json!("linchpin://instances/shop"))) {
        rounds += 1;
        assert!(rounds <= 10, "one of them is not mentioned: {seen:?}");
        for instance in ["blog", "shop"] {
            let (_, done) = succeeded(&agent, "linchpin__restart", json!({"instance": instance})).await?;
            assert!(done["restarting"].is_array(), "{done}");
        }
        let updated = stream.wait_for("notifications/resources/updated");
        if let Ok(updated) = tokio::time::timeout(std::time::Duration::from_secs(2), updated).await {
            seen.push(updated?["params"]["uri"].clone());
        }
        assert!(seen.len() < 20 && !seen.contains(&json!("linchpin://instances/blog")), "{seen:?}");
    }
    Ok(())
}

#[tokio::test]
async fn log_template_completes_instance_names() -> Result<()> {
    let mut lab = builtin_lab().await?;
    lab.start("blog").await?;
    let agent = lab.agent("/mcp").await?;
    let complete = async |argument: Value| {
        let reference = json!({"type": "ref/resource", "uri": "linchpin://instances/{name}/logs"});
        agent.exchange(json!(1), "completion/complete", json!({"ref": reference, "argument": argument})).await
    };
    let done = complete(json!({"name": "name", "value": "s"})).await?;
    assert_eq!(done.result()?["completion"], json!({"values": ["shop"], "total": 1, "hasMore": false}));
    let all = complete(json!({"name": "name", "value": ""})).await?;
    assert_eq!(all.result()?["completion"]["values"], json!(["blog", "shop"]));
    assert_eq!(complete(json!({"name": "other", "value": ""})).await?.error()?["code"], -32602);
    Ok(())
}
