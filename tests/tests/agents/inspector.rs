//! The command line of the Inspector with the URL of the hub.

use anyhow::{Context, Result, ensure};
use linchpin_tests::kit;
use linchpin_tests::lab::{Lab, verb::Output};
use serde_json::Value;

async fn inspect(lab: &Lab, path: &str, arguments: &[&str]) -> Result<Value> {
    let facts = lab.hub_facts()?;
    let line = kit::inspector()?;
    let (program, script) = line.split_first().context("an empty command line")?;
    let mut command = lab.command(program);
    command.args(script).arg(format!("{}{path}", facts.url)).args(["--transport", "http", "--format", "json"]);
    command.args(["--header", &format!("Authorization: Bearer {}", facts.token)]).args(arguments);
    Ok(Output::of(command).await?.json()?["result"].take())
}

#[tokio::test]
async fn inspector_lists_calls_reads_and_prompts() -> Result<()> {
    let lab = Lab::new()?;
    let _hub = lab.hub().await?;
    let _everything = lab.instance("everything", &kit::everything()?)?;
    lab.usable("everything").await?;

    for (path, prefix) in [("/mcp", "everything__"), ("/i/everything/mcp", "")] {
        let echo = format!("{prefix}echo");
        let listed = inspect(&lab, path, &["--method", "tools/list"]).await?;
        let tools = listed["tools"].as_array().with_context(|| format!("no tools in {listed}"))?;
        ensure!(tools.iter().any(|tool| tool["name"] == echo.as_str()), "{path}: {listed}");
        let call = ["--method", "tools/call", "--tool-name", &echo, "--tool-arg", "message=hello"];
        let answer = inspect(&lab, path, &call).await?;
        ensure!(answer.to_string().contains("Echo: hello"), "{path}: {answer}");
    }
    let listed = inspect(&lab, "/mcp", &["--method", "resources/list"]).await?;
    ensure!(listed["resources"].as_array().is_some_and(|list| !list.is_empty()), "{listed}");
    let prompt = ["--method", "prompts/get", "--prompt-name", "everything__simple-prompt"];
    let answer = inspect(&lab, "/mcp", &prompt).await?;
    ensure!(answer["messages"].is_array(), "{answer}");
    lab.finish().await
}
