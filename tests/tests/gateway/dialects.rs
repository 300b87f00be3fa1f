//! Both dialects on both sides: each client meets each server, over HTTP and on stdio, through the hub.
//!
//! The servers are one program written with the official SDK, told which versions to speak. Every pair does the same
//! things: lists, a call, progress, questions that must be answered, cancellation, a resource that changes and a list
//! that changes.

use anyhow::{Context, Result, ensure};
use linchpin_tests::agent::driven::Driven;
use linchpin_tests::agent::http::Http;
use linchpin_tests::agent::stream::Stream;
use linchpin_tests::agent::{Agent, Dialect};
use linchpin_tests::lab::running::Running;
use linchpin_tests::{kit, lab::Lab};
use serde_json::{Value, json};

const SERVERS: [&str; 3] = ["older", "both", "modern"];

/// A hub, and each server behind a URL and on stdio.
struct DialectLab {
    lab: Lab,
    _running: Vec<Running>,
}

impl DialectLab {
    async fn new(eras: &[&str]) -> Result<Self> {
        let lab = Lab::new()?;
        let mut running = vec![lab.hub().await?];
        for era in eras {
            let line = kit::eras_server(era, &notes(&lab, &format!("{era}-stdio")), "stdio")?;
            running.push(lab.instance(&format!("{era}-stdio"), &line)?);
            let port = std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port().to_string();
            let (name, url) = (format!("{era}-url"), format!("http://127.0.0.1:{port}/mcp"));
            let line = kit::eras_server(era, &notes(&lab, &name), &port)?;
            running.push(lab.instance_at(&name, &url, &line)?);
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

/// Waits until a server has noted this line.
async fn noted(lab: &Lab, name: &str, line: &str) -> Result<()> {
    lab.wait_for(line, async || {
        let noted = std::fs::read_to_string(notes(lab, name)).unwrap_or_default();
        ensure!(noted.lines().any(|known| known == line), "{noted}");
        Ok(())
    })
    .await
}

/// A client at this path, which has asked the hub what it is.
async fn client(lab: &Lab, path: &str, dialect: Dialect, capabilities: Value) -> Result<Http> {
    lab.client(path)?.speaking(dialect).with_capabilities(capabilities).begin().await
}

/// A call whose stream is read step by step.
struct Call {
    client: Http,
    dialect: Dialect,
    params: Value,
    stream: Stream,
}

impl Call {
    async fn begin(client: &Http, dialect: Dialect, tool: &str, arguments: Value) -> Result<Self> {
        let params = json!({"name": tool, "arguments": arguments, "_meta": {"progressToken": "p"}});
        let stream = Stream::of(client.send(&request("tools/call", &params)).await?);
        Ok(Self { client: client.clone(), dialect, params, stream })
    }

    /// The text of its result; each question for a name on the way is answered with the next of `names`.
    async fn text(mut self, names: &[&str]) -> Result<String> {
        let mut names = names.iter();
        loop {
            let message = self.stream.next().await?.context("the stream ended without an answer")?;
            let mut accept = || {
                let name = names.next().context("asked too often")?;
                anyhow::Ok(json!({"action": "accept", "content": {"name": name}}))
            };
            if message["method"] == "elicitation/create" {
                let answer = json!({"jsonrpc": "2.0", "id": message["id"], "result": accept()?});
                let told = self.client.send(&answer).await?;
                ensure!(told.status() == reqwest::StatusCode::ACCEPTED, "{}", told.status());
            } else if message["result"]["resultType"] == "input_required" {
                ensure!(self.dialect == Dialect::Stateless, "a client with a session does not know this: {message}");
                let requests = message["result"]["inputRequests"].as_object().context("no question was asked")?;
                let mut responses = json!({});
                for key in requests.keys() {
                    responses[key] = accept()?;
                }
                self.params["inputResponses"] = responses;
                self.params["requestState"] = message["result"]["requestState"].clone();
                self.stream = Stream::of(self.client.send(&request("tools/call", &self.params)).await?);
            } else if message["id"] == "mine" {
                let text = message["result"]["content"][0]["text"].as_str();
                return Ok(text.with_context(|| message.to_string())?.to_owned());
            }
        }
    }
}

fn request(method: &str, params: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": "mine", "method": method, "params": params})
}

/// The stream of changes of lists and of this resource.
async fn listen(client: &Http, dialect: Dialect, uri: &str) -> Result<Stream> {
    if dialect == Dialect::SessionBased {
        client.exchange(json!("subscribe"), "resources/subscribe", json!({"uri": uri})).await?.result()?;
        return client.listen().await;
    }
    let wanted = json!({"notifications": {"toolsListChanged": true, "resourceSubscriptions": [uri]}});
    let mut stream = Stream::of(client.send(&request("subscriptions/listen", &wanted)).await?);
    stream.wait_for("notifications/subscriptions/acknowledged").await?;
    Ok(stream)
}

/// Does everything that every pair must be able to do.
async fn meet(lab: &Lab, dialect: Dialect, name: &str) -> Result<()> {
    let path = format!("/i/{name}/mcp");
    let mut client = client(lab, &path, dialect, json!({"elicitation": {}})).await?;
    let tools = client.tools().await?;
    ensure!(tools.iter().any(|tool| tool == "ask"), "{tools:?}");
    let echo = client.call("echo", json!({"text": "hello"})).await?;
    ensure!(echo.starts_with("hello of "), "{echo}");

    let call = json!({"name": "progress", "arguments": {}, "_meta": {"progressToken": "p"}});
    let progress = client.exchange(json!("mine"), "tools/call", call).await?.before;
    let told: Vec<_> = progress.iter().map(|it| (&it["params"]["progressToken"], &it["params"]["progress"])).collect();
    let token = json!("p");
    let wanted = [1.0, 2.0, 3.0].map(|n| (n, &token));
    ensure!(told.iter().map(|(token, n)| (n.as_f64().unwrap_or(0.0), *token)).eq(wanted), "{progress:?}");

    let answered = Call::begin(&client, dialect, "ask", json!({})).await?.text(&["one", "two"]).await.context("ask")?;
    ensure!(answered == r#"["one","two"]"#, "{answered}");
    refuses_clients_without_capabilities(lab, dialect, name).await.context("a client that cannot be asked")?;

    let tag = format!("{dialect:?}");
    let (waiting, other) = (client.clone(), tag.clone());
    let call = tokio::spawn(async move { Call::begin(&waiting, dialect, "wait", json!({"tag": other})).await });
    noted(lab, name, &format!("waiting {tag}")).await?;
    match dialect {
        // A call without messages has no answer yet, not even headers.
        Dialect::Stateless => call.abort(),
        Dialect::SessionBased => {
            let params = json!({"requestId": "mine"});
            client.notify("notifications/cancelled", params).await?;
        }
    }
    noted(lab, name, &format!("cancelled {tag}")).await.context("cancellation")?;
    changes(&mut client, dialect, name).await.with_context(|| lab.logs())
}

/// Checks the notifications of a changed resource and a changed list.
async fn changes(client: &mut Http, dialect: Dialect, name: &str) -> Result<()> {
    let mut stream = listen(client, dialect, "test://one").await?;
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

/// Checks that a client that cannot be asked gets an error that says so, and not an empty success.
async fn refuses_clients_without_capabilities(lab: &Lab, dialect: Dialect, name: &str) -> Result<()> {
    let client = client(lab, &format!("/i/{name}/mcp"), dialect, json!({})).await?;
    let answer = client.try_call("ask", json!({})).await?.response.context("no response")?;
    let said = answer.to_string().to_lowercase();
    ensure!(said.contains("elicitation") || said.contains("capability"), "{answer}");
    ensure!(!answer["error"].is_null() || answer["result"]["isError"] == true, "{answer}");
    Ok(())
}

async fn meets_all(dialect: Dialect) -> Result<()> {
    let scene = DialectLab::new(&SERVERS).await?;
    for server in SERVERS {
        for way in ["url", "stdio"] {
            let name = format!("{server}-{way}");
            let met = Box::pin(meet(&scene.lab, dialect, &name)).await;
            met.with_context(|| format!("{dialect:?} client, {name}\n{}", scene.lab.logs()))?;
        }
    }
    scene.lab.finish().await
}

#[tokio::test]
async fn session_based_client_works_with_every_server() -> Result<()> {
    meets_all(Dialect::SessionBased).await
}

#[tokio::test]
async fn stateless_client_works_with_every_server() -> Result<()> {
    meets_all(Dialect::Stateless).await
}

/// The path of one instance returns what the server says of itself, including its extensions.
#[tokio::test]
async fn server_info_and_extensions_are_translated() -> Result<()> {
    let scene = DialectLab::new(&["both", "modern"]).await?;
    for name in ["both-url", "both-stdio", "modern-url", "modern-stdio"] {
        for dialect in [Dialect::SessionBased, Dialect::Stateless] {
            let client = client(&scene.lab, &format!("/i/{name}/mcp"), dialect, json!({})).await?;
            let about = client.about();
            let extension = &about["capabilities"]["extensions"]["io.example/nothing"];
            ensure!(*extension == json!({"n": 1}), "{name}, {dialect:?}: {about}");
            let info = match dialect {
                Dialect::SessionBased => &about["serverInfo"],
                Dialect::Stateless => &about["_meta"]["io.modelcontextprotocol/serverInfo"],
            };
            ensure!(info["name"] == "eras-server", "{name}, {dialect:?}: {about}");
        }
    }
    scene.lab.finish().await
}

/// A server on stdio that exits when it is asked for a session is detected with one more run, and used again after a
/// restart; its next run serves the subscriptions of clients.
#[tokio::test]
async fn stateless_server_is_detected_and_survives_restarts() -> Result<()> {
    let scene = DialectLab::new(&["modern"]).await?;
    let lab = &scene.lab;
    let lives = |name: &str| {
        let noted = std::fs::read_to_string(notes(lab, name)).unwrap_or_default();
        noted.lines().filter(|line| *line == "started").count()
    };
    ensure!(lives("modern-stdio") <= 2, "{} lives", lives("modern-stdio"));
    for name in ["modern-stdio", "modern-url"] {
        let mut client = client(lab, &format!("/i/{name}/mcp"), Dialect::SessionBased, json!({})).await?;
        let mut stream = listen(&client, Dialect::SessionBased, "test://one").await?;
        let before = lives(name);
        lab.verb(["restart", name]).await?.exits(0)?;
        lab.wait_for("another life", async || {
            ensure!(lives(name) > before);
            Ok(())
        })
        .await?;
        let heard = r#"listened to Some(["test://one"])"#;
        lab.wait_for("the next run receives the subscription", async || {
            let noted = std::fs::read_to_string(notes(lab, name)).unwrap_or_default();
            let last = noted.rsplit("started").next().unwrap_or_default().to_owned();
            ensure!(last.contains(heard), "{noted}");
            Ok(())
        })
        .await?;
        ensure!(lives(name) == before + 1, "its dialect was forgotten: {before} and then {}", lives(name));
        client.call("touch", json!({"uri": "test://one"})).await.with_context(|| lab.logs())?;
        stream.wait_for("notifications/resources/updated").await.with_context(|| lab.logs())?;
    }
    scene.lab.finish().await
}

/// The Python SDK in both dialects, with servers that speak only the other one.
#[tokio::test]
async fn python_sdk_works_with_servers_of_the_other_dialect() -> Result<()> {
    let scene = DialectLab::new(&["older", "modern"]).await?;
    let url = scene.lab.hub_facts()?.url;
    for (mode, server) in [("legacy", "modern"), ("2026-07-28", "older"), ("auto", "modern"), ("auto", "older")] {
        for way in ["url", "stdio"] {
            let address = format!("{url}/i/{server}-{way}/mcp");
            let (mut agent, hello) = Driven::python(&scene.lab, mode, &["http", &address]).await?;
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
    scene.lab.finish().await
}
