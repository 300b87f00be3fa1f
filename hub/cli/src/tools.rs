//! `linchpin tools`.
//!
//! Owns how tools look at a terminal. The list is the one that agents get: it comes over MCP, through the same session.

use super::Context;
use super::lost::Repeat;
use super::session::{Message, Session};
use bytes::Bytes;
use linchpin_hub::render::table;
use linchpin_hub::render::{list, text};
use linchpin_shared::problem::{Code, Exit, Problem};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::sync::mpsc;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only tools whose name contains this
    filter: Option<String>,
}

pub(super) async fn main(context: &Context, args: Args) -> Result<Exit, Problem> {
    let agent = Agent::open(context).await?;
    let result = agent.request("tools/list", json!({}), Repeat::Safe).await;
    agent.session.close().await;
    let mut result = result?;
    if let (Some(filter), Some(tools)) = (args.filter, result["tools"].as_array_mut()) {
        tools.retain(|tool| tool["name"].as_str().is_some_and(|name| name.contains(&filter)));
    }
    context.output.value(&result, |result| {
        let rows: Vec<_> = list(&result["tools"]).iter().map(row).collect();
        if rows.is_empty() { "no tools; see linchpin status".to_owned() } else { table(&rows) }
    });
    Ok(Exit::Ok)
}

fn row(tool: &Value) -> Vec<String> {
    let about = text(&tool["description"]);
    vec![text(&tool["name"]), about.lines().next().unwrap_or_default().chars().take(90).collect()]
}

/// The command line as an MCP client.
pub(super) struct Agent {
    pub(super) session: Session,
}

impl Agent {
    /// Begins a session with the hub.
    pub(super) async fn open(context: &Context) -> Result<Self, Problem> {
        let session = Session::new(context, "/mcp?tools=all".to_owned());
        let params = json!({
            "protocolVersion": "2025-11-25", "capabilities": {},
            "clientInfo": {"name": "linchpin", "version": env!("CARGO_PKG_VERSION")},
        });
        let hello = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params});
        result(&session.initialize(Bytes::from(hello.to_string())).await?)?;
        let ready = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
        let (out, _) = mpsc::channel(1);
        let body = Bytes::from(ready.to_string());
        session.send(&Message { body: &body, id: None, repeat: Repeat::Safe, headers: None }, &out).await?;
        Ok(Self { session })
    }

    /// Sends a request and returns its result.
    pub(super) async fn request(&self, method: &str, params: Value, repeat: Repeat) -> Result<Value, Problem> {
        let body = Bytes::from(json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).to_string());
        let (out, mut answers) = mpsc::channel::<Bytes>(16);
        let one = RawValue::from_string("1".to_owned()).ok();
        let message = Message { body: &body, id: one.as_deref(), repeat, headers: None };
        let send = async move { self.session.send(&message, &out).await };
        let last = async move {
            let mut last = None;
            while let Some(answer) = answers.recv().await {
                last = Some(answer);
            }
            last
        };
        let (sent, last) = tokio::join!(send, last);
        sent?;
        result(&last.unwrap_or_default())
    }
}

/// The result of a JSON-RPC answer, or its error as a problem.
fn result(answer: &[u8]) -> Result<Value, Problem> {
    let mut answer: Value = serde_json::from_slice(answer)
        .map_err(|error| Problem::new(Code::Internal, format!("the hub's answer is not JSON: {error}")))?;
    match answer.get_mut("error").map(Value::take) {
        None => Ok(answer["result"].take()),
        Some(error) => Err(serde_json::from_value(error["data"].clone()).unwrap_or_else(|_| {
            Problem::new(Code::BadRequest, text(&error["message"])).seen("JSON-RPC code", error["code"].clone())
        })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_with_a_problem_is_that_problem() {
        let problem = Problem::new(Code::UnknownTool, "no tool is called x");
        let answer = json!({"jsonrpc": "2.0", "id": 1, "error": {"code": -32602, "message": "m", "data": problem}});
        assert_eq!(result(answer.to_string().as_bytes()).unwrap_err(), problem);
        let foreign = json!({"jsonrpc": "2.0", "id": 1, "error": {"code": -32601, "message": "no such method"}});
        assert_eq!(result(foreign.to_string().as_bytes()).unwrap_err().detail, "no such method");
        assert_eq!(result(br#"{"result":{"ok":true}}"#).unwrap(), json!({"ok": true}));
    }
}
