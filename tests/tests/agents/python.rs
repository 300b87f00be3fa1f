//! The Python SDK as an independent client: both transports, all ways to find the version, and a hub that dies.

use anyhow::{Context, Result, ensure};
use linchpin_tests::agent::driven::Driven;
use linchpin_tests::{kit, lab::Lab};
use serde_json::{Value, json};

/// The modes in which the SDK finds the version, and the version that it finds.
const MODES: [(&str, &str); 3] = [("auto", "2026-07-28"), ("legacy", "2025-11-25"), ("2026-07-28", "2026-07-28")];

async fn everything_lab() -> Result<Lab> {
    let lab = Lab::new()?;
    lab.detached("everything", &kit::everything()?).await?;
    Ok(lab)
}

fn names(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(|item| item["name"].as_str()).collect()
}

fn echo(word: &str) -> Value {
    json!({"do": "call_tool", "name": "everything__echo", "arguments": {"message": word}})
}

async fn works(agent: &mut Driven) -> Result<()> {
    let tools = agent.result(&json!({"do": "list_tools"})).await?;
    ensure!(names(&tools).contains(&"everything__echo"), "{tools}");
    let answer = agent.result(&echo("hello")).await?;
    assert_eq!(answer["content"][0]["text"], "Echo: hello", "{answer}");
    let structured = json!({"do": "call_tool", "name": "everything__get-structured-content",
                            "arguments": {"location": "New York"}});
    let answer = agent.result(&structured).await?;
    ensure!(answer["structuredContent"]["temperature"].is_number(), "{answer}");
    let resources = agent.result(&json!({"do": "list_resources"})).await?;
    let uri = resources[0]["uri"].clone();
    let read = agent.result(&json!({"do": "read_resource", "uri": uri})).await?;
    ensure!(read["contents"][0]["text"].is_string(), "{read}");
    let prompts = agent.result(&json!({"do": "list_prompts"})).await?;
    ensure!(names(&prompts).contains(&"everything__simple-prompt"), "{prompts}");
    agent.result(&json!({"do": "get_prompt", "name": "everything__simple-prompt"})).await?;
    let unknown = agent.perform(&json!({"do": "call_tool", "name": "everything__nothing"})).await?;
    assert_eq!(unknown["error"]["code"], -32602, "{unknown}");
    Ok(())
}

#[tokio::test]
async fn python_sdk_works_over_http_in_every_mode() -> Result<()> {
    let lab = everything_lab().await?;
    let _hub = lab.hub().await?;
    lab.usable("everything").await?;
    let url = format!("{}/mcp", lab.hub_facts()?.url);
    for (mode, version) in MODES {
        let (mut agent, hello) = Driven::python(&lab, mode, &["http", &url]).await?;
        assert_eq!(hello["protocolVersion"], version, "mode {mode}: {hello}");
        works(&mut agent).await.with_context(|| format!("mode {mode}\n{}", lab.logs()))?;
        agent.close().await?;
    }
    lab.finish().await
}

#[tokio::test]
async fn python_sdk_survives_the_hub_through_the_shim() -> Result<()> {
    let lab = everything_lab().await?;
    let binary = lab.binary().display().to_string();
    for (mode, version) in MODES {
        let (mut agent, hello) = Driven::python(&lab, mode, &["stdio", &binary, "mcp"]).await?;
        assert_eq!(hello["protocolVersion"], version, "mode {mode}: {hello}");
        lab.usable("everything").await?;
        works(&mut agent).await.with_context(|| format!("mode {mode}\n{}", lab.logs()))?;
        lab.kill_hub().await?;
        let answer = agent.result(&echo("still here")).await.with_context(|| lab.logs())?;
        assert_eq!(answer["content"][0]["text"], "Echo: still here");
        agent.close().await?;
    }
    lab.finish().await
}
