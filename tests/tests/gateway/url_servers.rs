//! Servers behind a URL: several in one instance, forgotten sessions, and servers without sessions.

use crate::lab::GatewayLab;
use anyhow::{Result, ensure};
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use linchpin_instance::Instance;
use linchpin_tests::agent::stream::PATIENCE;
use linchpin_tests::wait::until;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::sync::Arc;

/// An MCP server over HTTP that can be made to forget its sessions.
#[derive(Debug, Default)]
struct Web {
    name: String,
    /// The last session that it has forgotten.
    forgotten: Mutex<u64>,
    sessions: Mutex<u64>,
    calls: Mutex<u64>,
    forgets_with: Mutex<Option<(u16, &'static str)>>,
    tools: Mutex<Vec<String>>,
    offered: Mutex<Vec<Value>>,
    /// The headers of calls of 2026-07-28, which it speaks too.
    routed: Mutex<Vec<HeaderMap>>,
}

impl Web {
    fn forget(&self, status: u16, words: &'static str) {
        *self.forgotten.lock() = *self.sessions.lock();
        *self.forgets_with.lock() = Some((status, words));
    }

    async fn answer(&self, headers: &HeaderMap, message: &Value) -> Response {
        let session = headers.get("mcp-session-id").and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        if message["method"] == "initialize" {
            let mut sessions = self.sessions.lock();
            *sessions += 1;
            self.offered.lock().push(message["params"]["capabilities"].clone());
            let about = json!({"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": {"name": self.name}});
            return ([("mcp-session-id", sessions.to_string())], reply(message, &about)).into_response();
        }
        if headers.get("mcp-protocol-version").is_some_and(|version| version == "2026-07-28") {
            self.routed.lock().push(headers.clone());
            let result = json!({"resultType": "complete", "supportedVersions": ["2026-07-28"], "content": [{"type": "text", "text": "new"}]});
            return reply(message, &result).into_response();
        }
        if session.is_none_or(|session| session <= *self.forgotten.lock()) {
            while message["params"]["arguments"]["late"] == true && *self.sessions.lock() < 2 {
                tokio::task::yield_now().await;
            }
            let (status, words) = self.forgets_with.lock().unwrap_or((404, "what?"));
            return (StatusCode::from_u16(status).unwrap_or_default(), words).into_response();
        }
        match message["method"].as_str() {
            Some("tools/list") => {
                let tools: Vec<_> = self.tools.lock().iter().map(|name| json!({"name": name})).collect();
                reply(message, &json!({"tools": tools})).into_response()
            }
            Some("tools/call") => {
                *self.calls.lock() += 1;
                let name = format!("{} {}", self.name, message["params"]["name"].as_str().unwrap_or_default());
                reply(message, &json!({"content": [{"type": "text", "text": name}]})).into_response()
            }
            Some(_) | None => StatusCode::ACCEPTED.into_response(),
        }
    }
}

/// An answer as a stream, with progress that was not requested and a pretty-printed response.
fn reply(message: &Value, result: &Value) -> Response {
    let answer = json!({"jsonrpc": "2.0", "id": message["id"], "result": result});
    let note =
        json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": "x", "progress": 1}});
    let answer = format!("{answer:#}").replace('\n', "\ndata: ");
    let body = format!(": hello\n\nevent: message\ndata: {note}\n\ndata: {answer}\n\n");
    ([("content-type", "text/event-stream")], body).into_response()
}

async fn web(name: &str, tools: &[&str]) -> Result<(Arc<Web>, String)> {
    let web = Arc::new(Web {
        name: name.to_owned(),
        tools: Mutex::new(tools.iter().map(ToString::to_string).collect()),
        ..Web::default()
    });
    let handler = async |State(web): State<Arc<Web>>, headers: HeaderMap, body: Bytes| {
        web.answer(&headers, &serde_json::from_slice(&body).unwrap_or_default()).await
    };
    let app = Router::new().route("/mcp", post(handler)).with_state(Arc::clone(&web));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/mcp", listener.local_addr()?);
    tokio::spawn(async move { axum::serve(listener, app).await });
    Ok((web, url))
}

async fn instance(lab: &GatewayLab, servers: &[(&str, &str)]) -> Result<Instance> {
    let mut builder = Instance::builder("web").home(lab.home()).project_dir("/");
    for (name, url) in servers {
        builder = builder.mcp_server(*name, *url);
    }
    let instance = builder.start().await.map_err(anyhow::Error::from)?;
    lab.lists(servers.len()).await?;
    Ok(instance)
}

#[tokio::test]
async fn servers_of_one_instance_are_told_apart() -> Result<()> {
    let lab = GatewayLab::new().await?;
    let ((_a, a), (_b, b)) = (web("a", &["go", "only"]).await?, web("b", &["go"]).await?);
    let instance = instance(&lab, &[("a", &a), ("b", &b)]).await?;
    let all = lab.agent("/mcp").await?;
    assert_eq!(all.names("tools").await?, ["web__a__go", "web__a__only", "web__b__go"]);
    assert_eq!(all.try_call("web__b__go", json!({})).await?.text()?, "b go");
    let one = lab.agent("/i/web/mcp").await?;
    assert_eq!(one.names("tools").await?, ["go", "only", "b__go"]);
    assert_eq!(one.try_call("b__go", json!({})).await?.text()?, "b go");
    assert_eq!(one.try_call("go", json!({})).await?.text()?, "a go");
    let server = lab.agent("/i/web/b/mcp").await?;
    assert_eq!(
        *server.about(),
        json!({"protocolVersion": "2025-11-25", "capabilities": {"tools": {"listChanged": true}}, "serverInfo": {"name": "b"}})
    );
    assert_eq!(server.names("tools").await?, ["go"]);
    assert_eq!(server.names("prompts").await?, [""; 0]);
    instance.stop().await.map_err(anyhow::Error::from)
}

#[tokio::test]
async fn forgotten_session_is_renewed_and_the_call_made_once() -> Result<()> {
    let lab = GatewayLab::new().await?;
    let (web, url) = web("a", &["go"]).await?;
    let instance = instance(&lab, &[("a", &url)]).await?;
    let agent = lab.agent("/mcp").await?;
    for (status, words) in [(404, "not found"), (400, "Bad Request: No valid session ID provided")] {
        web.forget(status, words);
        assert_eq!(agent.try_call("web__go", json!({})).await?.text()?, "a go");
    }
    assert_eq!((*web.calls.lock(), *web.sessions.lock()), (2, 3));
    web.forget(400, "something else is wrong");
    let answered = agent.try_call("web__go", json!({})).await?;
    assert_eq!(answered.error()?["data"]["code"], "server_unavailable");
    assert_eq!(answered.error()?["data"]["observed"]["answer"], "something else is wrong");
    assert_eq!(*web.sessions.lock(), 3);
    instance.stop().await.map_err(anyhow::Error::from)
}

#[tokio::test]
async fn concurrent_calls_renew_a_lost_session_once() -> Result<()> {
    let lab = GatewayLab::new().await?;
    let (web, url) = web("a", &["go"]).await?;
    let instance = instance(&lab, &[("a", &url)]).await?;
    let agent = lab.agent("/mcp").await?;
    web.forget(404, "");
    let calls: Vec<_> = (0..50)
        .map(|n| {
            let agent = agent.clone();
            // Half of them notice it only after another session has begun.
            let params = json!({"name": "web__go", "arguments": {"late": n % 2 == 0}});
            tokio::spawn(async move { agent.exchange(json!(n), "tools/call", params).await })
        })
        .collect();
    for call in calls {
        tokio::time::timeout(PATIENCE, call).await???.result()?;
    }
    assert_eq!((*web.calls.lock(), *web.sessions.lock()), (50, 2));
    instance.stop().await.map_err(anyhow::Error::from)
}

#[tokio::test]
async fn server_without_list_changed_is_asked_again() -> Result<()> {
    let lab = GatewayLab::new().await?;
    let (web, url) = web("a", &["go"]).await?;
    let instance = instance(&lab, &[("a", &url)]).await?;
    let agent = lab.agent("/mcp").await?;
    web.tools.lock().push(String::from("new"));
    assert_eq!(agent.try_call("web__new", json!({})).await?.text()?, "a new", "a tool that was not there before");
    web.tools.lock().push(String::from("newer"));
    assert_eq!(agent.names("tools").await?, ["web__go", "web__new", "web__newer"]);
    instance.stop().await.map_err(anyhow::Error::from)
}

#[tokio::test]
async fn capability_sets_have_their_own_server_sessions() -> Result<()> {
    let lab = GatewayLab::new().await?;
    let (a, url) = web("a", &["go"]).await?;
    let instance = instance(&lab, &[("a", &url)]).await?;
    let plain = lab.agent("/i/web/mcp").await?;
    assert_eq!(plain.try_call("go", json!({})).await?.text()?, "a go");
    let sampling = json!({"sampling": {}, "experimental": {"x": {}}});
    for path in ["/i/web/mcp", "/mcp"] {
        let able = lab.agent_with(path, sampling.clone()).await?;
        assert_eq!(able.names("tools").await?.len(), 1);
    }
    assert_eq!(
        *a.offered.lock(),
        [json!({}), json!({"sampling": {}})],
        "more than one session for a set of capabilities"
    );
    assert_eq!(*a.sessions.lock(), 2);
    instance.stop().await.map_err(anyhow::Error::from)
}

/// A server that speaks 2026-07-28 answers a stateless client itself, and gets the headers that belong to its request.
#[tokio::test]
async fn stateless_client_reaches_a_stateless_server() -> Result<()> {
    let lab = GatewayLab::new().await?;
    let (a, url) = web("a", &["go"]).await?;
    let instance = instance(&lab, &[("a", &url)]).await?;
    let meta = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}});
    let params = json!({"name": "web__go", "arguments": {"region": "north"}, "_meta": meta});
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).to_string();
    let request = reqwest::Client::new().post(lab.url("/mcp")).header("content-type", "application/json");
    let request = request.header("mcp-protocol-version", "2026-07-28").header("mcp-method", "tools/call");
    let request = request.header("mcp-name", "web__go").header("mcp-param-region", "north").header("x-other", "no");
    let answer: Value = request.body(body).send().await?.json().await?;
    assert_eq!(answer["result"]["content"][0]["text"], "new", "{answer}");
    let routed = a.routed.lock().last().cloned().unwrap_or_default();
    let header = |name: &str| routed.get(name).and_then(|value| value.to_str().ok().map(str::to_owned));
    assert_eq!(header("mcp-method").as_deref(), Some("tools/call"));
    assert_eq!(header("mcp-name").as_deref(), Some("go"), "the name as the server has it");
    assert_eq!(header("mcp-param-region").as_deref(), Some("north"));
    assert_eq!((header("mcp-session-id"), header("x-other")), (None, None));
    instance.stop().await.map_err(anyhow::Error::from)
}

/// A server without sessions and without a stream: its answer to the GET of the hub ends nothing.
#[tokio::test]
async fn server_without_a_stream_is_initialized_once() -> Result<()> {
    let lab = GatewayLab::new().await?;
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let (said, looked) = (Arc::clone(&asked), Arc::clone(&asked));
    let answer = async move |body: Bytes| {
        let message: Value = serde_json::from_slice(&body).unwrap_or_default();
        said.lock().push(message["method"].as_str().unwrap_or_default().to_owned());
        let result = match message["method"].as_str() {
            Some("initialize") => {
                json!({"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": {"name": "plain"}})
            }
            Some("tools/list") => json!({"tools": [{"name": "go"}]}),
            Some(_) | None => json!({"content": [{"type": "text", "text": "went"}]}),
        };
        reply(&message, &result)
    };
    let nothing = async move || {
        looked.lock().push(String::from("GET"));
        StatusCode::NOT_FOUND
    };
    let app = Router::new().route("/mcp", post(answer).get(nothing));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/mcp", listener.local_addr()?);
    tokio::spawn(async move { axum::serve(listener, app).await });
    let _instance = instance(&lab, &[("plain", &url)]).await?;
    let count = |what: &str| asked.lock().iter().filter(|it| *it == what).count();
    until("its stream is asked for", PATIENCE, async || {
        ensure!(count("GET") > 0, "{:?}", asked.lock());
        Ok(())
    })
    .await?;
    let agent = lab.agent("/mcp").await?;
    for _ in 0..20 {
        assert_eq!(agent.try_call("web__go", json!({})).await?.text()?, "went");
    }
    assert_eq!((count("initialize"), count("GET")), (1, 1), "{:?}", asked.lock());
    Ok(())
}
