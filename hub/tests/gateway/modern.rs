//! Clients of 2026-07-28, whose every request stands for itself, in front of a server that is older.

use crate::client::{Answered, PATIENCE, Stream, read};
use crate::world::{World, until};
use anyhow::{Context, Result, ensure};
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};

/// A client at one address.
struct Modern {
    http: reqwest::Client,
    url: String,
}

impl Modern {
    fn new(world: &World, path: &str) -> Self {
        Self { http: reqwest::Client::new(), url: world.url(path) }
    }

    /// Sends a request with all that it must carry, and `more` in its `_meta`.
    async fn send(&self, id: Value, method: &str, mut params: Value, more: Value) -> Result<Response> {
        let mut meta = json!({
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {"elicitation": {}},
        });
        for (key, value) in more.as_object().context("an object")? {
            meta[key] = value.clone();
        }
        let name = params["name"].as_str().or(params["uri"].as_str()).map(str::to_owned);
        params["_meta"] = meta;
        let body = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}).to_string();
        let request = self.http.post(&self.url).header("content-type", "application/json");
        let request = request.header("accept", "application/json, text/event-stream");
        let request = request.header("mcp-protocol-version", "2026-07-28").header("mcp-method", method);
        let request = name.into_iter().fold(request, |request, name| request.header("mcp-name", name));
        Ok(request.body(body).send().await?)
    }

    async fn ask(&self, method: &str, params: Value) -> Result<Answered> {
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
