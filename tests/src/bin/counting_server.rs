//! An MCP server whose executions can be counted, on stdio or on Streamable HTTP with sessions.
//!
//! `counting-server stdio|http TOOLS`: one tool `count`, and one more for each line of the file TOOLS when the server
//! starts, so that its list can differ after a restart. A call is executed by appending its argument `word` to the file
//! `ledger` as a line. With `until` it is answered only once that file exists. On HTTP the server listens on 127.0.0.1
//! at the port in the variable `PORT`, and answers 404 to a session that this process did not begin. It never waits for
//! one call to answer another, and keeps nothing after its end.

use anyhow::{Context, Result, bail};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};

/// How often a call checks whether it may be answered.
const LOOK: Duration = Duration::from_millis(10);

struct Server {
    tools: Vec<String>,
    sessions: Mutex<HashSet<String>>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (transport, file) = (arguments.next(), arguments.next().context("no file of tools")?);
    let more = std::fs::read_to_string(file).unwrap_or_default();
    let tools = std::iter::once("count").chain(more.lines()).map(str::to_owned).collect();
    let server = Arc::new(Server { tools, sessions: Mutex::default() });
    match transport.as_deref() {
        Some("stdio") => stdio(server).await,
        Some("http") => http(server).await,
        other => bail!("{other:?} is neither stdio nor http"),
    }
}

async fn stdio(server: Arc<Server>) -> Result<()> {
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        let (server, message) = (Arc::clone(&server), serde_json::from_str::<Value>(&line)?);
        tokio::spawn(async move {
            if let Some(answer) = server.answer(&message).await {
                // The reader is gone, and the end of the input follows.
                let _ = writeln!(std::io::stdout().lock(), "{answer}");
            }
        });
    }
    Ok(())
}

async fn http(server: Arc<Server>) -> Result<()> {
    let port: u16 = std::env::var("PORT").context("PORT is not set")?.parse()?;
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    axum::serve(listener, axum::Router::new().route("/mcp", any(serve)).with_state(server)).await?;
    Ok(())
}

async fn serve(State(server): State<Arc<Server>>, headers: HeaderMap, body: String) -> Response {
    // A GET: this server offers no stream.
    let Ok(message) = serde_json::from_str::<Value>(&body) else {
        return StatusCode::METHOD_NOT_ALLOWED.into_response();
    };
    let begins = message["method"] == "initialize";
    if !begins && !server.knows(&headers) {
        return (StatusCode::NOT_FOUND, "no such session").into_response();
    }
    let Some(answer) = server.answer(&message).await else { return StatusCode::ACCEPTED.into_response() };
    let answer = ([("content-type", "application/json")], answer.to_string());
    match begins.then(|| server.begin()) {
        Some(session) => ([("mcp-session-id", session)], answer).into_response(),
        None => answer.into_response(),
    }
}

impl Server {
    fn begin(&self) -> String {
        let session = uuid::Uuid::new_v4().to_string();
        self.sessions.lock().insert(session.clone());
        session
    }

    fn knows(&self, headers: &HeaderMap) -> bool {
        let session = headers.get("mcp-session-id").and_then(|value| value.to_str().ok()).unwrap_or_default();
        self.sessions.lock().contains(session)
    }

    async fn answer(&self, message: &Value) -> Option<Value> {
        let (id, method) = (message.get("id")?, message["method"].as_str()?);
        let params = &message["params"];
        let result = match method {
            "initialize" => json!({
                "protocolVersion": params["protocolVersion"],
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "counting-server", "version": "1"}
            }),
            "ping" => json!({}),
            "tools/list" => json!({"tools": self.tools.iter().map(|name| tool(name)).collect::<Vec<_>>()}),
            "tools/call" if self.tools.iter().any(|tool| params["name"] == tool.as_str()) => {
                match count(&params["arguments"]).await {
                    Ok(word) => json!({"content": [{"type": "text", "text": word}]}),
                    Err(error) => json!({"isError": true, "content": [{"type": "text", "text": format!("{error:#}")}]}),
                }
            }
            method => {
                let error = json!({"code": -32601, "message": format!("no {method} here")});
                return Some(json!({"jsonrpc": "2.0", "id": id, "error": error}));
            }
        };
        Some(json!({"jsonrpc": "2.0", "id": id, "result": result}))
    }
}

fn tool(name: &str) -> Value {
    let string = json!({"type": "string"});
    let properties = json!({"word": string, "ledger": string, "until": string});
    json!({
        "name": name,
        "description": "Writes a word down, once for each execution",
        "inputSchema": {"type": "object", "properties": properties, "required": ["word", "ledger"]}
    })
}

/// Executes a call: one write to the end of the ledger.
async fn count(arguments: &Value) -> Result<String> {
    let text = |key: &str| arguments[key].as_str().with_context(|| format!("{key} is missing"));
    let word = text("word")?;
    let mut ledger = std::fs::File::options().create(true).append(true).open(text("ledger")?)?;
    ledger.write_all(format!("{word}\n").as_bytes())?;
    if let Ok(until) = text("until") {
        while !Path::new(until).exists() {
            tokio::time::sleep(LOOK).await;
        }
    }
    Ok(word.to_owned())
}
