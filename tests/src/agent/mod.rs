//! Agents: MCP clients as a coding agent has them, by hand, so that what travels is seen.
//!
//! Owns [`Agent`], what every client can do, and [`Reply`]. [`stdio`] drives a command over its pipes, [`http`] speaks
//! Streamable HTTP, [`driven`] has the official SDKs.
//! Invariant: one agent is one session; it never starts over by itself, so a session that broke is seen as broken.
//! Never: retries.

pub mod driven;
pub mod http;
pub mod stdio;

mod sse;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::time::Duration;

/// The version that agents ask for: the newest with sessions.
pub const VERSION: &str = "2025-11-25";

/// How long an agent waits for an answer. The hub itself gives up after 10 s (DESIGN 4.10).
pub const ANSWER: Duration = Duration::from_secs(30);

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
    /// When it is none.
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
    /// When it is an error; with it.
    pub fn result(self) -> Result<Value> {
        match self {
            Self::Result(result) => Ok(result),
            Self::Error(error) => bail!("answered with an error: {error}"),
        }
    }

    /// The error.
    ///
    /// # Errors
    /// When it is a result; with it.
    pub fn error(self) -> Result<Value> {
        match self {
            Self::Error(error) => Ok(error),
            Self::Result(result) => bail!("answered with a result: {result}"),
        }
    }
}

/// One session of one client.
#[expect(async_fn_in_trait, reason = "tests drive an agent from one task, so nothing needs to be Send")]
pub trait Agent {
    /// Sends one request and waits for its answer.
    ///
    /// # Errors
    /// When the transport failed: then the session is lost, as it would be for a real agent.
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

    /// Calls a tool and gives its first text.
    ///
    /// # Errors
    /// When the call failed in whatever way.
    async fn call(&mut self, tool: &str, arguments: Value) -> Result<String> {
        let result = self.request("tools/call", json!({"name": tool, "arguments": arguments})).await?.result()?;
        ensure!(result["isError"] != true, "the tool failed: {result}");
        let text = result["content"][0]["text"].as_str();
        Ok(text.with_context(|| format!("no text in {result}"))?.to_owned())
    }
}

/// The parameters of `initialize`.
#[must_use]
pub fn introduction() -> Value {
    json!({"protocolVersion": VERSION, "capabilities": {}, "clientInfo": {"name": "lab-agent", "version": "1"}})
}

/// Answers what a server may ask of a client without capabilities: `ping`, and nothing else.
fn answer_to(message: &Value) -> Option<Value> {
    let (method, id) = (message["method"].as_str()?, message.get("id")?);
    Some(match method {
        "ping" => json!({"jsonrpc": "2.0", "id": id, "result": {}}),
        _ => json!({"jsonrpc": "2.0", "id": id, "error": {"code": -32601, "message": "no such method"}}),
    })
}
