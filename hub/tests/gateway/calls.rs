//! Tools, prompts, resources, and what belongs to them.

use crate::client::Agent;
use crate::world::{World, until};
use anyhow::{Result, ensure};
use serde_json::{Value, json};
use std::time::Duration;

async fn two() -> Result<World> {
    let mut world = World::new().await?;
    world.launch("shop")?;
    world.launch("blog")?;
    world.ready("shop").await?;
    world.ready("blog").await?;
    Ok(world)
}

fn with_token(tool: &str, arguments: &Value, token: &Value) -> Value {
    json!({"name": tool, "arguments": arguments, "_meta": {"progressToken": token}})
}

async fn facts(agent: &Agent, tool: &str) -> Result<Value> {
    Ok(serde_json::from_str(agent.call(tool, json!({})).await?.text()?)?)
}

#[tokio::test]
async fn tools_of_two_instances_stand_side_by_side() -> Result<()> {
    let world = two().await?;
    let all = world.agent("/mcp").await?;
    let names = all.list("tools").await?;
    let of = |prefix: &str| names.iter().filter(|name| name.starts_with(prefix)).count();
    assert_eq!((names.len(), of("shop__"), of("blog__")), (24, 12, 12), "{names:?}");
    assert_eq!(names[0], "blog__echo", "in the order of names");
    assert_eq!(all.call("shop__echo", json!({"text": "a"})).await?.text()?, "shop: a");
    assert_eq!(all.call("blog__echo", json!({"text": "b"})).await?.text()?, "blog: b");

    let one = world.agent("/i/shop/mcp").await?;
    assert_eq!(one.about["serverInfo"]["name"], "shop");
    assert_eq!(one.about["instructions"], "for tests");
    assert_eq!(one.list("tools").await?.len(), 12);
    assert_eq!(one.call("echo", json!({"text": "c"})).await?.text()?, "shop: c");
    let server = world.agent("/i/blog/main/mcp").await?;
    assert_eq!(server.call("echo", json!({"text": "d"})).await?.text()?, "blog: d");
    assert_eq!(one.request(json!(1), "tests/own", json!({})).await?.result()?, &json!({"own": "shop"}));
    Ok(())
}

#[tokio::test]
async fn what_is_not_rewritten_stays_byte_for_byte() -> Result<()> {
    let mut world = World::new().await?;
    world.start("shop").await?;
    let agent = world.agent("/mcp").await?;
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
async fn an_unknown_tool_is_named_with_its_neighbours() -> Result<()> {
    let world = two().await?;
    let agent = world.agent("/mcp").await?;
    for name in ["shop__ecko", "shp__echo", "echo"] {
        let answered = agent.call(name, json!({})).await?;
        let error = answered.error()?;
        assert_eq!((&error["code"], &error["data"]["code"]), (&json!(-32602), &json!("unknown_tool")));
        let near = error["data"]["observed"]["near"].to_string();
        assert!(near.contains("shop__echo") || near.contains("blog__echo"), "{error}");
    }
    let one = world.agent("/i/shop/mcp").await?;
    let answered = one.call("ecko", json!({})).await?;
    assert_eq!(answered.error()?["message"], "Unknown tool: ecko", "the server's own words");
    let answered = agent.request(json!(1), "tools/call", json!({"name": 7})).await?;
    assert_eq!(answered.error()?["code"], -32602);
    let answered = agent.call("shop__count", json!({"die_at": null, "x": 1})).await?;
    assert_eq!(answered.text()?, "1");
    Ok(())
}

#[tokio::test]
async fn progress_finds_its_own_request() -> Result<()> {
    let mut world = World::new().await?;
    world.start("shop").await?;
    let (a, b) = (world.agent("/mcp").await?, world.agent("/mcp").await?);
    let call = |say: &str| with_token("shop__progress", &json!({"steps": 3, "say": say, "seconds": 0.2}), &json!("t"));
    let (a, b) = tokio::join!(
        a.request(json!(1), "tools/call", call("for a")),
        b.request(json!(1), "tools/call", call("for b")),
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
async fn a_cancellation_reaches_the_request_that_is_meant() -> Result<()> {
    let mut world = World::new().await?;
    world.start("shop").await?;
    let (a, b) = (world.agent("/mcp").await?, world.agent("/mcp").await?);
    let wait = |agent: &Agent, tag: &str| {
        let (agent, arguments) = (agent.clone(), json!({"tag": tag, "seconds": 4}));
        tokio::spawn(async move { agent.call("shop__wait", arguments).await })
    };
    let (of_a, of_b) = (wait(&a, "a"), wait(&b, "b"));
    until("both wait", || {
        let waiting = world.noted("shop", "waiting");
        ensure!(waiting.len() == 2, "{waiting:?}");
        Ok(())
    })
    .await?;
    a.notify("notifications/cancelled", json!({"requestId": 1, "reason": "enough"})).await?;
    let answered = of_a.await??;
    assert!(answered.response.is_none() && answered.before.is_empty(), "{answered:?}");
    until("the server heard of it", || {
        let cancelled = world.noted("shop", "cancelled");
        ensure!(cancelled == ["a"], "{cancelled:?}");
        Ok(())
    })
    .await?;
    assert_eq!(of_b.await??.text()?, "waited");
    Ok(())
}

#[tokio::test]
async fn each_client_is_shown_the_log_it_wants() -> Result<()> {
    let mut world = World::new().await?;
    world.start("shop").await?;
    let (loud, quiet) = (world.agent("/mcp").await?, world.agent("/i/shop/mcp").await?);
    let (mut loud_log, mut quiet_log) = (loud.listen().await?, quiet.listen().await?);
    for (agent, level) in [(&loud, "info"), (&quiet, "error")] {
        agent.request(json!(1), "logging/setLevel", json!({"level": level})).await?.result()?;
    }
    until("the lowest is asked for", || {
        let levels = world.noted("shop", "levels");
        ensure!(levels.last().is_some_and(|level| level == "info"), "{levels:?}");
        Ok(())
    })
    .await?;
    loud.call("shop__log", json!({"tag": "x"})).await?.text()?;
    let level = |message: Value| message["params"]["level"].as_str().unwrap_or_default().to_owned();
    assert_eq!(level(loud_log.wait_for_method("notifications/message").await?), "info");
    assert_eq!(level(quiet_log.wait_for_method("notifications/message").await?), "error");
    let bad = quiet.request(json!(1), "logging/setLevel", json!({"level": "loud"})).await?;
    assert_eq!(bad.error()?["code"], -32602);
    Ok(())
}

#[tokio::test]
async fn prompts_and_completions_go_to_their_server() -> Result<()> {
    let world = two().await?;
    let agent = world.agent("/mcp").await?;
    assert_eq!(agent.list("prompts").await?, ["blog__greet", "shop__greet"]);
    let greeting =
        agent.request(json!(1), "prompts/get", json!({"name": "shop__greet", "arguments": {"who": "you"}})).await?;
    assert_eq!(greeting.result()?["messages"][0]["content"]["text"], "shop greets you");
    let complete = async |reference: Value| -> Result<String> {
        let params = json!({"ref": reference, "argument": {"name": "who", "value": "y"}});
        let answered = agent.request(json!(1), "completion/complete", params).await?;
        Ok(answered.result()?["completion"]["values"][0].as_str().unwrap_or_default().to_owned())
    };
    let prompt = complete(json!({"type": "ref/prompt", "name": "blog__greet"})).await?;
    assert_eq!(prompt, r#"blog {"name": "greet", "type": "ref/prompt"}"#);
    let template = complete(json!({"type": "ref/resource", "uri": "fix://shop/{id}"})).await?;
    assert!(template.starts_with("shop "), "{template}");
    let wrong = agent.request(json!(1), "completion/complete", json!({"ref": {"type": "x"}})).await?;
    assert_eq!(wrong.error()?["code"], -32602);
    Ok(())
}

#[tokio::test]
async fn resources_are_found_by_list_then_template_then_asking() -> Result<()> {
    let world = two().await?;
    let agent = world.agent("/mcp").await?;
    assert_eq!(agent.list("resources").await?, ["fix://blog/1", "both://x", "fix://shop/1"]);
    assert_eq!(agent.list("resources/templates").await?, ["fix://blog/{id}", "fix://shop/{id}"]);
    for (uri, owner) in
        [("fix://shop/1", "shop"), ("fix://shop/77", "shop"), ("both://x", "blog"), ("hidden://shop", "shop")]
    {
        let read = agent.request(json!(1), "resources/read", json!({"uri": uri})).await?;
        assert_eq!(read.result()?["contents"][0]["text"], owner, "{uri}");
    }
    let missing = agent.request(json!(1), "resources/read", json!({"uri": "no://where"})).await?;
    assert_eq!(missing.error()?["code"], -32002);
    Ok(())
}

#[tokio::test]
async fn a_subscription_is_shared_and_survives_a_restart_of_the_server() -> Result<()> {
    let mut world = World::new().await?;
    world.start("shop").await?;
    let (a, b) = (world.agent("/mcp").await?, world.agent("/i/shop/mcp").await?);
    let (mut to_a, mut to_b) = (a.listen().await?, b.listen().await?);
    let uri = json!({"uri": "fix://shop/1"});
    for agent in [&a, &b] {
        agent.request(json!(1), "resources/subscribe", uri.clone()).await?.result()?;
    }
    a.call("shop__touch", uri.clone()).await?.text()?;
    to_a.wait_for_method("notifications/resources/updated").await?;
    to_b.wait_for_method("notifications/resources/updated").await?;

    a.request(json!(1), "resources/unsubscribe", uri.clone()).await?.result()?;
    assert_eq!(facts(&b, "facts").await?["subscribed"], json!(["fix://shop/1"]), "the other one still wants it");
    b.call("die", json!({})).await?.error()?;
    b.call("touch", uri.clone()).await?.text()?;
    to_b.wait_for_method("notifications/resources/updated").await?;
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
async fn a_server_that_asks_its_client_gets_an_answer() -> Result<()> {
    let mut world = World::new().await?;
    world.start("shop").await?;
    until("both were answered", || {
        let answers = world.noted("shop", "answers").join("\n");
        ensure!(answers.contains(r#""result": {}"#) && answers.contains("-32000"), "nobody's call asked: {answers}");
        Ok(())
    })
    .await
}

/// The metrics of the gateway, as `/metrics` has them.
fn metrics(world: &World) -> Result<String> {
    let (mut registry, mut text) = (prometheus_client::registry::Registry::default(), String::new());
    world.hub().gateway.register_metrics(&mut registry);
    prometheus_client::encoding::text::encode(&mut text, &registry)?;
    Ok(text)
}

#[tokio::test]
async fn calls_are_counted_by_outcome_until_their_instance_is_gone() -> Result<()> {
    let mut world = World::with(|settings| settings.link.remember_gone = Duration::ZERO).await?;
    world.start("shop").await?;
    let agent = world.agent("/mcp").await?;
    for _ in 0..3 {
        agent.call("shop__echo", json!({"text": "a"})).await?.text()?;
    }
    agent.call("shop__die", json!({})).await?.error()?;
    let prompt = json!({"name": "shop__greet"});
    agent.request(json!(9), "prompts/get", prompt).await?;
    let counted = metrics(&world)?;
    for (outcome, count) in [("ok", 3), ("interrupted", 1), ("error", 0), ("tool_error", 0), ("unavailable", 0)] {
        let calls = r#"linchpin_tool_calls_total{instance="shop",server="main",outcome="#;
        assert!(counted.contains(&format!("{calls}\"{outcome}\"}} {count}\n")), "{outcome}: {counted}");
    }
    let durations = r#"linchpin_tool_call_duration_seconds_count{instance="shop",server="main"} 4"#;
    assert!(counted.contains(durations), "{counted}");
    world.stop("shop")?;
    until("the series are removed", || {
        let left = metrics(&world)?;
        ensure!(!left.contains("shop"), "{left}");
        Ok(())
    })
    .await
}
