//! MCP clients that are written by hand, so that a test decides what is sent and sees what is received.
//!
//! [`Agent`] is what every client can do. [`stdio`] drives a command over its pipes, [`http`] speaks Streamable HTTP,
//! and [`driven`] drives the official SDKs. An agent is one session and never retries or begins again by itself, so a
//! session that broke is seen as broken.

pub mod driven;
pub mod http;
pub mod stdio;
pub mod stream;

mod sse;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::time::Duration;

/// The version that agents ask for: the newest one with sessions.
pub const VERSION: &str = "2025-11-25";

/// The first version without sessions.
pub const STATELESS_VERSION: &str = "2026-07-28";

/// How long an agent waits for an answer. The hub itself gives up after 10 s.
pub const ANSWER: Duration = Duration::from_secs(30);

/// The two dialects of MCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// Versions up to 2025-11-25: `initialize` begins a session.
    SessionBased,
    /// From 2026-07-28 on: every request says all that the server has to know of its client.
    Stateless,
}

/// The answer to one request: its result or its error.
#[derive(Debug, Clone)]
pub enum Reply {
    /// The `result`.
    Result(Value),
    /// The `error`.
    Error(Value),
}

impl Reply {
    /// Reads a JSON-RPC response.
    ///
    /// # Errors
    /// If the message is not a response.
    pub fn of(mut message: Value) -> Result<Self> {
        ensure!(message["jsonrpc"] == "2.0", "not JSON-RPC 2.0: {message}");
        match (message["result"].take(), message["error"].take()) {
            (result, Value::Null) if !result.is_null() => Ok(Self::Result(result)),
            (Value::Null, error) if error.is_object() => Ok(Self::Error(error)),
            (result, error) => bail!("neither a result nor an error: {result} {error}"),
        }
    }

    /// The result.
    ///
    /// # Errors
    /// If it is an error; with that error.
    pub fn result(self) -> Result<Value> {
        match self {
            Self::Result(result) => Ok(result),
            Self::Error(error) => bail!("answered with an error: {error}"),
        }
    }

    /// The error.
    ///
    /// # Errors
    /// If it is a result; with that result.
    pub fn error(self) -> Result<Value> {
        match self {
            Self::Error(error) => Ok(error),
            Self::Result(result) => bail!("answered with a result: {result}"),
        }
    }
}

/// What every client can do, whatever its transport.
#[expect(async_fn_in_trait, reason = "tests drive an agent from one task, so nothing needs to be Send")]
pub trait Agent {
    /// Sends one request and waits for its answer.
    ///
    /// # Errors
    /// If the transport failed: then the session is lost, as it would be for a real agent.
    async fn request(&mut self, method: &str, params: Value) -> Result<Reply>;

    /// The names of all tools, over all pages, in order.
    ///
    /// # Errors
    /// As [`Agent::request`], or when the answer is an error.
    async fn tools(&mut self) -> Result<Vec<String>> {
        let tools = self.list("tools/list", "tools").await?;
        tools.iter().map(|tool| Ok(tool["name"].as_str().context("a tool without a name")?.to_owned())).collect()
    }

    /// All items of a list, over all pages.
    ///
    /// # Errors
    /// As [`Agent::tools`].
    async fn list(&mut self, method: &str, field: &str) -> Result<Vec<Value>> {
        let mut items = Vec::new();
        let mut params = json!({});
        loop {
            let page = self.request(method, params).await?.result()?;
            items.extend(page[field].as_array().with_context(|| format!("no {field} in {page}"))?.iter().cloned());
            let Some(cursor) = page["nextCursor"].as_str() else { return Ok(items) };
            params = json!({"cursor": cursor});
        }
    }

    /// Calls a tool and returns the first text of its result.
    ///
    /// # Errors
    /// If the call failed in any way.
    async fn call(&mut self, tool: &str, arguments: Value) -> Result<String> {
        let result = self.request("tools/call", json!({"name": tool, "arguments": arguments})).await?.result()?;
        ensure!(result["isError"] != true, "the tool failed: {result}");
        let text = result["content"][0]["text"].as_str();
        Ok(text.with_context(|| format!("no text in {result}"))?.to_owned())
    }
}

/// The parameters of `initialize` for a client with these capabilities.
#[must_use]
pub fn introduction(capabilities: &Value) -> Value {
    json!({"protocolVersion": VERSION, "capabilities": capabilities, "clientInfo": client_info()})
}

/// The members of `_meta` that every request carries in the stateless dialect.
#[must_use]
pub fn stateless_meta(capabilities: &Value) -> [(&'static str, Value); 3] {
    [
        ("io.modelcontextprotocol/protocolVersion", STATELESS_VERSION.into()),
        ("io.modelcontextprotocol/clientInfo", client_info()),
        ("io.modelcontextprotocol/clientCapabilities", capabilities.clone()),
    ]
}

fn client_info() -> Value {
    json!({"name": "lab-agent", "version": "1"})
}

/// The answer of a client without capabilities to what a server asks: it knows `ping` and nothing else.
fn answer_to(message: &Value) -> Option<Value> {
    let (method, id) = (message["method"].as_str()?, message.get("id")?);
    Some(match method {
        "ping" => json!({"jsonrpc": "2.0", "id": id, "result": {}}),
        _ => json!({"jsonrpc": "2.0", "id": id, "error": {"code": -32601, "message": "no such method"}}),
    })
}
