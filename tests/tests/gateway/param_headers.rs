//! A server of 2026-07-28 behind a URL: headers that repeat arguments, and tasks.

use crate::lab::GatewayLab;
use anyhow::{Context, Result, ensure};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use futures_util::StreamExt;
use linchpin_instance::Instance;
use linchpin_tests::agent::stream::{Answered, Stream};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::sync::broadcast;

const TASKS: &str = "io.modelcontextprotocol/tasks";

/// The server.
struct Web {
    /// The header in which it demands the region.
    header: Mutex<&'static str>,
    /// The requests that it got, with their headers.
    seen: Mutex<Vec<(String, HeaderMap)>>,
    news: broadcast::Sender<Value>,
}

impl Web {
    fn answer(&self, headers: &HeaderMap, message: &Value) -> Response {
        let id = &message["id"];
        let reply = |result: Value| axum::Json(json!({"jsonrpc": "2.0", "id": id, "result": result})).into_response();
        let method = message["method"].as_str().unwrap_or_default();
        if method == "initialize" {
            let about = json!({"protocolVersion": "2025-06-18", "capabilities": {"tools": {}, "extensions": {TASKS: {}}}, "serverInfo": {"name": "w"}});
            return ([("mcp-session-id", "s")], reply(about)).into_response();
        }
        if method == "tools/list" {
            let region = json!({"type": "string", "x-mcp-header": *self.header.lock()});
            let tool = |name: &str, schema: Value| json!({"name": name, "inputSchema": {"type": "object", "properties": schema}});
            let bad = tool("bad", json!({"a": {"type": "number", "x-mcp-header": "A"}}));
            return reply(json!({"tools": [tool("go", json!({"region": region})), bad, tool("make", json!({}))]}));
        }
        if headers.get("mcp-protocol-version").is_none_or(|version| version != "2026-07-28") {
            return StatusCode::ACCEPTED.into_response();
        }
        self.seen.lock().push((method.to_owned(), headers.clone()));
        let header = format!("mcp-param-{}", self.header.lock().to_ascii_lowercase());
        let region = headers.get(&header).and_then(|value| value.to_str().ok());
        let task = |status: &str| json!({"resultType": "complete", "taskId": "t-1", "status": status, "ttlMs": null});
        match (method, message["params"]["name"].as_str(), region) {
            ("server/discover", ..) => reply(json!({"resultType": "complete", "supportedVersions": ["2026-07-28"]})),
            ("tools/call", Some("go"), Some(region)) => {
                reply(json!({"resultType": "complete", "content": [{"type": "text", "text": region}]}))
            }
            ("tools/call", Some("go"), None) => {
                let error = json!({"code": -32020, "message": format!("{header} is missing")});
                (StatusCode::BAD_REQUEST, axum::Json(json!({"jsonrpc": "2.0", "id": id, "error": error})))
                    .into_response()
            }
            ("tools/call", ..) => {
                let mut task = task("working");
                task["resultType"] = json!("task");
                reply(task)
            }
            ("tasks/get", ..) if message["params"]["taskId"] == "t-1" => reply(task("working")),
            ("tasks/get", ..) => reply(json!({"asked": message["params"]})),
            ("subscriptions/listen", ..) => self.listen(&message["params"]["notifications"]),
            _ => StatusCode::ACCEPTED.into_response(),
        }
    }

    fn listen(&self, filter: &Value) -> Response {
        let first = json!({"jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged", "params": {"notifications": filter}});
        let news = futures_util::stream::unfold(self.news.subscribe(), |mut news| async move {
            Some((news.recv().await.ok()?, news))
        });
        let all = futures_util::stream::iter([first]).chain(news);
        let events = all.map(|message| Ok::<_, std::convert::Infallible>(format!("data: {message}\n\n")));
        ([("content-type", "text/event-stream")], Body::from_stream(events)).into_response()
    }

    /// The value of a header of the last request with this method.
    fn last(&self, method: &str, header: &str) -> Option<String> {
        let seen = self.seen.lock();
        let (_, headers) = seen.iter().rfind(|(of, _)| of == method)?;
        headers.get(header)?.to_str().ok().map(str::to_owned)
    }

    fn calls(&self) -> usize {
        self.seen.lock().iter().filter(|(method, _)| method == "tools/call").count()
    }
}

async fn web(lab: &GatewayLab) -> Result<(Arc<Web>, Instance)> {
    let web = Arc::new(Web { header: Mutex::new("Region"), seen: Mutex::default(), news: broadcast::Sender::new(8) });
    let handler = async |State(web): State<Arc<Web>>, headers: HeaderMap, body: Bytes| {
        web.answer(&headers, &serde_json::from_slice(&body).unwrap_or_default())
    };
    let app = Router::new().route("/mcp", post(handler)).with_state(Arc::clone(&web));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/mcp", listener.local_addr()?);
    tokio::spawn(async move { axum::serve(listener, app).await });
    let instance = Instance::builder("web").home(lab.home()).project_dir("/").mcp_server("w", &*url);
    let instance = instance.start().await.map_err(anyhow::Error::from)?;
    lab.lists(1).await?;
    Ok((web, instance))
}

/// Sends a call of 2026-07-28 with these headers beside the usual ones.
async fn call(lab: &GatewayLab, arguments: &Value, more: &[(&str, &str)]) -> Result<(StatusCode, Answered)> {
    let meta = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}});
    let params = json!({"name": "web__go", "arguments": arguments, "_meta": meta});
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).to_string();
    let request = reqwest::Client::new().post(lab.url("/mcp")).header("content-type", "application/json");
    let request = request.header("mcp-protocol-version", "2026-07-28").header("mcp-method", "tools/call");
    let request = request.header("mcp-name", "web__go");
    let request = more.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    let response = request.body(body).send().await?;
    Ok((response.status(), Stream::of(response).to_end().await?))
}

#[tokio::test]
async fn parameter_headers_are_checked_and_rewritten() -> Result<()> {
    let lab = GatewayLab::new().await?;
    let (web, instance) = web(&lab).await?;
    let listed = lab.agent("/mcp").await?.names("tools").await?;
    assert_eq!(listed, ["web__go", "web__make"], "an invalid definition is left out");

    let north = json!({"region": "north"});
    for wrong in [&[][..], &[("mcp-param-region", "south")], &[("mcp-param-region", "=?base64?x?=")]] {
        let (status, answered) = call(&lab, &north, wrong).await?;
        assert_eq!((status, &answered.error()?["code"]), (StatusCode::BAD_REQUEST, &json!(-32020)), "{wrong:?}");
    }
    assert_eq!(web.calls(), 0, "the server received a call");
    let (_, answered) = call(&lab, &north, &[("mcp-param-region", "=?base64?bm9ydGg=?=")]).await?;
    assert_eq!(answered.text()?, "north", "the session was not begun again without headers");

    // A request over stdio has no headers, so the hub makes them.
    let stdio = ("linchpin-over-stdio", "1");
    let (_, answered) = call(&lab, &north, &[stdio]).await?;
    assert_eq!(answered.text()?, "north");
    *web.header.lock() = "Zone";
    let (_, answered) = call(&lab, &north, &[stdio]).await?;
    assert_eq!(answered.text()?, "north", "the hub did not read the schema and repeat the call");
    assert_eq!(web.last("tools/call", "mcp-param-zone").as_deref(), Some("north"));
    *web.header.lock() = "Region";
    let (status, answered) = call(&lab, &north, &[("mcp-param-zone", "north")]).await?;
    assert_eq!(
        (status, &answered.error()?["code"]),
        (StatusCode::BAD_REQUEST, &json!(-32020)),
        "the client must read the schema again"
    );
    instance.stop().await.map_err(anyhow::Error::from)
}

#[tokio::test]
async fn extension_tasks_are_renamed_and_announced() -> Result<()> {
    let lab = GatewayLab::new().await?;
    let (web, instance) = web(&lab).await?;
    let client = lab.stateless("/mcp").with_capabilities(json!({"extensions": {TASKS: {}}}));
    let ask = async |method: &str, params: Value| client.exchange(json!(1), method, params).await;
    let found = ask("server/discover", json!({})).await?;
    let capabilities = &found.result()?["capabilities"];
    ensure!(capabilities["extensions"][TASKS].is_object() && capabilities.get("tasks").is_none(), "{capabilities}");

    let made = ask("tools/call", json!({"name": "web__make", "arguments": {}})).await?;
    let task = made.result()?["taskId"].as_str().context("no taskId")?.to_owned();
    ensure!(made.result()?["resultType"] == "task" && !task.contains("t-1"), "{made:?}");
    let got = ask("tasks/get", json!({"taskId": task})).await?;
    assert_eq!((&got.result()?["taskId"], &got.result()?["status"]), (&json!(task), &json!("working")));
    assert_eq!(web.last("tasks/get", "mcp-name").as_deref(), Some("t-1"), "the server sees its own name");
    let forged = ask("tasks/get", json!({"taskId": format!("{task}x")})).await?;
    assert_eq!(forged.error()?["code"], -32602);
    let legacy = lab.agent("/mcp").await?.exchange(json!(1), "tasks/get", json!({"taskId": task})).await?;
    assert_eq!(legacy.error()?["code"], -32602, "a task without session is not one of a session");

    let wanted = json!({"notifications": {"taskIds": [task, "forged"]}});
    let refused = lab.stateless("/mcp").exchange(json!("m"), "subscriptions/listen", wanted.clone()).await?;
    assert_eq!(refused.error()?["code"], -32021, "{refused:?}");
    let message = json!({"jsonrpc": "2.0", "id": "l", "method": "subscriptions/listen", "params": wanted});
    let mut stream = Stream::of(client.send(&message).await?);
    let first = stream.next().await?.context("nothing came")?;
    assert_eq!(first["params"]["notifications"], json!({"taskIds": [task]}), "{first}");
    for id in ["t-2", "t-1"] {
        let params = json!({"taskId": id, "status": "completed", "result": {"content": []}});
        web.news.send(json!({"jsonrpc": "2.0", "method": "notifications/tasks", "params": params}))?;
    }
    let told = stream.next().await?.context("nothing came")?;
    assert_eq!((&told["method"], &told["params"]["taskId"]), (&json!("notifications/tasks"), &json!(task)), "{told}");
    assert_eq!(told["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], "l");
    instance.stop().await.map_err(anyhow::Error::from)
}
