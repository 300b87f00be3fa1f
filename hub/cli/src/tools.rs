//! `linchpin tools [WORD]` lists the tools. It gets the same list over MCP that agents get.

use super::Context;
use super::mcp_client::McpClient;
use super::send_error::Repeat;
use linchpin_hub::render::{list, table, text};
use linchpin_shared::problem::{Exit, Problem};
use serde_json::{Value, json};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// List only tools whose name contains this
    filter: Option<String>,
}

pub(super) async fn main(context: &Context, args: Args) -> Result<Exit, Problem> {
    let client = McpClient::open(context).await?;
    let result = client.request("tools/list", json!({}), Repeat::Safe).await;
    client.session.close().await;
    let mut result = result?;
    if let (Some(filter), Some(tools)) = (args.filter, result["tools"].as_array_mut()) {
        tools.retain(|tool| tool["name"].as_str().is_some_and(|name| name.contains(&filter)));
    }
    context.output.value(&result, |result| {
        let rows: Vec<_> = list(&result["tools"]).iter().map(row).collect();
        if rows.is_empty() {
            "there are no tools; linchpin status shows the instances".to_owned()
        } else {
            table(&rows)
        }
    });
    Ok(Exit::Ok)
}

fn row(tool: &Value) -> Vec<String> {
    let description = text(&tool["description"]);
    vec![text(&tool["name"]), description.lines().next().unwrap_or_default().chars().take(90).collect()]
}
