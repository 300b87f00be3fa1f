//! Stateless clients (2026-07-28) in front of a session-based server.

use crate::lab::GatewayLab;
use anyhow::{Context, Result, ensure};
use linchpin_tests::agent::http::Http;
use linchpin_tests::agent::stream::{Answered, PATIENCE, Stream};
use linchpin_tests::wait::until;
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};

async fn ask(client: &Http, method: &str, params: Value) -> Result<Answered> {
    client.exchange(json!("m"), method, params).await
}

async fn send(client: &Http, id: Value, method: &str, params: Value) -> Result<Response> {
    client.send(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})).await
}

#[tokio::test]
async fn stateless_request_is_answered_without_a_session() -> Result<()> {
    let mut lab = GatewayLab::new().await?;
    lab.start("a").await?;
    for (path, tool) in [("/mcp", "a__echo"), ("/i/a/mcp", "echo"), ("/i/a/main/mcp", "echo")] {
        let client = lab.stateless(path);
        let found = ask(&client, "server/discover", json!({})).await?;
        ensure!(found.result()?["supportedVersions"][0] == "2026-07-28", "{found:?}");
        let listed = ask(&client, "tools/list", json!({})).await?;
        let listed = listed.result()?;
        assert_eq!((&listed["resultType"], &listed["cacheScope"]), (&json!("complete"), &json!("private")), "{path}");
        ensure!(listed["ttlMs"].is_u64(), "{listed}");
        let response = send(&client, json!(7), "tools/call", json!({"name": tool, "arguments": {"text": "x"}}));
        let response = response.await?;
        ensure!(response.headers().get("mcp-session-id").is_none());
        let called = Stream::of(response).to_end().await?;
        assert_eq!((called.text()?, &called.result()?["resultType"]), ("a: x", &json!("complete")));
        let missing = ask(&client, "resources/read", json!({"uri": "none://x"})).await?;
        assert_eq!(missing.error()?["code"], -32602, "{missing:?}");
    }
    assert_eq!(lab.gateway().sessions().len(), 0, "a session was begun");
    Ok(())
}

#[tokio::test]
async fn methods_of_other_versions_are_refused() -> Result<()> {
    let mut lab = GatewayLab::new().await?;
    lab.start("a").await?;
    let client = lab.stateless("/i/a/mcp");
    for method in ["ping", "initialize", "logging/setLevel", "resources/subscribe", "what/ever"] {
        let response = send(&client, json!(1), method, json!({})).await?;
        assert_eq!(response.status(), StatusCode::NOT_FOUND, "{method}");
        assert_eq!(Stream::of(response).to_end().await?.error()?["code"], -32601, "{method}");
    }
    for method in [reqwest::Method::GET, reqwest::Method::DELETE] {
        let request = reqwest::Client::new().request(method, client.url()).header("mcp-protocol-version", "2026-07-28");
        assert_eq!(request.send().await?.status(), StatusCode::METHOD_NOT_ALLOWED);
    }
    let none = ask(&lab.stateless("/i/none/mcp"), "tools/list", json!({})).await?;
    ensure!(none.error()?["message"].as_str().is_some_and(|text| text.contains("none")), "{none:?}");
    Ok(())
}

#[tokio::test]
async fn subscription_stream_delivers_what_was_asked_for() -> Result<()> {
    let mut lab = GatewayLab::new().await?;
    lab.start("a").await?;
    let client = lab.stateless("/mcp");
    let wanted = json!({"notifications": {"toolsListChanged": true, "resourceSubscriptions": ["fix://a/1"]}});
    let mut stream = Stream::of(send(&client, json!("l"), "subscriptions/listen", wanted.clone()).await?);
    let first = stream.next().await?.context("nothing came")?;
    assert_eq!(first["method"], "notifications/subscriptions/acknowledged");
    assert_eq!(first["params"]["notifications"], wanted["notifications"]);
    client.try_call("a__grow", json!({"name": "more"})).await?.text()?;
    let changed = stream.wait_for("notifications/tools/list_changed").await?;
    client.try_call("a__log", json!({"tag": "x"})).await?.text()?;
    client.try_call("a__touch", json!({"uri": "fix://a/1"})).await?.text()?;
    let updated = stream.next().await?.context("nothing came")?;
    assert_eq!(updated["params"]["uri"], "fix://a/1", "and nothing before it: {updated}");
    for message in [first, changed, updated] {
        assert_eq!(message["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], "l", "{message}");
    }
    drop(stream);
    until("the last subscription is ended", PATIENCE, async || {
        let sessions = lab.gateway().sessions();
        ensure!(sessions.is_empty(), "{sessions:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn client_disconnect_cancels_its_call() -> Result<()> {
    let mut lab = GatewayLab::new().await?;
    lab.start("a").await?;
    let client = lab.stateless("/i/a/mcp");
    let call = tokio::spawn(async move { client.try_call("wait", json!({"tag": "gone"})).await });
    until("it is under way", PATIENCE, async || {
        ensure!(!lab.noted("a", "waiting").is_empty());
        Ok(())
    })
    .await?;
    call.abort();
    until("the server received the cancellation", PATIENCE, async || {
        let cancelled = lab.noted("a", "cancelled");
        ensure!(cancelled == ["gone"], "{cancelled:?}");
        Ok(())
    })
    .await
}

/// A question of a session-based server is sent as `input_required`, and the call continues with the answer.
#[tokio::test]
async fn question_of_a_session_based_server_is_translated() -> Result<()> {
    let mut lab = GatewayLab::new().await?;
    lab.start("a").await?;
    let client = lab.stateless("/mcp");
    let question = json!({"id": "q", "method": "elicitation/create", "params": {"message": "who?", "x": 1.0}});
    let mut params = json!({"name": "a__ask", "arguments": question});
    let first = ask(&client, "tools/call", params.clone()).await?;
    let first = first.result()?;
    assert_eq!(first["resultType"], "input_required", "{first}");
    let (key, asked) = first["inputRequests"].as_object().and_then(|all| all.iter().next()).context("no request")?;
    assert_eq!(asked.to_string(), r#"{"method":"elicitation/create","params":{"message":"who?","x":1.0}}"#);

    params["requestState"] = first["requestState"].clone();
    let again = ask(&client, "tools/call", params.clone()).await?;
    let again = again.result()?;
    assert_eq!(&again["inputRequests"][key], asked, "a missing answer was not asked for again: {again}");
    let stale = ask(&client, "tools/call", params.clone()).await?;
    assert_eq!(stale.error()?["code"], -32602, "a state was accepted twice");

    params["requestState"] = again["requestState"].clone();
    params["inputResponses"] = json!({key: {"action": "accept", "content": {"n": 1.5}}});
    let elsewhere = ask(&lab.stateless("/i/a/mcp"), "tools/call", params.clone()).await?;
    assert_eq!(elsewhere.error()?["code"], -32602, "a state was accepted for another request: {elsewhere:?}");
    let last = ask(&client, "tools/call", params).await?;
    let got: Value = serde_json::from_str(last.text()?)?;
    assert_eq!((&got["id"], &got["result"]), (&json!("q"), &json!({"action": "accept", "content": {"n": 1.5}})));
    assert_eq!(last.result()?["resultType"], "complete");
    assert_eq!(lab.noted("a", "calls"), ["ask"], "the server received more than one call");

    let roots = client.try_call("a__ask", json!({"id": "r", "method": "roots/list"})).await?;
    let got: Value = serde_json::from_str(roots.text()?)?;
    assert_eq!(got["error"]["code"], -32601, "this client has no roots: {got}");
    Ok(())
}

/// A tool of a session-based server that can only be called as a task is called as one, and its result is the answer.
#[tokio::test]
async fn task_only_tool_is_called_as_a_task() -> Result<()> {
    let mut lab = GatewayLab::new().await?;
    lab.start("task").await?;
    let client = lab.stateless("/mcp");
    let called = client.try_call("task__job", json!({"say": "made"})).await?;
    assert_eq!((called.text()?, &called.result()?["resultType"]), ("made", &json!("complete")));

    let mut params = json!({"name": "task__job", "arguments": {"ask": "who?"}});
    let first = ask(&client, "tools/call", params.clone()).await?;
    let first = first.result()?;
    assert_eq!(first["resultType"], "input_required", "{first}");
    let key = first["inputRequests"].as_object().and_then(|all| all.keys().next()).context("no request")?;
    params["requestState"] = first["requestState"].clone();
    params["inputResponses"] = json!({key: {"action": "decline"}});
    let last = ask(&client, "tools/call", params).await?;
    ensure!(last.text()?.contains("decline"), "{last:?}");

    for method in ["tasks/get", "tasks/update", "tasks/cancel"] {
        let refused = ask(&client, method, json!({"taskId": "x"})).await?;
        let error = refused.error()?;
        assert_eq!(error["code"], -32021, "{method}: {error}");
        ensure!(error["data"]["requiredCapabilities"]["extensions"]["io.modelcontextprotocol/tasks"].is_object());
    }
    for method in ["tasks/list", "tasks/result"] {
        assert_eq!(ask(&client, method, json!({"taskId": "x"})).await?.error()?["code"], -32601, "{method}");
    }

    let going = lab.stateless("/mcp");
    let call = tokio::spawn(async move { going.try_call("task__job", json!({"seconds": 60})).await });
    until("its result is waited for", PATIENCE, async || {
        let seen = lab.noted("task", "tasks");
        ensure!(seen.len() >= 3, "{seen:?}");
        Ok(())
    })
    .await?;
    call.abort();
    until("the task is cancelled", PATIENCE, async || {
        let seen = lab.noted("task", "tasks");
        ensure!(seen.last().is_some_and(|last| last == "tasks/cancel"), "{seen:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn builtin_tools_need_no_session() -> Result<()> {
    let mut lab = GatewayLab::with(|settings| settings.gateway.own_tools = true).await?;
    lab.start("shop").await?;
    let client = lab.stateless("/mcp");
    let status = client.try_call("linchpin__status", json!({})).await?;
    let result = status.result()?;
    assert_eq!((&result["resultType"], &result["isError"]), (&json!("complete"), &json!(false)), "{result}");
    assert!(status.text()?.contains("shop"), "{result}");
    let read = ask(&client, "resources/read", json!({"uri": "linchpin://instances"})).await?;
    assert!(read.result()?["contents"][0]["text"].as_str().is_some_and(|text| text.contains("shop")), "{read:?}");
    let searching = lab.stateless("/mcp?tools=search");
    let found = searching.try_call("linchpin__search_tools", json!({"query": "shop echo"})).await?;
    assert_eq!(found.result()?["structuredContent"]["tools"][0]["name"], "shop__echo");
    let call = json!({"name": "shop__echo", "arguments": {"text": "x"}});
    assert_eq!(searching.try_call("linchpin__call_tool", call).await?.text()?, "shop: x");
    Ok(())
}
