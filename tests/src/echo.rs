//! The answers of the smallest MCP server: one tool that returns its argument.
//!
//! Called with `"ledger": PATH`, the tool first appends its message to that file as a line, so that executions can be
//! counted. It keeps no state and answers at once.

use anyhow::Result;
use serde_json::{Value, json};
use std::io::Write;

/// The answer of a server whose tool has this name; `None` for a notification.
///
/// # Errors
/// If the ledger cannot be written.
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
            "description": "Returns its argument",
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

/// Records the execution of a call, in one write to the end of the file.
fn count(arguments: &Value) -> Result<()> {
    if let (Some(path), Some(word)) = (arguments["ledger"].as_str(), arguments["message"].as_str()) {
        let mut file = std::fs::File::options().create(true).append(true).open(path)?;
        file.write_all(format!("{word}\n").as_bytes())?;
    }
    Ok(())
}
