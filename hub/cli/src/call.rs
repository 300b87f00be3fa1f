//! `linchpin call TOOL [JSON]` calls a tool once and prints its result.
//!
//! If the tool reports that it failed (`isError`), its content is printed all the same and the exit code is 1.

use super::Context;
use super::mcp_client::McpClient;
use super::send_error::Repeat;
use linchpin_hub::render::{list, text};
use linchpin_shared::problem::{Code, Exit, Problem};
use serde_json::{Value, json};
use std::io::Read;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The name of the tool, as `linchpin tools` lists it
    tool: String,
    /// The arguments, a JSON object; `-` reads them from standard input
    #[arg(default_value = "{}", value_name = "JSON")]
    arguments: String,
}

pub(super) async fn main(context: &Context, args: Args) -> Result<Exit, Problem> {
    let arguments = parse(&read(args.arguments)?)?;
    let client = McpClient::open(context).await?;
    let called = client.request("tools/call", json!({"name": args.tool, "arguments": arguments}), Repeat::Unsafe).await;
    client.session.close().await;
    let result = called?;
    let failed = result["isError"].as_bool().unwrap_or(false);
    context.output.value(&json!({"result": result}), |value| content(&value["result"]));
    Ok(if failed { Exit::Failed } else { Exit::Ok })
}

fn read(arguments: String) -> Result<String, Problem> {
    if arguments != "-" {
        return Ok(arguments);
    }
    let mut text = String::new();
    std::io::stdin()
        .read_to_string(&mut text)
        .map_err(|error| Problem::from_io(&error, Code::BadRequest, "cannot read the arguments"))?;
    Ok(text)
}

fn parse(text: &str) -> Result<Value, Problem> {
    let bad = |why: String| {
        Problem::new(Code::BadRequest, format!("the arguments are not a JSON object: {why}"))
            .seen("arguments", text.chars().take(200).collect::<String>())
            .next(r#"linchpin call TOOL '{"name": "value"}'"#)
            .next("linchpin tools --json    (shows the inputSchema of each tool)")
    };
    match serde_json::from_str(text) {
        Ok(value @ Value::Object(_)) => Ok(value),
        Ok(other) => Err(bad(format!("they are {other}"))),
        Err(error) => Err(bad(error.to_string())),
    }
}

/// Text is printed as it is, and everything else as JSON.
fn content(result: &Value) -> String {
    let parts: Vec<String> = list(&result["content"])
        .iter()
        .map(|part| if part["type"] == "text" { text(&part["text"]) } else { format!("{part:#}") })
        .collect();
    if parts.is_empty() { format!("{result:#}") } else { parts.join("\n") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_an_object() {
        assert_eq!(parse(r#"{"a":1}"#).unwrap()["a"], 1);
        for bad in ["[1]", "{a:1}", ""] {
            let problem = parse(bad).unwrap_err();
            assert_eq!((problem.code, problem.exit()), (Code::BadRequest, Exit::Usage));
        }
    }

    #[test]
    fn text_is_printed_as_it_is() {
        assert_eq!(content(&json!({"content": [{"type": "text", "text": "a\nb"}]})), "a\nb");
        assert!(content(&json!({"structuredContent": 1})).contains("structuredContent"));
    }
}
