//! Both eras on both sides: each client meets each server, over HTTP and on stdio, through the hub.
//!
//! The servers are one program written with the official SDK, told which versions to speak. Whoever meets whom, the same
//! things are asked of them: lists, a call, progress, questions that must be answered, cancellation, a resource that
//! changes and a list that does.

mod client;

use anyhow::{Context, Result, ensure};
use client::{Client, Era};
use linchpin_tests::agent::driven::Driven;
use linchpin_tests::lab::running::Running;
use linchpin_tests::{kit, lab::Lab};
use serde_json::{Value, json};

const SERVERS: [&str; 3] = ["older", "both", "modern"];

/// A hub, and each server twice.
struct World {
    lab: Lab,
    _running: Vec<Running>,
}

impl World {
    async fn new(eras: &[&str]) -> Result<Self> {
        let lab = Lab::new()?;
        let mut running = vec![lab.hub().await?];
        for era in eras {
            let line = kit::eras_server(era, &notes(&lab, &format!("{era}-stdio")), "stdio")?;
            running.push(lab.instance(&format!("{era}-stdio"), &line)?);
            let port = std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port().to_string();
            let (name, url) = (format!("{era}-url"), format!("http://127.0.0.1:{port}/mcp"));
            let line = kit::eras_server(era, &notes(&lab, &name), &port)?;
            let arguments = ["run", "--name", &name, "--mcp-url", &url, "--"];
            running.push(lab.run_in_front(&name, arguments.into_iter().chain(line.iter().map(String::as_str)))?);
        }
        for era in eras {
            lab.usable(&format!("{era}-stdio")).await?;
            lab.usable(&format!("{era}-url")).await?;
        }
        Ok(Self { lab, _running: running })
    }
}

fn notes(lab: &Lab, name: &str) -> std::path::PathBuf {
    lab.dir().join("out").join(format!("{name}.notes"))
}

/// Waits until a server noted this line.
async fn noted(lab: &Lab, name: &str, line: &str) -> Result<()> {
    lab.wait_for(line, async || {
        let noted = std::fs::read_to_string(notes(lab, name)).unwrap_or_default();
        ensure!(noted.lines().any(|known| known == line), "{noted}");
        Ok(())
    })
    .await
}

/// What is asked of every pair.
async fn meet(lab: &Lab, era: Era, name: &str) -> Result<()> {
    let path = format!("/i/{name}/mcp");
    let client = Client::new(lab, &path, era, json!({"elicitation": {}})).await?;
    let tools = client.tools().await?;
    ensure!(tools.iter().any(|tool| tool == "ask"), "{tools:?}");
    let echo = client.call("echo", json!({"text": "hello"})).await?;
    ensure!(echo.starts_with("hello of "), "{echo}");

    let progress = client.begin("progress", json!({})).await?.notifications().await?;
    let told: Vec<_> = progress.iter().map(|it| (&it["params"]["progressToken"], &it["params"]["progress"])).collect();
    let token = json!("p");
    let wanted = [1.0, 2.0, 3.0].map(|n| (n, &token));
    ensure!(told.iter().map(|(token, n)| (n.as_f64().unwrap_or(0.0), *token)).eq(wanted), "{progress:?}");

    let answered = client.begin("ask", json!({})).await?.text(&["one", "two"]).await.context("ask")?;
    ensure!(answered == r#"["one","two"]"#, "{answered}");
    refuses_who_cannot(lab, era, name).await.context("a client that cannot be asked")?;

    let tag = format!("{era:?}");
    let (waiting, other) = (client.clone(), tag.clone());
    let call = tokio::spawn(async move { waiting.begin("wait", json!({"tag": other})).await });
    noted(lab, name, &format!("waiting {tag}")).await?;
    match era {
        // A call without messages has no answer yet, not even its headers.
        Era::Modern => call.abort(),
        Era::Older => {
            let params = json!({"requestId": "mine"});
            client.notify("notifications/cancelled", params).await?;
        }
    }
    noted(lab, name, &format!("cancelled {tag}")).await.context("cancellation")?;
    changes(&client, name).await.with_context(|| lab.logs())
}

/// A resource that changes, and a list.
async fn changes(client: &Client, name: &str) -> Result<()> {
    let mut stream = client.listen("test://one").await?;
    client.call("touch", json!({"uri": "test://one"})).await?;
    let updated = stream.wait_for("notifications/resources/updated").await?;
    ensure!(updated["params"]["uri"] == "test://one", "{updated}");
    let before = client.tools().await?;
    client.call("grow", json!({})).await?;
    stream.wait_for("notifications/tools/list_changed").await?;
    let after = client.tools().await?;
    ensure!(after.len() == before.len() + 1, "{name}: {before:?} and then {after:?}");
    Ok(())
}

/// A client that cannot be asked gets an error that says so, and not an empty success.
async fn refuses_who_cannot(lab: &Lab, era: Era, name: &str) -> Result<()> {
    let client = Client::new(lab, &format!("/i/{name}/mcp"), era, json!({})).await?;
    let answer = client.answered("tools/call", json!({"name": "ask", "arguments": {}})).await?;
    let said = answer.to_string().to_lowercase();
    ensure!(said.contains("elicitation") || said.contains("capability"), "{answer}");
    ensure!(!answer["error"].is_null() || answer["result"]["isError"] == true, "{answer}");
    Ok(())
}

async fn meets_all(era: Era) -> Result<()> {
    let world = World::new(&SERVERS).await?;
    for server in SERVERS {
        for way in ["url", "stdio"] {
            let name = format!("{server}-{way}");
            let met = Box::pin(meet(&world.lab, era, &name)).await;
            met.with_context(|| format!("{era:?} client, {name}\n{}", world.lab.logs()))?;
        }
    }
    world.lab.finish().await
}

#[tokio::test]
async fn an_older_client_meets_every_server() -> Result<()> {
    meets_all(Era::Older).await
}

#[tokio::test]
async fn a_modern_client_meets_every_server() -> Result<()> {
    meets_all(Era::Modern).await
}

/// What an address says of itself is the server's own, its extensions too.
#[tokio::test]
async fn what_a_server_says_of_itself_crosses_over() -> Result<()> {
    let world = World::new(&["both", "modern"]).await?;
    for name in ["both-url", "both-stdio", "modern-url", "modern-stdio"] {
        for era in [Era::Older, Era::Modern] {
            let client = Client::new(&world.lab, &format!("/i/{name}/mcp"), era, json!({})).await?;
            let about = &client.about;
            let extension = &about["capabilities"]["extensions"]["io.example/nothing"];
            ensure!(*extension == json!({"n": 1}), "{name}, {era:?}: {about}");
            let info = match era {
                Era::Older => &about["serverInfo"],
                Era::Modern => &about["_meta"]["io.modelcontextprotocol/serverInfo"],
            };
            ensure!(info["name"] == "eras-server", "{name}, {era:?}: {about}");
        }
    }
    world.lab.finish().await
}

/// A server on stdio that ends when it is asked for a session is found out with one more life, and one that was killed
/// is used again; what clients subscribed to is told by its next life.
#[tokio::test]
async fn a_server_without_sessions_is_found_out_and_used_over_its_lives() -> Result<()> {
    let world = World::new(&["modern"]).await?;
    let lab = &world.lab;
    let lives = |name: &str| {
        let noted = std::fs::read_to_string(notes(lab, name)).unwrap_or_default();
        noted.lines().filter(|line| *line == "started").count()
    };
    ensure!(lives("modern-stdio") <= 2, "{} lives", lives("modern-stdio"));
    for name in ["modern-stdio", "modern-url"] {
        let client = Client::new(lab, &format!("/i/{name}/mcp"), Era::Older, json!({})).await?;
        let mut stream = client.listen("test://one").await?;
        let before = lives(name);
        lab.verb(["restart", name]).await?.exits(0)?;
        lab.wait_for("another life", async || {
            ensure!(lives(name) > before);
            Ok(())
        })
        .await?;
        let heard = r#"listened to Some(["test://one"])"#;
        lab.wait_for("the next life hears of the subscription", async || {
            let noted = std::fs::read_to_string(notes(lab, name)).unwrap_or_default();
            let last = noted.rsplit("started").next().unwrap_or_default().to_owned();
            ensure!(last.contains(heard), "{noted}");
            Ok(())
        })
        .await?;
        ensure!(lives(name) == before + 1, "what it speaks is remembered: {before} and then {}", lives(name));
        client.call("touch", json!({"uri": "test://one"})).await.with_context(|| lab.logs())?;
        stream.wait_for("notifications/resources/updated").await.with_context(|| lab.logs())?;
    }
    world.lab.finish().await
}

/// The Python SDK in both of its eras, in front of servers that speak the other one only.
#[tokio::test]
async fn the_python_sdk_meets_servers_of_the_other_era() -> Result<()> {
    let world = World::new(&["older", "modern"]).await?;
    let url = world.lab.hub_facts()?.url;
    for (mode, server) in [("legacy", "modern"), ("2026-07-28", "older"), ("auto", "modern"), ("auto", "older")] {
        for way in ["url", "stdio"] {
            let address = format!("{url}/i/{server}-{way}/mcp");
            let (mut agent, hello) = Driven::python(&world.lab, mode, &["http", &address]).await?;
            let tools = agent.result(&json!({"do": "list_tools"})).await?;
            let listed = tools.as_array().into_iter().flatten().any(|tool| tool["name"] == "echo");
            ensure!(listed, "{mode}, {server}-{way}: {hello}, {tools}");
            let echo = json!({"do": "call_tool", "name": "echo", "arguments": {"text": "hello"}});
            let answer: Value = agent.result(&echo).await?;
            let text = answer["content"][0]["text"].as_str().unwrap_or_default();
            ensure!(text.starts_with("hello of "), "{mode}, {server}-{way}: {answer}");
            agent.close().await?;
        }
    }
    world.lab.finish().await
}
