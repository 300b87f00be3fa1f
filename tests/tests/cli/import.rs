//! `linchpin import`, and servers that the hub starts on first use, with real servers and the files of agents.

use anyhow::{Context, Result, ensure};
use linchpin_tests::agent::Agent;
use linchpin_tests::kit;
use linchpin_tests::lab::Lab;
use linchpin_tests::lab::running::Running;
use linchpin_tests::lab::verb::Output;
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

const SECRET: &str = "hunter2-of-this-test";

/// A server that counts its starts in a file, pauses, and then becomes server-filesystem.
fn counted(lab: &Lab, name: &str, pause: &str) -> Result<Value> {
    let root = lab.project(name)?;
    let server = kit::filesystem(&root)?;
    let script = format!("echo x >> {}; sleep {pause}; exec \"$@\"", starts(lab, name).display());
    let args: Vec<String> = ["-c".to_owned(), script, "sh".to_owned()].into_iter().chain(server).collect();
    Ok(json!({"command": "sh", "args": args, "env": {"API_KEY": SECRET}}))
}

fn starts(lab: &Lab, name: &str) -> std::path::PathBuf {
    lab.dir().join(format!("{name}.starts"))
}

fn count(lab: &Lab, name: &str) -> usize {
    std::fs::read_to_string(starts(lab, name)).map_or(0, |text| text.lines().count())
}

/// Writes the list of declared servers as an import does.
fn declare(lab: &Lab, servers: &[(&str, Value)]) -> Result<()> {
    let mut list = json!({"format": 1, "servers": {}});
    for (name, server) in servers {
        let mut server = server.clone();
        server["project_dir"] = json!(lab.project("main")?);
        list["servers"][name] = server;
    }
    write_list(lab, &list.to_string(), 0o600)
}

fn write_list(lab: &Lab, text: &str, mode: u32) -> Result<()> {
    std::fs::create_dir_all(lab.home())?;
    std::fs::set_permissions(lab.home(), std::fs::Permissions::from_mode(0o700))?;
    let (new, path) = (lab.home().join("servers.new"), lab.home().join("servers.json"));
    std::fs::write(&new, text)?;
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(mode))?;
    Ok(std::fs::rename(new, path)?)
}

async fn state(lab: &Lab, name: &str) -> Result<String> {
    let status = lab.verb(["--json", "status", name]).await?.json()?;
    Ok(status["state"].as_str().context("no state")?.to_owned())
}

const LIST: &str = "list_allowed_directories";

/// Runs a verb, which may start a hub, in this directory.
async fn within(lab: &Lab, dir: &Path, arguments: &[&str]) -> Result<Output> {
    let mut command = lab.command(lab.binary());
    command.args(arguments).current_dir(dir);
    Output::of(command).await
}

#[tokio::test]
async fn imported_servers_are_used_and_given_back_on_undo() -> Result<()> {
    let lab = Lab::new()?;
    let project = lab.project("shop")?;
    let files = counted(&lab, "files", "0")?;
    let servers = json!({"mcpServers": {"files": files, "bad": {"type": "sse", "url": "http://x/sse"}}});
    let (path, text) = (project.join(".mcp.json"), format!("{servers:#}\n"));
    std::fs::write(&path, &text)?;
    let shown = within(&lab, &project, &["import"]).await?.exits(0)?;
    ensure!(
        shown.stdout.contains("+ files becomes files") && shown.stdout.contains("- bad is left alone"),
        "{shown:?}"
    );
    ensure!(!shown.stdout.contains(SECRET) && std::fs::read_to_string(&path)? == text, "{shown:?}");
    within(&lab, &project, &["import", "--apply"]).await?.exits(0)?;
    let entry: Value = serde_json::from_str(&std::fs::read_to_string(&path)?)?;
    let entry = &entry["mcpServers"]["linchpin"];
    ensure!(entry["command"].as_str() == lab.binary().to_str(), "{entry}");
    ensure!(entry["args"] == json!(["mcp", "--project"]) && count(&lab, "files") == 0, "{entry}");

    let mut agent = lab.shim(&["--project"]).await?;
    ensure!(agent.tools().await?.contains(&format!("files__{LIST}")));
    agent.call(&format!("files__{LIST}"), json!({})).await?;
    ensure!(count(&lab, "files") == 1, "started once");
    within(&lab, &project, &["import", "--undo"]).await?.exits(0)?;
    ensure!(std::fs::read_to_string(&path)? == text);
    agent.close().await?;
    lab.finish().await
}

/// Many first calls cause one start.
#[tokio::test]
async fn twenty_first_calls_start_the_server_once() -> Result<()> {
    let lab = Lab::new()?;
    declare(&lab, &[("files", counted(&lab, "files", "0.3")?)])?;
    let _hub = lab.hub().await?;
    ensure!(state(&lab, "files").await? == "dormant" && count(&lab, "files") == 0);
    let mut agents = Vec::new();
    for _ in 0..20 {
        agents.push(lab.http("/mcp").await?);
    }
    let calls = agents.iter_mut().map(|agent| agent.call("files__list_allowed_directories", json!({})));
    for answer in futures_util::future::join_all(calls).await {
        answer?;
    }
    ensure!(count(&lab, "files") == 1, "{} starts", count(&lab, "files"));
    drop(agents);
    lab.finish().await
}

/// Fault 2.
#[tokio::test]
async fn server_starting_under_a_killed_hub_is_started_once() -> Result<()> {
    let lab = Lab::new()?;
    declare(&lab, &[("files", counted(&lab, "files", "2")?)])?;
    let mut agent = lab.shim(&[]).await?;
    let tool = format!("files__{LIST}");
    let first = agent.send("tools/call", json!({"name": tool, "arguments": {}})).await?;
    lab.wait_for("the server begins", async || {
        ensure!(count(&lab, "files") == 1);
        Ok(())
    })
    .await?;
    lab.kill_hub().await?;
    // The first call may fail, but the next one works in the same session.
    let _ = agent.answer(first).await?;
    agent.call(&tool, json!({})).await?;
    ensure!(count(&lab, "files") == 1, "{} starts", count(&lab, "files"));
    agent.close().await?;
    lab.finish().await
}

#[tokio::test]
async fn stopped_server_stays_listed_and_its_next_call_starts_it() -> Result<()> {
    let lab = Lab::new()?;
    declare(&lab, &[("files", counted(&lab, "files", "0")?)])?;
    let mut hub = lab.hub().await?;
    let mut agent = lab.http("/mcp").await?;
    let before = agent.tools().await?;
    let tool = format!("files__{LIST}");
    ensure!(before.contains(&tool), "{before:?}");
    let stopped = lab.verb(["stop", "files"]).await?.exits(0)?;
    ensure!(stopped.stdout.contains("next use starts it"), "{stopped:?}");
    lab.shows("files", "it is dormant", |instance| instance["state"] == "dormant").await?;
    ensure!(agent.tools().await? == before && count(&lab, "files") == 1, "a known list starts nothing");
    let restart = json!({"name": "linchpin__restart", "arguments": {"instance": "files"}});
    let refused = agent.request("tools/call", restart).await?.result()?;
    ensure!(refused["isError"] == true && count(&lab, "files") == 1, "{refused}");
    drop(agent);
    hub.kill_9().await?;
    let _hub = lab.hub().await?;
    let mut agent = lab.http("/mcp").await?;
    ensure!(agent.tools().await? == before && count(&lab, "files") == 1, "the journal knows the list");
    ensure!(state(&lab, "files").await? == "dormant");
    agent.call(&tool, json!({})).await?;
    ensure!(count(&lab, "files") == 2 && state(&lab, "files").await? == "active");
    drop(agent);
    lab.finish().await
}

/// Fault 66: no command is run from a list that other users may write. Fault 67: the command is read from the list
/// when it is run.
#[tokio::test]
async fn declared_servers_start_only_from_a_private_list() -> Result<()> {
    let lab = Lab::new()?.with("LINCHPIN_GATEWAY_WAIT_MS", "1500");
    let _hub = lab.hub().await?;
    let mut agent = lab.http("/mcp").await?;
    declare(&lab, &[("files", counted(&lab, "files", "0")?)])?;
    lab.shows("files", "it is there", |instance| instance["state"] == "dormant").await?;
    let list = lab.home().join("servers.json");
    std::fs::set_permissions(&list, std::fs::Permissions::from_mode(0o644))?;
    let refused = agent.request("tools/call", json!({"name": format!("files__{LIST}")})).await?.error()?;
    ensure!(refused.to_string().contains("chmod 600") && count(&lab, "files") == 0, "{refused}");
    lab.wait_for("the hub says so", async || {
        let status = lab.status().await?;
        ensure!(status["hub"]["problems"].to_string().contains("servers.json"), "{status}");
        Ok(())
    })
    .await?;

    std::fs::set_permissions(&list, std::fs::Permissions::from_mode(0o600))?;
    lab.shows("files", "it may be tried again", |instance| {
        instance["servers"][0]["session_why"].is_null() && instance["state"] == "dormant"
    })
    .await?;
    agent.call(&format!("files__{LIST}"), json!({})).await?;
    lab.verb(["stop", "files"]).await?.exits(0)?;
    lab.verb(["import", "--remove", "files"]).await?.exits(0)?;
    lab.shows("files", "it is gone", |instance| instance["state"] == "gone").await?;
    let unknown = agent.request("tools/call", json!({"name": format!("files__{LIST}")})).await?;
    ensure!(unknown.error().is_ok() && count(&lab, "files") == 1);
    drop(agent);
    lab.finish().await
}

#[tokio::test]
async fn failed_start_is_reported_with_its_output_and_backs_off() -> Result<()> {
    let lab = Lab::new()?.with("LINCHPIN_GATEWAY_WAIT_MS", "1500");
    let script = format!("echo x >> {}; echo the boiler burst >&2; exit 3", starts(&lab, "crash").display());
    let (missing, crash) = (json!({"command": "no-such-program"}), json!({"command": "sh", "args": ["-c", script]}));
    declare(&lab, &[("missing", missing), ("crash", crash)])?;
    let _hub = lab.hub().await?;
    let mut agent = lab.http("/mcp").await?;
    for _ in 0..20 {
        let error = agent.request("tools/call", json!({"name": "missing__x"})).await?.error()?;
        ensure!(
            error["data"]["code"] == "command_not_found" && error["data"]["observed"]["next_try"].is_string(),
            "{error}"
        );
    }
    let started = std::fs::read_to_string(lab.home().join("logs/hub.log"))?;
    ensure!(started.matches("a declared server is started").count() <= 5, "{started}");
    let error = agent.request("tools/call", json!({"name": "crash__x"})).await?.error()?;
    ensure!(error["data"].to_string().contains("the boiler burst"), "{error}");
    ensure!(count(&lab, "crash") <= 10, "{} starts", count(&lab, "crash"));
    drop(agent);
    lab.finish().await
}

/// Fault 68: environment and headers appear in no record, log, argument, status or journal.
#[tokio::test]
async fn secrets_of_declared_servers_reach_only_their_server() -> Result<()> {
    let lab = Lab::new()?.with("LINCHPIN_GATEWAY_WAIT_MS", "3000");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/mcp", listener.local_addr()?);
    let seen = lab.dir().join("seen.env");
    let mut files = counted(&lab, "files", "0")?;
    let script = files["args"][1].as_str().context("no script")?.to_owned();
    files["args"][1] = json!(format!("printf %s \"$API_KEY\" > {}; {script}", seen.display()));
    let web = json!({"url": url, "headers": {"X-Token": SECRET}});
    declare(&lab, &[("files", files), ("web", web)])?;
    let mut agent = lab.shim(&[]).await?;
    let asked = agent.send("tools/call", json!({"name": "web__x", "arguments": {}})).await?;
    let (stream, _) = listener.accept().await?;
    let mut request = vec![0; 4096];
    let length = tokio::io::AsyncReadExt::read(&mut { stream }, &mut request).await?;
    let head = String::from_utf8_lossy(&request[..length]).into_owned();
    ensure!(head.contains(&format!("x-token: {SECRET}")), "{head}");
    drop(listener);
    agent.call(&format!("files__{LIST}"), json!({})).await?;
    ensure!(std::fs::read_to_string(&seen)? == SECRET, "the server receives its variable");
    let _ = agent.answer(asked).await?;

    let shown =
        [lab.verb(["status"]).await?, lab.verb(["--json", "status"]).await?, lab.verb(["explain", "web"]).await?];
    ensure!(shown.iter().all(|output| !output.stdout.contains(SECRET)), "{shown:?}");
    for process in lab.mark().processes() {
        let words = std::fs::read(format!("/proc/{}/cmdline", process.pid)).unwrap_or_default();
        ensure!(!String::from_utf8_lossy(&words).contains(SECRET), "pid {}", process.pid);
    }
    let mut files = vec![lab.home()];
    while let Some(path) = files.pop() {
        if path.is_dir() {
            files.extend(std::fs::read_dir(&path)?.flatten().map(|entry| entry.path()));
        } else if !path.ends_with("servers.json") {
            let bytes = std::fs::read(&path)?;
            let has = bytes.windows(SECRET.len()).any(|window| window == SECRET.as_bytes());
            ensure!(!has, "{} has the secret", path.display());
        }
    }
    agent.close().await?;
    lab.finish().await
}

/// Starts a TLS proxy for `localhost` in front of a plain server. Returns its port and its certificate.
async fn in_front_of(plain: u16) -> Result<(u16, String)> {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])?;
    let key = tokio_rustls::rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der());
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = tokio_rustls::rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.map_err(anyhow::Error::msg)?)?;
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut secure = acceptor.accept(stream).await?;
                let mut plain = tokio::net::TcpStream::connect(("127.0.0.1", plain)).await?;
                tokio::io::copy_bidirectional(&mut secure, &mut plain).await
            });
        }
    });
    Ok((port, made.cert.pem()))
}

/// Fault 66: a peer that cannot prove the name in an https URL gets no header.
#[tokio::test]
async fn tls_server_is_used_only_if_it_proves_its_name() -> Result<()> {
    let lab = Lab::new()?.with("LINCHPIN_GATEWAY_WAIT_MS", "4000");
    let port = lab.port() + 1;
    let mut server = lab.command("node");
    server.args(&kit::everything_http()?[1..]).env("PORT", port.to_string());
    let mut server = Running::start(server, lab.dir().join("out/everything.log"))?;
    let (good, certificate) = in_front_of(port).await?;
    let (stranger, _) = in_front_of(port).await?;
    let file = lab.dir().join("ca.pem");
    std::fs::write(&file, certificate)?;
    let lab = lab.with("SSL_CERT_FILE", file.to_str().context("no path")?);
    let at = |port: u16| json!({"url": format!("https://localhost:{port}/mcp"), "headers": {"X-Token": SECRET}});
    declare(&lab, &[("good", at(good)), ("stranger", at(stranger))])?;
    let _hub = lab.hub().await?;
    let mut agent = lab.http("/mcp").await?;
    let echoed = agent.call("good__echo", json!({"message": "over TLS"})).await?;
    ensure!(echoed.contains("over TLS"), "{echoed}");
    let error = agent.request("tools/call", json!({"name": "stranger__echo", "arguments": {}})).await?.error()?;
    ensure!(error.to_string().contains("certificate"), "{error}");
    drop(agent);
    server.kill_9().await?;
    lab.finish().await
}
