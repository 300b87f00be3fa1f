//! The smallest MCP server on stdio: one tool, `echo`, that answers at once.
//!
//! For the fleet scenarios, where twenty Node servers would only measure Node, and for the bench, where a server that
//! takes no time makes visible what the hub adds. With an argument, its tool is called `echo-ARGUMENT`. Called with
//! `"hold": true` it tells progress once, says `held` on standard error, and never answers. Called with `"ledger": PATH`
//! it first adds its message to that file, as a line, so that executions can be counted.

use anyhow::Result;
use serde_json::{Value, json};
use std::io::{BufRead, Write};

fn main() -> Result<()> {
    let tool = std::env::args().nth(1).map_or_else(|| "echo".to_owned(), |name| format!("echo-{name}"));
    let mut output = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let message: Value = serde_json::from_str(&line?)?;
        if let Some(token) = held(&message) {
            writeln!(std::io::stderr(), "held")?;
            let params = json!({"progressToken": token, "progress": 1});
            writeln!(output, "{}", json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": params}))?;
            output.flush()?;
        } else if let Some(answer) = answer(&message, &tool) {
            count(&message["params"]["arguments"])?;
            writeln!(output, "{answer}")?;
            output.flush()?;
        }
    }
    Ok(())
}

/// The progress token of a call that is to be held.
fn held(message: &Value) -> Option<&Value> {
    let params = &message["params"];
    (params["arguments"]["hold"] == true).then_some(&params["_meta"]["progressToken"])
}

/// Writes down that a call is executed, in one write to the end of the file.
fn count(arguments: &Value) -> Result<()> {
    if let (Some(path), Some(word)) = (arguments["ledger"].as_str(), arguments["message"].as_str()) {
        let mut file = std::fs::File::options().create(true).append(true).open(path)?;
        file.write_all(format!("{word}\n").as_bytes())?;
    }
    Ok(())
}

fn answer(message: &Value, tool: &str) -> Option<Value> {
    let id = message.get("id")?;
    let result = match message["method"].as_str()? {
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
            json!({"content": [{"type": "text", "text": message["params"]["arguments"]["message"]}]})
        }
        method => {
            let error = json!({"code": -32601, "message": format!("no {method} here")});
            return Some(json!({"jsonrpc": "2.0", "id": id, "error": error}));
        }
    };
    Some(json!({"jsonrpc": "2.0", "id": id, "result": result}))
}
