//! Clients of 2026-07-28, whose every request stands for itself, in front of a server that is older.

use crate::client::{Answered, PATIENCE, Stream, read};
use crate::world::{World, until};
use anyhow::{Context, Result, ensure};
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};

/// A client at one address.
pub(crate) struct Modern {
    http: reqwest::Client,
    url: String,
}

impl Modern {
    pub(crate) fn new(world: &World, path: &str) -> Self {
        Self { http: reqwest::Client::new(), url: world.url(path) }
    }

    /// Sends a request with all that it must carry, and `more` in its `_meta`.
    pub(crate) async fn send(&self, id: Value, method: &str, mut params: Value, more: Value) -> Result<Response> {
        let mut meta = json!({
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {"elicitation": {}},
        });
        for (key, value) in more.as_object().context("an object")? {
            meta[key] = value.clone();
        }
        let name = ["name", "uri", "taskId"].iter().find_map(|key| params[*key].as_str()).map(str::to_owned);
        params["_meta"] = meta;
        let body = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}).to_string();
        let request = self.http.post(&self.url).header("content-type", "application/json");
        let request = request.header("accept", "application/json, text/event-stream");
        let request = request.header("mcp-protocol-version", "2026-07-28").header("mcp-method", method);
        let request = name.into_iter().fold(request, |request, name| request.header("mcp-name", name));
        Ok(request.body(body).send().await?)
    }

    pub(crate) async fn ask(&self, method: &str, params: Value) -> Result<Answered> {
        let asked = async { read(self.send(json!("m"), method, params, json!({})).await?).await };
        tokio::time::timeout(PATIENCE, asked).await?
    }

    async fn call(&self, name: &str, arguments: Value) -> Result<Answered> {
        self.ask("tools/call", json!({"name": name, "arguments": arguments})).await
    }
}

#[tokio::test]
async fn a_request_needs_no_session_and_gets_what_its_version_wants() -> Result<()> {
    let mut world = World::new().await?;
    world.start("a").await?;
    for (path, tool) in [("/mcp", "a__echo"), ("/i/a/mcp", "echo"), ("/i/a/main/mcp", "echo")] {
        let client = Modern::new(&world, path);
        let found = client.ask("server/discover", json!({})).await?;
        ensure!(found.result()?["supportedVersions"][0] == "2026-07-28", "{found:?}");
        let listed = client.ask("tools/list", json!({})).await?;
        let listed = listed.result()?;
        assert_eq!((&listed["resultType"], &listed["cacheScope"]), (&json!("complete"), &json!("private")), "{path}");
        ensure!(listed["ttlMs"].is_u64(), "{listed}");
        let response =
            client.send(json!(7), "tools/call", json!({"name": tool, "arguments": {"text": "x"}}), json!({}));
        let response = response.await?;
        ensure!(response.headers().get("mcp-session-id").is_none());
        let called = read(response).await?;
        assert_eq!((called.text()?, &called.result()?["resultType"]), ("a: x", &json!("complete")));
        let missing = client.ask("resources/read", json!({"uri": "none://x"})).await?;
        assert_eq!(missing.error()?["code"], -32602, "{missing:?}");
    }
    assert_eq!(world.hub().gateway.sessions().len(), 0, "no session was begun");
    Ok(())
}

#[tokio::test]
async fn what_is_not_of_this_version_is_refused_with_its_status() -> Result<()> {
    let mut world = World::new().await?;
    world.start("a").await?;
    let client = Modern::new(&world, "/i/a/mcp");
    for method in ["ping", "initialize", "logging/setLevel", "resources/subscribe", "what/ever"] {
        let response = client.send(json!(1), method, json!({}), json!({})).await?;
        assert_eq!(response.status(), StatusCode::NOT_FOUND, "{method}");
        assert_eq!(read(response).await?.error()?["code"], -32601, "{method}");
    }
    for method in [reqwest::Method::GET, reqwest::Method::DELETE] {
        let request = client.http.request(method, &client.url).header("mcp-protocol-version", "2026-07-28");
        assert_eq!(request.send().await?.status(), StatusCode::METHOD_NOT_ALLOWED);
    }
    let none = Modern::new(&world, "/i/none/mcp").ask("tools/list", json!({})).await?;
    ensure!(none.error()?["message"].as_str().is_some_and(|text| text.contains("none")), "{none:?}");
    Ok(())
}

#[tokio::test]
async fn a_stream_gives_what_was_asked_for_and_names_its_request() -> Result<()> {
    let mut world = World::new().await?;
    world.start("a").await?;
    let client = Modern::new(&world, "/mcp");
    let wanted = json!({"notifications": {"toolsListChanged": true, "resourceSubscriptions": ["fix://a/1"]}});
    let mut stream = Stream::of(client.send(json!("l"), "subscriptions/listen", wanted.clone(), json!({})).await?);
    let first = stream.next().await?.context("nothing came")?;
    assert_eq!(first["method"], "notifications/subscriptions/acknowledged");
    assert_eq!(first["params"]["notifications"], wanted["notifications"]);
    client.call("a__grow", json!({"name": "more"})).await?.text()?;
    let changed = stream.wait_for_method("notifications/tools/list_changed").await?;
    client.call("a__log", json!({"tag": "x"})).await?.text()?;
    client.call("a__touch", json!({"uri": "fix://a/1"})).await?.text()?;
    let updated = stream.next().await?.context("nothing came")?;
    assert_eq!(updated["params"]["uri"], "fix://a/1", "and nothing before it: {updated}");
    for message in [first, changed, updated] {
        assert_eq!(message["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], "l", "{message}");
    }
    drop(stream);
    until("the last subscription is ended", || {
        let sessions = world.hub().gateway.sessions();
        ensure!(sessions.is_empty(), "{sessions:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_client_that_goes_away_has_cancelled() -> Result<()> {
    let mut world = World::new().await?;
    world.start("a").await?;
    let client = Modern::new(&world, "/i/a/mcp");
    let call = tokio::spawn(async move { client.call("wait", json!({"tag": "gone"})).await });
    until("it is under way", || {
        ensure!(!world.noted("a", "waiting").is_empty());
        Ok(())
    })
    .await?;
    call.abort();
    until("the server heard of it", || {
        let cancelled = world.noted("a", "cancelled");
        ensure!(cancelled == ["gone"], "{cancelled:?}");
        Ok(())
    })
    .await
}

/// What a server of an older version asks is asked by `input_required`, and the call goes on with the answer.
#[tokio::test]
async fn what_an_older_server_asks_crosses_over() -> Result<()> {
    let mut world = World::new().await?;
    world.start("a").await?;
    let client = Modern::new(&world, "/mcp");
    let question = json!({"id": "q", "method": "elicitation/create", "params": {"message": "who?", "x": 1.0}});
    let mut params = json!({"name": "a__ask", "arguments": question});
    let first = client.ask("tools/call", params.clone()).await?;
    let first = first.result()?;
    assert_eq!(first["resultType"], "input_required", "{first}");
    let (key, asked) = first["inputRequests"].as_object().and_then(|all| all.iter().next()).context("no request")?;
    assert_eq!(asked.to_string(), r#"{"method":"elicitation/create","params":{"message":"who?","x":1.0}}"#);

    params["requestState"] = first["requestState"].clone();
    let again = client.ask("tools/call", params.clone()).await?;
    let again = again.result()?;
    assert_eq!(&again["inputRequests"][key], asked, "an answer that is missing is asked for again: {again}");
    let stale = client.ask("tools/call", params.clone()).await?;
    assert_eq!(stale.error()?["code"], -32602, "a state is good once");

    params["requestState"] = again["requestState"].clone();
    params["inputResponses"] = json!({key: {"action": "accept", "content": {"n": 1.5}}});
    let elsewhere = Modern::new(&world, "/i/a/mcp").ask("tools/call", params.clone()).await?;
    assert_eq!(elsewhere.error()?["code"], -32602, "a state is good for its request: {elsewhere:?}");
    let last = client.ask("tools/call", params).await?;
    let got: Value = serde_json::from_str(last.text()?)?;
    assert_eq!((&got["id"], &got["result"]), (&json!("q"), &json!({"action": "accept", "content": {"n": 1.5}})));
    assert_eq!(last.result()?["resultType"], "complete");
    assert_eq!(world.noted("a", "calls"), ["ask"], "it is one call");

    let roots = client.call("a__ask", json!({"id": "r", "method": "roots/list"})).await?;
    let got: Value = serde_json::from_str(roots.text()?)?;
    assert_eq!(got["error"]["code"], -32601, "this client has no roots: {got}");
    Ok(())
}

/// A tool of an older server that can only be called as a task is called as one, and its result is the answer.
#[tokio::test]
async fn a_tool_that_needs_a_task_of_an_older_server_is_called_as_one() -> Result<()> {
    let mut world = World::new().await?;
    world.start("task").await?;
    let client = Modern::new(&world, "/mcp");
    let called = client.call("task__job", json!({"say": "made"})).await?;
    assert_eq!((called.text()?, &called.result()?["resultType"]), ("made", &json!("complete")));

    let mut params = json!({"name": "task__job", "arguments": {"ask": "who?"}});
    let first = client.ask("tools/call", params.clone()).await?;
    let first = first.result()?;
    assert_eq!(first["resultType"], "input_required", "{first}");
    let key = first["inputRequests"].as_object().and_then(|all| all.keys().next()).context("no request")?;
    params["requestState"] = first["requestState"].clone();
    params["inputResponses"] = json!({key: {"action": "decline"}});
    let last = client.ask("tools/call", params).await?;
    ensure!(last.text()?.contains("decline"), "{last:?}");

    for method in ["tasks/get", "tasks/update", "tasks/cancel"] {
        let refused = client.ask(method, json!({"taskId": "x"})).await?;
        let error = refused.error()?;
        assert_eq!(error["code"], -32021, "{method}: {error}");
        ensure!(error["data"]["requiredCapabilities"]["extensions"]["io.modelcontextprotocol/tasks"].is_object());
    }
    for method in ["tasks/list", "tasks/result"] {
        assert_eq!(client.ask(method, json!({"taskId": "x"})).await?.error()?["code"], -32601, "{method}");
    }

    let going = Modern::new(&world, "/mcp");
    let call = tokio::spawn(async move { going.call("task__job", json!({"seconds": 60})).await });
    until("its result is waited for", || {
        let seen = world.noted("task", "tasks");
        ensure!(seen.len() >= 3, "{seen:?}");
        Ok(())
    })
    .await?;
    call.abort();
    until("the task is cancelled", || {
        let seen = world.noted("task", "tasks");
        ensure!(seen.last().is_some_and(|last| last == "tasks/cancel"), "{seen:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_hub_s_own_tools_need_no_session_either() -> Result<()> {
    let mut world = World::with(|settings| settings.gateway.own_tools = true).await?;
    world.start("shop").await?;
    let client = Modern::new(&world, "/mcp");
    let status = client.call("linchpin__status", json!({})).await?;
    let result = status.result()?;
    assert_eq!((&result["resultType"], &result["isError"]), (&json!("complete"), &json!(false)), "{result}");
    assert!(status.text()?.contains("shop"), "{result}");
    let read = client.ask("resources/read", json!({"uri": "linchpin://instances"})).await?;
    assert!(read.result()?["contents"][0]["text"].as_str().is_some_and(|text| text.contains("shop")), "{read:?}");
    let searching = Modern::new(&world, "/mcp?tools=search");
    let found = searching.call("linchpin__search_tools", json!({"query": "shop echo"})).await?;
    assert_eq!(found.result()?["structuredContent"]["tools"][0]["name"], "shop__echo");
    let call = json!({"name": "shop__echo", "arguments": {"text": "x"}});
    assert_eq!(searching.call("linchpin__call_tool", call).await?.text()?, "shop: x");
    Ok(())
}
