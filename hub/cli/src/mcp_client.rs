//! The command line as an MCP client, for the verbs that list and call tools.

use super::Context;
use super::send_error::Repeat;
use super::session::{HubSession, OutgoingMessage};
use bytes::Bytes;
use linchpin_hub::render::text;
use linchpin_shared::problem::{Code, Problem};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::sync::mpsc;

/// An MCP client with a session at the hub.
pub(super) struct McpClient {
    pub(super) session: HubSession,
}

impl McpClient {
    /// Opens a session at the hub.
    pub(super) async fn open(context: &Context) -> Result<Self, Problem> {
        let session = HubSession::new(context, "/mcp?tools=all".to_owned());
        let params = json!({
            "protocolVersion": "2025-11-25", "capabilities": {},
            "clientInfo": {"name": "linchpin", "version": env!("CARGO_PKG_VERSION")},
        });
        let hello = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params});
        result(&session.initialize(Bytes::from(hello.to_string())).await?)?;
        let ready = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
        let (out, _) = mpsc::channel(1);
        let body = Bytes::from(ready.to_string());
        session.send(&OutgoingMessage { body: &body, id: None, repeat: Repeat::Safe, headers: None }, &out).await?;
        Ok(Self { session })
    }

    /// Sends a request and returns its result.
    pub(super) async fn request(&self, method: &str, params: Value, repeat: Repeat) -> Result<Value, Problem> {
        let body = Bytes::from(json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).to_string());
        let (out, mut messages) = mpsc::channel::<Bytes>(16);
        let one = RawValue::from_string("1".to_owned()).ok();
        let message = OutgoingMessage { body: &body, id: one.as_deref(), repeat, headers: None };
        let send = async move { self.session.send(&message, &out).await };
        let last = async move {
            let mut last = None;
            while let Some(message) = messages.recv().await {
                last = Some(message);
            }
            last
        };
        let (sent, last) = tokio::join!(send, last);
        sent?;
        result(&last.unwrap_or_default())
    }
}

/// Returns the result of a JSON-RPC response, or its error as a problem.
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
