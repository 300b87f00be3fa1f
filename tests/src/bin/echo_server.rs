//! The smallest MCP server on stdio: one tool, `echo`, that answers at once.
//!
//! For the fleet scenarios, where twenty Node servers would only measure Node, and for the benchmarks, where a server
//! that answers at once shows what the hub adds. With an argument, its tool is called `echo-ARGUMENT`. Called with
//! `"hold": true` it sends progress once, prints `held` on standard error, and never answers; for a cancellation it
//! prints `cancelled` there. With `"size": BYTES` it answers with a text of this size. See also
//! [`linchpin_tests::echo`].

use anyhow::Result;
use linchpin_tests::echo::answer;
use linchpin_tests::large;
use serde_json::{Value, json};
use std::io::{BufRead, Write};

fn main() -> Result<()> {
    let tool = std::env::args().nth(1).map_or_else(|| "echo".to_owned(), |name| format!("echo-{name}"));
    let mut output = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let message: Value = serde_json::from_str(&line?)?;
        if message["method"] == "notifications/cancelled" {
            writeln!(std::io::stderr(), "cancelled")?;
        } else if let Some(token) = held(&message) {
            writeln!(std::io::stderr(), "held")?;
            let params = json!({"progressToken": token, "progress": 1});
            writeln!(output, "{}", json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": params}))?;
            output.flush()?;
        } else if let Some(answer) = large::answer(&message) {
            writeln!(output, "{answer}")?;
            output.flush()?;
        } else if let Some(answer) = answer(&message, &tool)? {
            writeln!(output, "{answer}")?;
            output.flush()?;
        }
    }
    Ok(())
}

/// The progress token of a call that must be held.
fn held(message: &Value) -> Option<&Value> {
    let params = &message["params"];
    (params["arguments"]["hold"] == true).then_some(&params["_meta"]["progressToken"])
}
