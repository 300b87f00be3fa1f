//! The answers of the smallest MCP server: one tool that gives back what it is given.
//!
//! Owns [`answer`]. Called with `"ledger": PATH` the tool first adds its message to that file, as a line, so that
//! executions can be counted. Invariant: it takes no time. Never: keeps state.

use anyhow::Result;
use serde_json::{Value, json};
use std::io::Write;

/// The answer of the server whose tool has this name; none to a notification.
///
/// # Errors
/// When the ledger cannot be written.
pub fn answer(message: &Value, tool: &str) -> Result<Option<Value>> {
    let (Some(id), Some(method)) = (message.get("id"), message["method"].as_str()) else { return Ok(None) };
    let result = match method {
        "initialize" => json!({
            "protocolVersion": message["params"]["protocolVersion"],
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "echo-server", "version": "1"}
        }),
        "ping" => json!({}),
        "tools/list" => json!({"tools": [{
            "name": tool,
            "description": "Gives back what it is given",
            "inputSchema": {"type": "object", "properties": {"message": {"type": "string"}}, "required": ["message"]}
        }]}),
        "tools/call" if message["params"]["name"] == tool => {
            count(&message["params"]["arguments"])?;
            json!({"content": [{"type": "text", "text": message["params"]["arguments"]["message"]}]})
        }
        method => {
            let error = json!({"code": -32601, "message": format!("no {method} here")});
            return Ok(Some(json!({"jsonrpc": "2.0", "id": id, "error": error})));
        }
    };
    Ok(Some(json!({"jsonrpc": "2.0", "id": id, "result": result})))
}

/// Writes down that a call is executed, in one write to the end of the file.
fn count(arguments: &Value) -> Result<()> {
    if let (Some(path), Some(word)) = (arguments["ledger"].as_str(), arguments["message"].as_str()) {
        let mut file = std::fs::File::options().create(true).append(true).open(path)?;
        file.write_all(format!("{word}\n").as_bytes())?;
    }
    Ok(())
}
