//! Tasks of 2025-11-25: only the client that began a task has it, also after restarts of the hub.

use crate::lab::GatewayLab;
use anyhow::{Context, Result, ensure};
use linchpin_tests::agent::http::Http;
use linchpin_tests::agent::stream::{Answered, PATIENCE, Stream};
use linchpin_tests::wait::until;
use serde_json::{Value, json};

const RELATED: &str = "io.modelcontextprotocol/related-task";

/// An agent that can be asked.
async fn able(lab: &GatewayLab, path: &str) -> Result<Http> {
    lab.agent_with(path, json!({"elicitation": {}})).await
}

/// Begins a task and returns the id that the client sees.
async fn begin(agent: &Http, tool: &str, arguments: Value) -> Result<String> {
    let params = json!({"name": tool, "arguments": arguments, "task": {"ttl": 60000}, "_meta": {"progressToken": "p"}});
    let answered = agent.exchange(json!("begin"), "tools/call", params).await?;
    let task = &answered.result()?["task"];
    ensure!(serde_json::to_string(&task["x_kept"])? == "1.0", "an unknown field was removed: {task}");
    Ok(task["taskId"].as_str().context("no taskId")?.to_owned())
}

async fn about(agent: &Http, method: &str, task: &str) -> Result<Answered> {
    agent.exchange(json!(method), &format!("tasks/{method}"), json!({"taskId": task})).await
}

async fn listed(agent: &Http, params: Value) -> Result<(Vec<String>, Value)> {
    let answered = agent.exchange(json!("list"), "tasks/list", params).await?;
    let result = answered.result()?;
    let tasks = result["tasks"].as_array().context("no tasks")?;
    let ids = tasks.iter().map(|task| task["taskId"].as_str().unwrap_or_default().to_owned()).collect();
    Ok((ids, result["nextCursor"].clone()))
}

#[tokio::test]
async fn task_is_followed_to_its_result() -> Result<()> {
    let mut lab = GatewayLab::new().await?;
    lab.start("task").await?;
    for (path, tool) in [("/mcp", "task__job"), ("/i/task/mcp", "job")] {
        let (agent, other) = (lab.agent(path).await?, lab.agent(path).await?);
        ensure!(agent.about()["capabilities"]["tasks"]["requests"]["tools"]["call"].is_object(), "{}", agent.about());
        let (mut own, mut others) = (agent.listen().await?, other.listen().await?);
        let task = begin(&agent, tool, json!({"say": "made", "seconds": 0.3})).await?;
        ensure!(!task.contains("task-") && task.len() > 40, "the server's own name: {task}");
        let progress = own.wait_for("notifications/progress").await?;
        assert_eq!(progress["params"]["progressToken"], "p", "after its call was answered");
        assert_eq!(progress["params"]["_meta"][RELATED]["taskId"], task.as_str());
        assert_eq!(about(&agent, "get", &task).await?.result()?["taskId"], task.as_str());
        let result = about(&agent, "result", &task).await?;
        assert_eq!(result.text()?, "made");
        assert_eq!(result.result()?["_meta"][RELATED]["taskId"], task.as_str());
        let told = own.wait_for("notifications/tasks/status").await?;
        assert_eq!((&told["params"]["taskId"], &told["params"]["status"]), (&json!(task), &json!("completed")));
        other.try_call(&tool.replace("job", "log"), json!({"tag": "mark"})).await?;
        loop {
            let heard = others.next().await?.context("the stream ended")?;
            let method = heard["method"].as_str().unwrap_or_default();
            ensure!(
                !method.contains("tasks") && !method.contains("progress"),
                "a message about another client's task: {heard}"
            );
            if method == "notifications/message" {
                break;
            }
        }
        assert_eq!(listed(&agent, json!({})).await?.0, [task]);
    }
    let older = lab.client("/mcp").begin_as("2025-06-18").await?;
    ensure!(older.about()["capabilities"].get("tasks").is_none(), "that version has no tasks: {}", older.about());
    Ok(())
}

#[tokio::test]
async fn task_is_invisible_to_other_clients() -> Result<()> {
    let mut lab = GatewayLab::new().await?;
    lab.start("task").await?;
    let (agent, other) = (lab.agent("/mcp").await?, lab.agent("/mcp").await?);
    let elsewhere = lab.agent("/i/task/mcp").await?;
    let task = begin(&agent, "task__job", json!({"seconds": 30})).await?;
    for (stranger, task) in [(&other, &task), (&elsewhere, &task), (&agent, &format!("{task}x"))] {
        for method in ["get", "result", "cancel"] {
            let answered = about(stranger, method, task).await?;
            assert_eq!(answered.error()?["code"], -32602, "{method}: {answered:?}");
        }
    }
    ensure!(lab.noted("task", "tasks").is_empty(), "the server was asked: {:?}", lab.noted("task", "tasks"));
    ensure!(listed(&other, json!({})).await?.0.is_empty());
    let cancelled = about(&agent, "cancel", &task).await?;
    assert_eq!((&cancelled.result()?["taskId"], &cancelled.result()?["status"]), (&json!(task), &json!("cancelled")));
    assert_eq!(about(&agent, "cancel", &task).await?.error()?["code"], -32602, "the server's own error");
    let update = about(&agent, "update", &task).await?;
    assert_eq!(update.error()?["code"], -32601, "this version has no such method: {update:?}");
    Ok(())
}

/// A question of a task reaches its client, wherever that listens, and the answer reaches the server.
#[tokio::test]
async fn question_of_a_task_reaches_its_owner() -> Result<()> {
    let mut lab = GatewayLab::new().await?;
    lab.start("task").await?;
    let (agent, other) = (able(&lab, "/mcp").await?, able(&lab, "/mcp").await?);
    let busy = tokio::spawn(async move { other.try_call("task__wait", json!({"tag": "x"})).await });
    until("another client's call is under way", PATIENCE, async || {
        ensure!(!lab.noted("task", "waiting").is_empty());
        Ok(())
    })
    .await?;
    let answered = json!({"action": "accept", "content": {"n": 1.5}});
    for on_its_own_stream in [false, true] {
        let task = begin(&agent, "task__job", json!({"ask": "who?"})).await?;
        let waiting = json!({"jsonrpc": "2.0", "id": "r", "method": "tasks/result", "params": {"taskId": task}});
        let mut stream =
            if on_its_own_stream { agent.listen().await? } else { Stream::of(agent.send(&waiting).await?) };
        let asked = stream.wait_for("elicitation/create").await?;
        assert_eq!(asked["params"]["_meta"][RELATED]["taskId"], task.as_str(), "{asked}");
        let meta = json!({RELATED: {"taskId": task}});
        let result = json!({"action": "accept", "content": {"n": 1.5}, "_meta": meta});
        agent.send(&json!({"jsonrpc": "2.0", "id": asked["id"], "result": result})).await?.error_for_status()?;
        let result = about(&agent, "result", &task).await?;
        let got: Value = serde_json::from_str(result.text()?)?;
        assert_eq!((&got["result"]["action"], &got["result"]["content"]), (&answered["action"], &answered["content"]));
        let named = got["result"]["_meta"][RELATED]["taskId"].as_str().unwrap_or_default();
        ensure!(!named.is_empty() && named != task, "the server sees its own name of it: {got}");
    }
    busy.abort();
    Ok(())
}

#[tokio::test]
async fn task_survives_the_hub_and_ends_with_its_server() -> Result<()> {
    let mut lab = GatewayLab::with(|settings| settings.gateway.wait = std::time::Duration::from_secs(2)).await?;
    lab.start("task").await?;
    let agent = lab.agent("/mcp").await?;
    let task = begin(&agent, "task__job", json!({"say": "late", "seconds": 1})).await?;
    lab.restart_hub().await?;
    let agent = agent.elsewhere(lab.url("/mcp"));
    assert_eq!(about(&agent, "result", &task).await?.text()?, "late", "the new hub did not know the task");

    lab.kill("task").await?;
    let away = about(&agent, "get", &task).await?;
    let code = away.error()?["data"]["code"].as_str().unwrap_or_default().to_owned();
    ensure!(code.ends_with("unavailable"), "{away:?}");
    lab.start("task").await?;
    let gone = about(&agent, "get", &task).await?;
    assert_eq!(gone.error()?["code"], -32602, "{gone:?}");
    ensure!(gone.error()?["message"].as_str().is_some_and(|text| text.contains("not found")), "{gone:?}");
    Ok(())
}

#[tokio::test]
async fn task_list_covers_all_servers_page_by_page() -> Result<()> {
    let mut lab = GatewayLab::new().await?;
    lab.start("task1").await?;
    lab.start("task2").await?;
    let (agent, other) = (lab.agent("/mcp").await?, lab.agent("/mcp").await?);
    let mut begun = Vec::new();
    for n in 0..40 {
        begun.push(begin(&agent, if n % 2 == 0 { "task1__job" } else { "task2__job" }, json!({"seconds": 60})).await?);
    }
    begin(&other, "task1__job", json!({"seconds": 60})).await?;
    let (mut all, mut cursor) = listed(&agent, json!({})).await?;
    ensure!(cursor.is_string() && all.len() < 40, "{} tasks, then {cursor}", all.len());
    let first = cursor.clone();
    while cursor.is_string() {
        let (more, next) = listed(&agent, json!({"cursor": cursor})).await?;
        all.extend(more);
        cursor = next;
    }
    assert_eq!(all, begun);
    for (whose, cursor) in [(&other, first), (&agent, json!("32")), (&agent, json!(7))] {
        let answered = whose.exchange(json!(1), "tasks/list", json!({"cursor": cursor})).await?;
        assert_eq!(answered.error()?["code"], -32602, "{cursor}: {answered:?}");
    }
    lab.kill("task2").await?;
    lab.start("task2").await?;
    let (left, _) = listed(&agent, json!({})).await?;
    let kept: Vec<_> = begun.iter().step_by(2).cloned().collect();
    ensure!(left.iter().all(|task| kept.contains(task)), "the other server has forgotten its tasks");
    Ok(())
}
