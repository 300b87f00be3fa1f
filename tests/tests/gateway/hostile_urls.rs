//! MCP servers behind a URL whose answers never end, break off or belong to no request: their callers get an error,
//! and no other agent is affected.

use anyhow::{Context, Result, ensure};
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, Stream, StreamExt};
use linchpin_tests::agent::Agent;
use linchpin_tests::agent::http::Http;
use linchpin_tests::lab::Lab;
use linchpin_tests::lab::running::peak_memory;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The limit for messages here.
const MOST: usize = 1 << 20;

/// The number of requests in a flood of the server: more than may be in flight to an instance (`link.in_flight`).
const PINGS: usize = 2000;

/// The number of answers to the requests of the server, none of which it accepts.
type Held = Arc<AtomicUsize>;

async fn serve() -> Result<(String, Held)> {
    let held = Held::default();
    let app = axum::Router::new().route("/mcp", axum::routing::post(post)).with_state(Arc::clone(&held));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/mcp", listener.local_addr()?);
    tokio::spawn(async move { axum::serve(listener, app).await });
    Ok((url, held))
}

async fn post(State(held): State<Held>, body: Bytes) -> Response {
    let Ok(message) = serde_json::from_slice::<Value>(&body) else { return StatusCode::BAD_REQUEST.into_response() };
    let (id, params) = (&message["id"], &message["params"]);
    let result = match message["method"].as_str() {
        // It never confirms the answer.
        None => {
            held.fetch_add(1, Ordering::Relaxed);
            return std::future::pending().await;
        }
        Some("initialize") => json!({
            "protocolVersion": params["protocolVersion"],
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "hostile", "version": "1"},
        }),
        Some("tools/list") => {
            json!({"tools": [{"name": "act", "inputSchema": {}}, {"name": "echo", "inputSchema": {}}]})
        }
        Some("tools/call") if params["name"] == "act" => return act(id, params["arguments"]["do"].as_str()),
        Some("tools/call") => right(),
        Some(_) if id.is_null() => return StatusCode::ACCEPTED.into_response(),
        Some(_) => return json_body(&json!({"jsonrpc": "2.0", "id": id, "error": {"code": -32601, "message": "no"}})),
    };
    json_body(&json!({"jsonrpc": "2.0", "id": id, "result": result}))
}

fn right() -> Value {
    json!({"content": [{"type": "text", "text": "right"}]})
}

fn json_body(message: &Value) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], message.to_string()).into_response()
}

fn events(parts: impl Stream<Item = String> + Send + 'static) -> Response {
    let body = Body::from_stream(parts.map(Ok::<_, Infallible>));
    ([(header::CONTENT_TYPE, "text/event-stream")], body).into_response()
}

/// A part, and then another one repeated without end.
fn endless(first: String, then: String) -> impl Stream<Item = String> {
    stream::iter([first]).chain(stream::repeat(then))
}

fn act(id: &Value, what: Option<&str>) -> Response {
    let event = |message: Value| format!("data: {message}\n\n");
    let answer = |id: Value, result: Value| event(json!({"jsonrpc": "2.0", "id": id, "result": result}));
    match what.unwrap_or_default() {
        "endless json" => {
            let parts = endless(format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"x\":\""), "x".repeat(4096));
            let body = Body::from_stream(parts.map(Ok::<_, Infallible>));
            ([(header::CONTENT_TYPE, "application/json")], body).into_response()
        }
        "endless event" => events(endless("data: ".to_owned(), "x".repeat(4096))),
        "endless comments" => events(endless(String::new(), format!(": {}\n\n", "x".repeat(4096))).take(5000)),
        "cut event" => events(stream::iter([format!("data: {{\"jsonrpc\":\"2.0\",\"id\":{id},")])),
        "cut json" => json_body(&json!("x")),
        "ids" => events(stream::iter([
            answer(json!(0), json!("wrong")),
            answer(json!(id.to_string()), json!("wrong")),
            event(json!([{"jsonrpc": "2.0", "id": id, "result": "wrong"}])),
            "data: nonsense\n\nevent: x\nid: \0\nretry: -1\n\n".to_owned(),
            answer(id.clone(), right()),
            answer(id.clone(), json!("wrong")),
        ])),
        "pings" => {
            let ping = |n| format!("data: {{\"jsonrpc\":\"2.0\",\"id\":{n},\"method\":\"ping\"}}\n\n");
            // Its answer never comes, so that the hub has time for all pings.
            let late = stream::once(std::future::pending::<String>());
            events(stream::iter(0..PINGS).map(ping).chain(late))
        }
        "refusal" => (StatusCode::INTERNAL_SERVER_ERROR, "x".repeat(100 << 20)).into_response(),
        "header" => ([("x-large", "x".repeat(1 << 20))], "{}").into_response(),
        "redirect" => (StatusCode::FOUND, [(header::LOCATION, "http://127.0.0.1:1/")]).into_response(),
        other => json_body(&json!({"jsonrpc": "2.0", "id": id, "error": {"code": 1, "message": other}})),
    }
}

async fn hostile_url_lab() -> Result<(Lab, Held)> {
    let lab = Lab::new()?.with("LINCHPIN_GATEWAY_MAX_MESSAGE_BYTES", &MOST.to_string());
    lab.hub().await.map(drop)?;
    lab.echo_instances(&["calm"]).await?;
    let (url, held) = serve().await?;
    lab.detached_at("hostile", &url, &["sleep".to_owned(), "600".to_owned()]).await?;
    lab.usable("hostile").await?;
    Ok((lab, held))
}

async fn act_of(agent: &mut Http, what: &str) -> Result<linchpin_tests::agent::Reply> {
    agent.request("tools/call", json!({"name": "hostile__act", "arguments": {"do": what}})).await
}

/// Fault 63: answers that are endless, cut off, unrelated or malformed.
#[tokio::test]
async fn invalid_http_answers_are_reported_and_endless_ones_cut() -> Result<()> {
    let (lab, _held) = hostile_url_lab().await?;
    let mut agent = lab.http("/mcp").await?;
    for (what, word) in [
        ("endless json", "larger than 1048576 bytes"),
        ("endless event", "larger than 1048576 bytes"),
        ("endless comments", "without a response"),
        ("cut event", "without a response"),
        ("cut json", "what is no message"),
        ("refusal", "500 Internal Server Error"),
        ("header", "does not answer"),
        ("redirect", "302 Found"),
    ] {
        let error = act_of(&mut agent, what).await.with_context(|| what.to_owned())?.error()?;
        ensure!(error["message"].as_str().is_some_and(|message| message.contains(word)), "{what}: {error}");
        ensure!(error.to_string().len() < 10_000, "{what}: not the server's whole message");
        assert_eq!(agent.call("calm__echo-calm", json!({"message": "x"})).await?, "x", "{what}");
    }
    assert_eq!(act_of(&mut agent, "ids").await?.result()?, right());
    for (who, pid) in [("hub", lab.hub_facts()?.pid), ("instance", instance_pid(&lab).await?)] {
        ensure!(peak_memory(pid)? < 100 << 20, "{who}: {}", peak_memory(pid)?);
    }
    lab.finish().await
}

async fn instance_pid(lab: &Lab) -> Result<u32> {
    let pid = lab.instance_status("hostile").await?["pid"].as_u64().context("no pid")?;
    Ok(u32::try_from(pid)?)
}

/// Fault 63: a server that sends requests without end and accepts no answer does not block calls to it.
#[tokio::test]
async fn endless_requests_of_a_server_are_answered_in_bounds() -> Result<()> {
    let (lab, held) = hostile_url_lab().await?;
    let (mut flooded, mut agent) = (lab.http("/mcp").await?, lab.http("/mcp").await?);
    let flood = act_of(&mut flooded, "pings");
    let calm = async {
        lab.wait_for("it is answered", async || {
            ensure!(held.load(Ordering::Relaxed) >= 60, "{held:?}");
            Ok(())
        })
        .await?;
        for _ in 0..20 {
            assert_eq!(agent.call("hostile__echo", json!({})).await?, "right");
        }
        ensure!(held.load(Ordering::Relaxed) < 100, "{held:?} answers are under way");
        Ok(())
    };
    tokio::select! {
        flood = flood => anyhow::bail!("it was answered: {flood:?}"),
        calm = calm => calm?,
    }
    lab.finish().await
}
