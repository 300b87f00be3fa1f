//! The main feature on real servers: an agent lists, calls, reads and prompts through each endpoint of the hub.

use anyhow::{Context, Result, ensure};
use linchpin_tests::agent::{ANSWER, Agent, http::Http, stdio::Stdio};
use linchpin_tests::{kit, lab::Lab, lab::running::Running};
use serde_json::{Value, json};
use std::time::Duration;

/// A hub, server-everything as `everything` and server-filesystem as `files`, all connected.
struct EndpointLab {
    lab: Lab,
    _running: [Running; 3],
}

impl EndpointLab {
    async fn new() -> Result<Self> {
        let lab = Lab::new()?;
        let hub = lab.hub().await?;
        let shown = lab.project("shown")?;
        std::fs::write(shown.join("note.txt"), "remember the milk")?;
        let everything = lab.instance("everything", &kit::everything()?)?;
        let files = lab.instance("files", &kit::filesystem(&shown)?)?;
        lab.usable("everything").await?;
        lab.usable("files").await?;
        Ok(Self { lab, _running: [hub, everything, files] })
    }

    fn note(&self) -> Value {
        json!({"path": self.lab.dir().join("projects/shown/note.txt")})
    }
}

/// Does everything that an agent does at the aggregated endpoint, with any transport.
async fn works_with_prefixed_names(agent: &mut impl Agent, note: Value) -> Result<()> {
    let tools = agent.tools().await?;
    ensure!(tools.iter().any(|name| name == "everything__echo"), "{tools:?}");
    ensure!(tools.iter().any(|name| name == "files__read_text_file"), "{tools:?}");
    assert_eq!(agent.call("everything__echo", json!({"message": "hello"})).await?, "Echo: hello");
    assert_eq!(agent.call("files__read_text_file", note).await?, "remember the milk");

    let uri = "demo://resource/static/document/features.md";
    let resources = agent.list("resources/list", "resources").await?;
    ensure!(resources.iter().any(|resource| resource["uri"] == uri), "{resources:?}");
    let read = agent.request("resources/read", json!({"uri": uri})).await?.result()?;
    ensure!(read["contents"][0]["text"].as_str().is_some_and(|text| text.contains("Everything Server")), "{read}");
    let dynamic = json!({"uri": "demo://resource/dynamic/text/1"});
    let read = agent.request("resources/read", dynamic).await?.result()?;
    ensure!(read["contents"][0]["text"].is_string(), "a resource of a template: {read}");

    let prompts = agent.list("prompts/list", "prompts").await?;
    ensure!(prompts.iter().any(|prompt| prompt["name"] == "everything__args-prompt"), "{prompts:?}");
    let params = json!({"name": "everything__args-prompt", "arguments": {"city": "Riga"}});
    let prompt = agent.request("prompts/get", params).await?.result()?;
    ensure!(prompt["messages"].to_string().contains("Riga"), "{prompt}");
    agent.request("ping", json!({})).await?.result()?;
    Ok(())
}

#[tokio::test]
async fn agent_works_through_the_shim() -> Result<()> {
    let scene = EndpointLab::new().await?;
    let mut agent = scene.lab.shim(&[]).await?;
    works_with_prefixed_names(&mut agent, scene.note()).await?;
    agent.close().await?;
    scene.lab.finish().await
}

#[tokio::test]
async fn agent_works_over_http() -> Result<()> {
    let scene = EndpointLab::new().await?;
    let mut agent = scene.lab.http("/mcp").await?;
    ensure!(agent.session().is_some(), "a legacy session has an id");
    works_with_prefixed_names(&mut agent, scene.note()).await?;
    agent.close().await?;
    scene.lab.finish().await
}

/// What a server answers directly and at its own endpoint must be the same, field by field and in order.
#[tokio::test]
async fn endpoint_of_one_instance_changes_nothing() -> Result<()> {
    let scene = EndpointLab::new().await?;
    let line = kit::everything()?;
    let (program, arguments) = line.split_first().context("an empty command line")?;
    let mut command = scene.lab.command(program);
    command.args(arguments);
    // The hub announces all client capabilities to a server on stdio, so the direct client must do the same.
    let able = json!({"sampling": {"context": {}, "tools": {}}, "elicitation": {"form": {}, "url": {}}, "roots": {"listChanged": true}});
    let (mut direct, _) = Stdio::open_with(command, &scene.lab.dir().join("out/direct.log"), able).await?;
    let mut through = scene.lab.http("/i/everything/mcp").await?;
    let server = scene.lab.instance_status("everything").await?["servers"][0]["name"].clone();
    let path = format!("/i/everything/{}/mcp", server.as_str().context("a server has a name")?);
    let mut deeper = scene.lab.http(&path).await?;
    for (method, field) in [
        ("tools/list", "tools"),
        ("prompts/list", "prompts"),
        ("resources/list", "resources"),
        ("resources/templates/list", "resourceTemplates"),
    ] {
        let wanted = Value::from(direct.list(method, field).await?).to_string();
        assert_eq!(Value::from(through.list(method, field).await?).to_string(), wanted, "{method}");
        assert_eq!(Value::from(deeper.list(method, field).await?).to_string(), wanted, "{method} at {path}");
    }
    let params = json!({"name": "get-structured-content", "arguments": {"location": "Chicago"}});
    let wanted = direct.request("tools/call", params.clone()).await?.result()?.to_string();
    assert_eq!(through.request("tools/call", params).await?.result()?.to_string(), wanted);
    // It waits for answers to its requests, so it does not end by itself.
    direct.kill().await?;
    scene.lab.finish().await
}

#[tokio::test]
async fn progress_returns_with_the_token_of_the_agent() -> Result<()> {
    let scene = EndpointLab::new().await?;
    let arguments = json!({"duration": 0.2, "steps": 4});
    let params = json!({"name": "everything__trigger-long-running-operation", "arguments": arguments,
                        "_meta": {"progressToken": "mine"}});
    let mut agent = scene.lab.shim(&[]).await?;
    let id = agent.send("tools/call", params.clone()).await?;
    agent.answer(id).await?.result()?;
    for step in 1..=4 {
        let progress = agent.notification("notifications/progress", ANSWER).await?;
        assert_eq!(progress["params"]["progressToken"], "mine", "{progress}");
        assert_eq!(progress["params"]["progress"], step, "in order: {progress}");
    }
    agent.close().await?;
    scene.lab.finish().await
}

/// Lists again at each `list_changed`, as an agent does, until the list is as wanted. There may be other changes in
/// between: server-everything itself adds a tool when its session has begun.
async fn wait_for_list(lab: &Lab, agent: &mut Stdio, wanted: impl Fn(&[String]) -> bool) -> Result<()> {
    loop {
        let heard = agent.notification("notifications/tools/list_changed", ANSWER).await;
        heard.map_err(|error| anyhow::anyhow!("{error:#}\n{}", lab.logs()))?;
        if wanted(&agent.tools().await?) {
            return Ok(());
        }
    }
}

#[tokio::test]
async fn agent_is_notified_when_instances_come_and_go() -> Result<()> {
    let scene = EndpointLab::new().await?;
    let lab = &scene.lab;
    let mut agent = lab.shim(&[]).await?;
    let mut late = lab.instance("late", &kit::echo("late")?)?;
    let is_late = |name: &String| name == "late__echo-late";
    wait_for_list(lab, &mut agent, |tools| tools.iter().any(is_late)).await?;
    assert_eq!(agent.call("late__echo-late", json!({"message": "here"})).await?, "here");

    lab.verb(["stop", "late"]).await?.exits(0)?;
    ensure!(late.exit(Duration::from_secs(10)).await?.success(), "{}", late.printed());
    wait_for_list(lab, &mut agent, |tools| !tools.iter().any(is_late)).await?;
    agent.close().await?;
    scene.lab.finish().await
}

#[tokio::test]
async fn http_agent_is_notified_on_its_stream() -> Result<()> {
    let scene = EndpointLab::new().await?;
    let mut agent: Http = scene.lab.http("/mcp").await?;
    let mut stream = agent.listen().await?;
    agent.tools().await?;
    let _late = scene.lab.instance("late", &kit::echo("late")?)?;
    let changed = |message: &Value| message["method"] == "notifications/tools/list_changed";
    loop {
        stream.first("list_changed", ANSWER, changed).await.with_context(|| scene.lab.logs())?;
        if agent.tools().await?.iter().any(|name| name == "late__echo-late") {
            return scene.lab.finish().await;
        }
    }
}

#[tokio::test]
async fn shim_starts_a_hub_and_can_show_one_instance() -> Result<()> {
    let lab = Lab::new()?;
    lab.detached("one", &kit::echo("one")?).await?;
    lab.detached("two", &kit::echo("two")?).await?;
    let mut agent = lab.shim(&["--instance", "one"]).await?;
    lab.hub_answers(None).await?;
    lab.usable("one").await?;
    let mine: Vec<String> = agent.tools().await?.into_iter().filter(|name| name.contains("echo-")).collect();
    ensure!(mine.len() == 1 && mine[0].ends_with("echo-one"), "{mine:?}");
    assert_eq!(agent.call(&mine[0], json!({"message": "alone"})).await?, "alone");
    agent.close().await?;
    lab.finish().await
}
