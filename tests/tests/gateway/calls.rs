//! Tools, prompts and resources, with progress, cancellation, logs, completion and subscriptions.

use crate::lab::GatewayLab;
use anyhow::{Result, ensure};
use linchpin_tests::agent::http::Http;
use linchpin_tests::agent::stream::PATIENCE;
use linchpin_tests::wait::until;
use serde_json::{Value, json};
use std::time::Duration;

async fn two() -> Result<GatewayLab> {
    let mut lab = GatewayLab::new().await?;
    lab.launch("shop")?;
    lab.launch("blog")?;
    lab.ready("shop").await?;
    lab.ready("blog").await?;
    Ok(lab)
}

fn with_token(tool: &str, arguments: &Value, token: &Value) -> Value {
    json!({"name": tool, "arguments": arguments, "_meta": {"progressToken": token}})
}

async fn facts(agent: &Http, tool: &str) -> Result<Value> {
    Ok(serde_json::from_str(agent.try_call(tool, json!({})).await?.text()?)?)
}

#[tokio::test]
async fn tools_of_two_instances_are_listed_side_by_side() -> Result<()> {
    let lab = two().await?;
    let all = lab.agent("/mcp").await?;
    let names = all.names("tools").await?;
    let of = |prefix: &str| names.iter().filter(|name| name.starts_with(prefix)).count();
    assert_eq!((names.len(), of("shop__"), of("blog__")), (24, 12, 12), "{names:?}");
    assert_eq!(names[0], "blog__echo", "in the order of names");
    assert_eq!(all.try_call("shop__echo", json!({"text": "a"})).await?.text()?, "shop: a");
    assert_eq!(all.try_call("blog__echo", json!({"text": "b"})).await?.text()?, "blog: b");

    let one = lab.agent("/i/shop/mcp").await?;
    assert_eq!(one.about()["serverInfo"]["name"], "shop");
    assert_eq!(one.about()["instructions"], "for tests");
    assert_eq!(one.names("tools").await?.len(), 12);
    assert_eq!(one.try_call("echo", json!({"text": "c"})).await?.text()?, "shop: c");
    let server = lab.agent("/i/blog/main/mcp").await?;
    assert_eq!(server.try_call("echo", json!({"text": "d"})).await?.text()?, "blog: d");
    assert_eq!(one.exchange(json!(1), "tests/own", json!({})).await?.result()?, &json!({"own": "shop"}));
    Ok(())
}

#[tokio::test]
async fn unknown_fields_pass_byte_for_byte() -> Result<()> {
    let mut lab = GatewayLab::new().await?;
    lab.start("shop").await?;
    let agent = lab.agent("/mcp").await?;
    let call = r#"{ "params" : {"arguments":{"text":"ü\u00fc","n":1.0,"big":12345678901234567890123},"name":"shop__echo"},
        "jsonrpc":"2.0","method":"tools/call","id":"x y"}"#;
    let text = agent.post(call).send().await?.text().await?;
    assert!(text.contains(r#""one": 1.0"#) && text.contains(r#""n": 1.0"#), "{text}");
    assert!(text.contains("12345678901234567890123") && text.contains(r#""x y""#), "{text}");
    let list = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"});
    let text = agent.post(list.to_string()).send().await?.text().await?;
    assert!(text.contains(r#""x_unknown": {"kept": 1.0}"#), "{text}");
    Ok(())
}

#[tokio::test]
async fn unknown_tool_error_suggests_near_names() -> Result<()> {
    let lab = two().await?;
    let agent = lab.agent("/mcp").await?;
    for name in ["shop__ecko", "shp__echo", "echo"] {
        let answered = agent.try_call(name, json!({})).await?;
        let error = answered.error()?;
        assert_eq!((&error["code"], &error["data"]["code"]), (&json!(-32602), &json!("unknown_tool")));
        let near = error["data"]["observed"]["near"].to_string();
        assert!(near.contains("shop__echo") || near.contains("blog__echo"), "{error}");
    }
    let one = lab.agent("/i/shop/mcp").await?;
    let answered = one.try_call("ecko", json!({})).await?;
    assert_eq!(answered.error()?["message"], "Unknown tool: ecko", "the server's own words");
    let answered = agent.exchange(json!(1), "tools/call", json!({"name": 7})).await?;
    assert_eq!(answered.error()?["code"], -32602);
    let answered = agent.try_call("shop__count", json!({"die_at": null, "x": 1})).await?;
    assert_eq!(answered.text()?, "1");
    Ok(())
}

#[tokio::test]
async fn progress_reaches_its_own_request() -> Result<()> {
    let mut lab = GatewayLab::new().await?;
    lab.start("shop").await?;
    let (a, b) = (lab.agent("/mcp").await?, lab.agent("/mcp").await?);
    let call = |say: &str| with_token("shop__progress", &json!({"steps": 3, "say": say, "seconds": 0.2}), &json!("t"));
    let (a, b) = tokio::join!(
        a.exchange(json!(1), "tools/call", call("for a")),
        b.exchange(json!(1), "tools/call", call("for b")),
    );
    for (answered, say) in [(a?, "for a"), (b?, "for b")] {
        assert_eq!(answered.text()?, say);
        let progress: Vec<_> = answered.before.iter().map(|message| &message["params"]).collect();
        let expected: Vec<_> = (1..4).map(|n| json!({"progressToken": "t", "progress": n, "message": say})).collect();
        assert_eq!(progress, expected.iter().collect::<Vec<_>>());
    }
    Ok(())
}

#[tokio::test]
async fn cancellation_reaches_its_own_request() -> Result<()> {
    let mut lab = GatewayLab::new().await?;
    lab.start("shop").await?;
    let (a, b) = (lab.agent("/mcp").await?, lab.agent("/mcp").await?);
    let wait = |agent: &Http, tag: &str| {
        let (agent, arguments) = (agent.clone(), json!({"tag": tag, "seconds": 4}));
        tokio::spawn(async move { agent.try_call("shop__wait", arguments).await })
    };
    let (of_a, of_b) = (wait(&a, "a"), wait(&b, "b"));
    until("both wait", PATIENCE, async || {
        let waiting = lab.noted("shop", "waiting");
        ensure!(waiting.len() == 2, "{waiting:?}");
        Ok(())
    })
    .await?;
    a.notify("notifications/cancelled", json!({"requestId": 1, "reason": "enough"})).await?;
    let answered = of_a.await??;
    assert!(answered.response.is_none() && answered.before.is_empty(), "{answered:?}");
    until("the server received the cancellation", PATIENCE, async || {
        let cancelled = lab.noted("shop", "cancelled");
        ensure!(cancelled == ["a"], "{cancelled:?}");
        Ok(())
    })
    .await?;
    assert_eq!(of_b.await??.text()?, "waited");
    Ok(())
}

#[tokio::test]
async fn log_messages_respect_the_level_of_each_client() -> Result<()> {
    let mut lab = GatewayLab::new().await?;
    lab.start("shop").await?;
    let (loud, quiet) = (lab.agent("/mcp").await?, lab.agent("/i/shop/mcp").await?);
    let (mut loud_log, mut quiet_log) = (loud.listen().await?, quiet.listen().await?);
    for (agent, level) in [(&loud, "info"), (&quiet, "error")] {
        agent.exchange(json!(1), "logging/setLevel", json!({"level": level})).await?.result()?;
    }
    until("the lowest is asked for", PATIENCE, async || {
        let levels = lab.noted("shop", "levels");
        ensure!(levels.last().is_some_and(|level| level == "info"), "{levels:?}");
        Ok(())
    })
    .await?;
    loud.try_call("shop__log", json!({"tag": "x"})).await?.text()?;
    let level = |message: Value| message["params"]["level"].as_str().unwrap_or_default().to_owned();
    assert_eq!(level(loud_log.wait_for("notifications/message").await?), "info");
    assert_eq!(level(quiet_log.wait_for("notifications/message").await?), "error");
    let bad = quiet.exchange(json!(1), "logging/setLevel", json!({"level": "loud"})).await?;
    assert_eq!(bad.error()?["code"], -32602);
    Ok(())
}

#[tokio::test]
async fn prompts_and_completions_reach_their_server() -> Result<()> {
    let lab = two().await?;
    let agent = lab.agent("/mcp").await?;
    assert_eq!(agent.names("prompts").await?, ["blog__greet", "shop__greet"]);
    let greeting =
        agent.exchange(json!(1), "prompts/get", json!({"name": "shop__greet", "arguments": {"who": "you"}})).await?;
    assert_eq!(greeting.result()?["messages"][0]["content"]["text"], "shop greets you");
    let complete = async |reference: Value| -> Result<String> {
        let params = json!({"ref": reference, "argument": {"name": "who", "value": "y"}});
        let answered = agent.exchange(json!(1), "completion/complete", params).await?;
        Ok(answered.result()?["completion"]["values"][0].as_str().unwrap_or_default().to_owned())
    };
    let prompt = complete(json!({"type": "ref/prompt", "name": "blog__greet"})).await?;
    assert_eq!(prompt, r#"blog {"name": "greet", "type": "ref/prompt"}"#);
    let template = complete(json!({"type": "ref/resource", "uri": "fix://shop/{id}"})).await?;
    assert!(template.starts_with("shop "), "{template}");
    let wrong = agent.exchange(json!(1), "completion/complete", json!({"ref": {"type": "x"}})).await?;
    assert_eq!(wrong.error()?["code"], -32602);
    Ok(())
}

#[tokio::test]
async fn resources_are_found_by_list_template_and_query() -> Result<()> {
    let lab = two().await?;
    let agent = lab.agent("/mcp").await?;
    assert_eq!(agent.names("resources").await?, ["fix://blog/1", "both://x", "fix://shop/1"]);
    assert_eq!(agent.names("resources/templates").await?, ["fix://blog/{id}", "fix://shop/{id}"]);
    for (uri, owner) in
        [("fix://shop/1", "shop"), ("fix://shop/77", "shop"), ("both://x", "blog"), ("hidden://shop", "shop")]
    {
        let read = agent.exchange(json!(1), "resources/read", json!({"uri": uri})).await?;
        assert_eq!(read.result()?["contents"][0]["text"], owner, "{uri}");
    }
    let missing = agent.exchange(json!(1), "resources/read", json!({"uri": "no://where"})).await?;
    assert_eq!(missing.error()?["code"], -32002);
    Ok(())
}

#[tokio::test]
async fn shared_subscription_survives_a_server_restart() -> Result<()> {
    let mut lab = GatewayLab::new().await?;
    lab.start("shop").await?;
    let (a, b) = (lab.agent("/mcp").await?, lab.agent("/i/shop/mcp").await?);
    let (mut to_a, mut to_b) = (a.listen().await?, b.listen().await?);
    let uri = json!({"uri": "fix://shop/1"});
    for agent in [&a, &b] {
        agent.exchange(json!(1), "resources/subscribe", uri.clone()).await?.result()?;
    }
    a.try_call("shop__touch", uri.clone()).await?.text()?;
    to_a.wait_for("notifications/resources/updated").await?;
    to_b.wait_for("notifications/resources/updated").await?;

    a.exchange(json!(1), "resources/unsubscribe", uri.clone()).await?.result()?;
    assert_eq!(facts(&b, "facts").await?["subscribed"], json!(["fix://shop/1"]), "the other one still wants it");
    b.try_call("die", json!({})).await?.error()?;
    b.try_call("touch", uri.clone()).await?.text()?;
    to_b.wait_for("notifications/resources/updated").await?;
    assert_eq!(facts(&b, "facts").await?["subscribed"], json!(["fix://shop/1"]));

    b.end().await?;
    for _ in 0..1000 {
        if facts(&a, "shop__facts").await?["subscribed"] == json!([]) {
            return Ok(());
        }
    }
    anyhow::bail!("the last subscription was not ended")
}

#[tokio::test]
async fn server_question_outside_a_call_is_answered() -> Result<()> {
    let mut lab = GatewayLab::new().await?;
    lab.start("shop").await?;
    until("both were answered", PATIENCE, async || {
        let answers = lab.noted("shop", "answers").join("\n");
        ensure!(
            answers.contains(r#""result": {}"#) && answers.contains("-32000"),
            "a question belongs to no call: {answers}"
        );
        Ok(())
    })
    .await
}

/// The metrics of the gateway, as `/metrics` has them.
fn metrics(lab: &GatewayLab) -> Result<String> {
    let (mut registry, mut text) = (prometheus_client::registry::Registry::default(), String::new());
    lab.gateway().register_metrics(&mut registry);
    prometheus_client::encoding::text::encode(&mut text, &registry)?;
    Ok(text)
}

#[tokio::test]
async fn calls_are_counted_by_outcome_until_their_instance_is_gone() -> Result<()> {
    let mut lab = GatewayLab::with(|settings| settings.link.remember_gone = Duration::ZERO).await?;
    lab.start("shop").await?;
    let agent = lab.agent("/mcp").await?;
    for _ in 0..3 {
        agent.try_call("shop__echo", json!({"text": "a"})).await?.text()?;
    }
    agent.try_call("shop__die", json!({})).await?.error()?;
    let prompt = json!({"name": "shop__greet"});
    agent.exchange(json!(9), "prompts/get", prompt).await?;
    let counted = metrics(&lab)?;
    for (outcome, count) in [("ok", 3), ("interrupted", 1), ("error", 0), ("tool_error", 0), ("unavailable", 0)] {
        let calls = r#"linchpin_tool_calls_total{instance="shop",server="main",outcome="#;
        assert!(counted.contains(&format!("{calls}\"{outcome}\"}} {count}\n")), "{outcome}: {counted}");
    }
    let durations = r#"linchpin_tool_call_duration_seconds_count{instance="shop",server="main"} 4"#;
    assert!(counted.contains(durations), "{counted}");
    lab.stop("shop").await?;
    until("the series are removed", PATIENCE, async || {
        let left = metrics(&lab)?;
        ensure!(!left.contains("shop"), "{left}");
        Ok(())
    })
    .await
}
