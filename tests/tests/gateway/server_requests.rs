//! Requests of servers to clients: each reaches the client whose call caused it, and no other one.

use crate::lab::GatewayLab;
use anyhow::{Context, Result, ensure};
use linchpin_tests::agent::http::Http;
use linchpin_tests::agent::stream::{PATIENCE, Stream};
use linchpin_tests::wait::until;
use serde_json::{Value, json};

/// An agent with all capabilities.
async fn able(lab: &GatewayLab, path: &str) -> Result<Http> {
    let all = json!({"sampling": {}, "elicitation": {"form": {}}, "roots": {"listChanged": true}});
    lab.agent_with(path, all).await
}

/// Begins a call of the tool that asks, and returns the stream of its messages.
async fn begin(agent: &Http, tool: &str, arguments: Value) -> Result<Stream> {
    let params = json!({"name": tool, "arguments": arguments});
    let message = json!({"jsonrpc": "2.0", "id": "mine", "method": "tools/call", "params": params});
    Ok(Stream::of(agent.send(&message).await?))
}

async fn answer(agent: &Http, id: &Value, result: Value) -> Result<()> {
    agent.send(&json!({"jsonrpc": "2.0", "id": id, "result": result})).await?.error_for_status()?;
    Ok(())
}

/// The result of the tool, which is the answer that the server got.
async fn outcome(call: &mut Stream) -> Result<Value> {
    let response = call.first("the response", PATIENCE, |message| message["id"] == "mine").await?;
    let text = response["result"]["content"][0]["text"].as_str().with_context(|| response.to_string())?;
    Ok(serde_json::from_str(text).unwrap_or_else(|_| text.into()))
}

#[tokio::test]
async fn question_reaches_the_client_whose_call_caused_it() -> Result<()> {
    let mut lab = GatewayLab::new().await?;
    lab.start("a").await?;
    let (one, two) = (able(&lab, "/mcp").await?, able(&lab, "/i/a/mcp").await?);
    for (agent, tool, id) in [(&one, "a__ask", json!("q")), (&two, "ask", json!(7))] {
        let question = json!({"message": "who?", "requestedSchema": {"type": "object", "x_kept": 1.0}, "_meta": {"progressToken": "t"}});
        let arguments = json!({"id": id, "method": "elicitation/create", "params": question});
        let mut call = begin(agent, tool, arguments).await?;
        let asked = call.wait_for("elicitation/create").await?;
        ensure!(asked["id"] != id, "the client sees an id of the hub: {asked}");
        ensure!(asked["params"].to_string().contains(r#""x_kept":1.0"#), "{asked}");
        let progress = json!({"progressToken": asked["params"]["_meta"]["progressToken"], "progress": 1});
        agent.notify("notifications/progress", progress).await?;
        answer(agent, &asked["id"], json!({"action": "accept", "content": {"n": 1.5}})).await?;
        let got = outcome(&mut call).await?;
        assert_eq!(got, json!({"jsonrpc": "2.0", "id": id, "result": {"action": "accept", "content": {"n": 1.5}}}));
    }
    let told = lab.noted("a", "told").join(" ");
    assert_eq!(told.matches(r#""progressToken": "t""#).count(), 2, "{told}");
    Ok(())
}

#[tokio::test]
async fn client_errors_reach_the_server_and_late_answers_are_dropped() -> Result<()> {
    let mut lab = GatewayLab::new().await?;
    lab.start("a").await?;
    let agent = able(&lab, "/i/a/mcp").await?;
    let arguments = json!({"id": "q", "method": "sampling/createMessage", "params": {"messages": []}});
    let mut call = begin(&agent, "ask", arguments.clone()).await?;
    let asked = call.wait_for("sampling/createMessage").await?;
    let refused =
        json!({"jsonrpc": "2.0", "id": asked["id"], "error": {"code": -1, "message": "rejected", "data": [1]}});
    for _ in 0..2 {
        agent.send(&refused).await?.error_for_status()?;
    }
    let got = outcome(&mut call).await?;
    assert_eq!((&got["id"], &got["error"]), (&json!("q"), &refused["error"]));
    answer(&agent, &json!(1), json!({})).await?;
    answer(&agent, &json!("none"), json!({})).await
}

#[tokio::test]
async fn server_that_gives_up_cancels_its_question() -> Result<()> {
    let mut lab = GatewayLab::new().await?;
    lab.start("a").await?;
    let agent = able(&lab, "/i/a/mcp").await?;
    let arguments = json!({"id": "q", "method": "elicitation/create", "params": {"message": "?"}, "seconds": 0.3});
    let mut call = begin(&agent, "ask", arguments).await?;
    let asked = call.wait_for("elicitation/create").await?;
    let cancelled = call.wait_for("notifications/cancelled").await?;
    assert_eq!(cancelled["params"]["requestId"], asked["id"]);
    assert_eq!(outcome(&mut call).await?, "gave up");
    Ok(())
}

#[tokio::test]
async fn client_without_the_capability_is_not_asked() -> Result<()> {
    let mut lab = GatewayLab::new().await?;
    lab.start("a").await?;
    let _able = able(&lab, "/i/a/mcp").await?;
    let plain = lab.agent("/i/a/mcp").await?;
    let arguments = json!({"id": "q", "method": "elicitation/create", "params": {"message": "?"}});
    let got = plain.try_call("ask", arguments).await?;
    let got: Value = serde_json::from_str(got.text()?)?;
    assert_eq!((&got["id"], &got["error"]["code"]), (&json!("q"), &json!(-32601)), "{got}");
    let unknown = json!({"id": "r", "method": "tasks/list"});
    let got: Value = serde_json::from_str(plain.try_call("ask", unknown).await?.text()?)?;
    assert_eq!(got["error"]["code"], -32601, "{got}");
    let offered: Value = serde_json::from_str(&lab.noted("a", "offered").join(" "))?;
    assert_eq!(
        offered["roots"],
        json!({"listChanged": true}),
        "a server on stdio was not offered everything: {offered}"
    );
    Ok(())
}

#[tokio::test]
async fn ambiguous_question_is_sent_to_no_client() -> Result<()> {
    let mut lab = GatewayLab::new().await?;
    lab.start("a").await?;
    let (one, two) = (able(&lab, "/i/a/mcp").await?, able(&lab, "/i/a/mcp").await?);
    let waiting = tokio::spawn(async move { one.try_call("wait", json!({"tag": "x"})).await });
    until("the other call is under way", PATIENCE, async || {
        ensure!(!lab.noted("a", "waiting").is_empty());
        Ok(())
    })
    .await?;
    let arguments = json!({"id": "q", "method": "roots/list"});
    let got: Value = serde_json::from_str(two.try_call("ask", arguments).await?.text()?)?;
    ensure!(got["error"]["message"].as_str().is_some_and(|text| text.contains("whose call")), "{got}");
    waiting.abort();
    Ok(())
}

#[tokio::test]
async fn changed_roots_are_announced_to_servers() -> Result<()> {
    let mut lab = GatewayLab::new().await?;
    lab.start("a").await?;
    let agent = able(&lab, "/mcp").await?;
    agent.notify("notifications/roots/list_changed", json!({})).await?;
    until("the server receives the cancellation", PATIENCE, async || {
        let told = lab.noted("a", "told");
        ensure!(told.join(" ").contains("roots/list_changed"), "{told:?}");
        Ok(())
    })
    .await
}
