//! Tasks of a real server through `linchpin mcp`, also after the death of the hub; and the headers that HTTP demands
//! of requests from stdio.

use anyhow::{Context, Result, ensure};
use linchpin_tests::agent::stdio::Stdio;
use linchpin_tests::agent::{ANSWER, Agent};
use linchpin_tests::kit;
use linchpin_tests::lab::{Lab, free_port};
use linchpin_tests::wait::until;
use serde_json::{Value, json};
use std::time::Duration;

const TOOL: &str = "research__simulate-research-query";

/// Begins a task whose server will ask a question.
async fn begun(agent: &mut Stdio) -> Result<String> {
    let arguments = json!({"topic": "python", "ambiguous": true});
    let params = json!({"name": TOOL, "arguments": arguments, "task": {"ttl": 120_000}});
    let result = agent.request("tools/call", params).await?.result()?;
    Ok(result["task"]["taskId"].as_str().with_context(|| format!("no task: {result}"))?.to_owned())
}

/// Waits until the task needs an answer.
async fn asks(agent: &mut Stdio, task: &str) -> Result<()> {
    for _ in 0..150 {
        let now = agent.request("tasks/get", json!({"taskId": task})).await?.result()?;
        ensure!(now["taskId"] == task, "another task: {now}");
        match now["status"].as_str() {
            Some("input_required") => return Ok(()),
            Some("working") => tokio::time::sleep(Duration::from_millis(100)).await,
            _ => anyhow::bail!("it did not ask: {now}"),
        }
    }
    anyhow::bail!("it did not ask in time")
}

/// Fetches its result, and answers its question in the meantime.
async fn fetched(agent: &mut Stdio, task: &str) -> Result<String> {
    let id = agent.send("tasks/result", json!({"taskId": task})).await?;
    let asked = agent.first("the question", ANSWER, |message| message["method"] == "elicitation/create").await?;
    let related = &asked["params"]["_meta"]["io.modelcontextprotocol/related-task"]["taskId"];
    ensure!(related == task, "the question is of another task: {asked}");
    let choices = &asked["params"]["requestedSchema"]["properties"]["interpretation"]["oneOf"];
    let answer = json!({"action": "accept", "content": {"interpretation": choices[0]["const"]}});
    agent.line(&json!({"jsonrpc": "2.0", "id": asked["id"], "result": answer}).to_string()).await?;
    let result = agent.answer(id).await?.result()?;
    Ok(result["content"][0]["text"].as_str().context("no text")?.to_owned())
}

/// An agent that can be asked, once the tool is there.
async fn agent(lab: &Lab) -> Result<Stdio> {
    let able = json!({"elicitation": {"form": {}}});
    let (mut agent, _) = Stdio::open_with(lab.linchpin(["mcp"]), &lab.shim_log(), able).await?;
    until("the tool is listed", Duration::from_secs(30), async || {
        let tools = agent.tools().await?;
        ensure!(tools.iter().any(|tool| tool == TOOL), "{tools:?}");
        Ok(())
    })
    .await?;
    Ok(agent)
}

/// Fetches the result of a task, and checks that it contains the answer.
async fn reported(agent: &mut Stdio, task: &str) -> Result<()> {
    let report = fetched(agent, task).await?;
    ensure!(report.starts_with("# Research Report: python (") && report.contains("input_required"), "{report}");
    let listed = agent.list("tasks/list", "tasks").await?;
    ensure!(listed.len() == 1 && listed[0]["taskId"] == task && listed[0]["status"] == "completed", "{listed:?}");
    Ok(())
}

#[tokio::test]
async fn task_on_stdio_is_answered_and_survives_the_hub() -> Result<()> {
    let lab = Lab::new()?;
    lab.detached("research", &kit::everything()?).await?;
    let mut agent = agent(&lab).await?;
    let task = begun(&mut agent).await?;
    asks(&mut agent, &task).await?;
    lab.kill_hub().await?;
    asks(&mut agent, &task).await?;
    reported(&mut agent, &task).await?;
    agent.close().await?;
    lab.finish().await
}

/// This server keeps tasks by session, and a new hub has another session with it.
#[tokio::test]
async fn task_behind_a_url_is_fetched_and_a_lost_one_is_an_error() -> Result<()> {
    let port = free_port()?;
    let lab = Lab::new()?.with("PORT", &port.to_string());
    lab.detached_at("research", &format!("http://127.0.0.1:{port}/mcp"), &kit::everything_http()?).await?;
    let mut agent = agent(&lab).await?;
    let task = begun(&mut agent).await?;
    asks(&mut agent, &task).await?;
    reported(&mut agent, &task).await?;
    lab.kill_hub().await?;
    let gone = agent.request("tasks/get", json!({"taskId": task})).await?.error()?;
    ensure!(gone["code"] == -32602 && gone["message"].to_string().contains("not found"), "{gone}");
    ensure!(agent.list("tasks/list", "tasks").await?.is_empty(), "it is no longer listed");
    agent.close().await?;
    lab.finish().await
}

/// A stateless agent that repeats no argument in a header, because stdio has none.
#[tokio::test]
async fn stdio_requests_need_no_parameter_headers() -> Result<()> {
    let port = free_port()?;
    let lab = Lab::new()?.with("PORT", &port.to_string());
    lab.detached("pipe", &kit::conformance_server("stdio")?).await?;
    lab.detached_at("web", &format!("http://127.0.0.1:{port}/mcp"), &kit::conformance_server("http")?).await?;
    let mut agent = lab.bare_shim()?;
    let meta = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}});
    // The first request starts the hub.
    agent.request("server/discover", json!({"_meta": meta})).await?.result()?;
    for name in ["pipe", "web"] {
        lab.usable(name).await?;
    }
    for name in ["pipe", "web"] {
        let tool = format!("{name}__test_headers");
        let mut called = Value::Null;
        for arguments in [json!({"region": "Süd"}), json!({"region": "north", "at": {"floor": 3}})] {
            let params = json!({"name": tool, "arguments": arguments, "_meta": meta});
            called = agent.request("tools/call", params).await?.result()?;
            ensure!(called["content"][0]["text"] == "ok", "{tool} {arguments}: {called}");
        }
        ensure!(called["resultType"] == "complete", "{called}");
    }
    agent.close().await?;
    lab.finish().await
}
