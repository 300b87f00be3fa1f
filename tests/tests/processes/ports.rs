//! The port that a command is given, the ports on which it listens, and the holder of a taken port.

use anyhow::{Context, Result, ensure};
use linchpin_shared::home::Home;
use linchpin_shared::process::Signal;
use linchpin_shared::registry::Registry;
use linchpin_tests::lab::Lab;
use linchpin_tests::lab::running::{gone, kill_9};
use linchpin_tests::lab::verb::Output;
use serde_json::{Value, json};
use std::net::TcpListener;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(15);

/// Listens on `PORT` once the file `go` exists, and moves to the port in the file `move` once that exists.
const SERVER: &str = r#"
import os, socket, time
def wait(name):
    while not os.path.exists(name): time.sleep(0.02)
    return open(name).read()
wait("go")
first = socket.create_server(("127.0.0.1", int(os.environ["PORT"])))
port = wait("move")
first.close()
second = socket.create_server(("127.0.0.1", int(port)))
time.sleep(600)
"#;

/// The process in the answer of `status`, once it is as wanted.
async fn process(lab: &Lab, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
    Ok(lab.shows("shop", what, |shop| wanted(&shop["processes"][0])).await?["processes"][0].clone())
}

fn at(port: &Value) -> Value {
    json!([{"port": port, "address": "127.0.0.1"}])
}

/// The services in the record.
fn services(lab: &Lab) -> Result<Vec<(String, String)>> {
    let scan = Registry::new(&Home::at(lab.home())).scan()?;
    let record = scan.entries.into_iter().next().context("no record")?.record;
    Ok(record.services.into_iter().map(|service| (service.name, service.url)).collect())
}

async fn record_tells(lab: &Lab, name: &str, port: &Value) -> Result<()> {
    lab.wait_for("the record names the port", async || {
        let services = services(lab)?;
        ensure!(services == [(name.to_owned(), format!("http://127.0.0.1:{port}"))], "{services:?}");
        Ok(())
    })
    .await
}

async fn run(lab: &Lab, flags: &[&str], command: &[&str]) -> Result<Output> {
    lab.verb([&["run", "--name", "shop", "--detach"], flags, &["--"], command].concat()).await
}

#[tokio::test]
async fn command_gets_a_port_and_its_listening_ports_are_shown() -> Result<()> {
    let lab = Lab::new()?;
    let _hub = lab.hub().await?;
    run(&lab, &[], &["python3", "-c", SERVER]).await?.exits(0)?;
    let before = process(&lab, "it has a port", |process| process["given_port"].is_u64()).await?;
    let given = &before["given_port"];
    assert_eq!(before["ports"], Value::Null, "it does not listen yet");
    ensure!(services(&lab)?.is_empty());

    // It binds late.
    std::fs::write(lab.dir().join("go"), "")?;
    process(&lab, "it listens", |process| process["ports"] == at(given)).await?;
    record_tells(&lab, "main", given).await?;
    let text = lab.verb(["status"]).await?.exits(0)?.stdout;
    ensure!(text.contains(&format!("main running :{given}")), "{text}");
    assert_eq!(lab.instance_status("shop").await?["services"][0]["url"], format!("http://127.0.0.1:{given}"));

    // It moves.
    let other = json!(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port());
    std::fs::write(lab.dir().join("move"), other.to_string())?;
    process(&lab, "it has moved", |process| process["ports"] == at(&other)).await?;
    record_tells(&lab, "main", &other).await?;
    let text = lab.verb(["explain", "shop"]).await?.exits(0)?.stdout;
    let told = format!("listens on port {other} of 127.0.0.1, was given PORT={given}, but does not listen there");
    ensure!(text.contains(&told), "{text}");

    // Killed, as process, as agent: it gets the same port again.
    std::fs::remove_file(lab.dir().join("move"))?;
    kill_9(u32::try_from(
        process(&lab, "it runs", |process| process["pid"].is_u64()).await?["pid"].as_u64().context("pid")?,
    )?)
    .await?;
    process(&lab, "it is back", |process| process["restarts"] == 1 && process["ports"] == at(given)).await?;
    let agent = lab.instance_status("shop").await?["pid"].clone();
    kill_9(u32::try_from(agent.as_u64().context("pid")?)?).await?;
    lab.shows("shop", "its background agent is back, and the port too", |shop| {
        shop["pid"] != agent && shop["processes"][0]["ports"] == at(given)
    })
    .await?;
    record_tells(&lab, "main", given).await?;
    lab.finish().await
}

#[tokio::test]
async fn port_chosen_by_the_user_is_kept() -> Result<()> {
    let show = ["sh", "-c", "echo \"port=<$PORT>\"; sleep 600"];
    for (settings, env, flags, told) in [
        (None, Some("4711"), &[][..], "port=<4711>"),
        (None, None, &["--port", "none"], "port=<>"),
        (None, Some("4711"), &["--port", "none"], "port=<4711>"),
        (Some("false"), None, &[], "port=<>"),
        (None, Some("4711"), &["--port", "31999"], "port=<31999>"),
        (Some("false"), Some("4711"), &["--port", "any"], "port=<2"),
        (None, None, &["--mcp"], "port=<>"),
    ] {
        let mut lab = Lab::new()?;
        if let Some(give) = settings {
            lab = lab.with("LINCHPIN_INSTANCE_GIVE_PORT", give);
        }
        let words = [&["--no-autostart", "run", "--name", "shop", "--detach"], flags, &["--"], &show].concat();
        let mut command = lab.linchpin(words);
        command.env_remove("PORT").envs(env.map(|port| ("PORT", port)));
        Output::of(command).await?.exits(0)?;
        let log = lab.home().join("logs/shop/main.log");
        lab.wait_for("the child prints its port", async || {
            let text = std::fs::read_to_string(&log)?;
            ensure!(text.contains("port=<"), "{text}");
            Ok(())
        })
        .await?;
        let text = std::fs::read_to_string(&log)?;
        ensure!(text.contains(told), "{settings:?} {env:?} {flags:?}: {told} is not in {text}");
        let record = Registry::new(&Home::at(lab.home())).scan()?.entries.remove(0).record;
        record.process.signal(Signal::TERM)?;
        gone(&record.process, SOON).await?;
        lab.nothing_is_left().await?;
    }
    Ok(())
}

/// Fault 16: a taken port is not tried again and again; its holder is named, also as an instance.
#[tokio::test]
async fn holder_of_a_taken_port_is_named_before_the_start() -> Result<()> {
    let lab = Lab::new()?;
    let _hub = lab.hub().await?;
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port().to_string();
    let listen = format!("import socket, time; s = socket.create_server(('127.0.0.1', {port})); time.sleep(600)");
    run(&lab, &[], &["python3", "-c", &listen]).await?.exits(0)?;
    let listens = at(&json!(port.parse::<u16>()?));
    let taken = process(&lab, "it listens", |process| process["ports"] == listens).await?;
    let mut command =
        lab.linchpin(["--no-autostart", "--json", "run", "--name", "other", "--port", &port, "--", "true"]);
    command.current_dir(lab.project("other")?);
    let problem = Output::of(command).await?.problem(4)?;
    let seen = &problem["observed"];
    assert_eq!((&problem["code"], &seen["port"]), (&json!("port_taken"), &json!(port.parse::<u16>()?)));
    assert_eq!((&seen["pid"], &seen["instance"]), (&taken["pid"], &json!("shop")), "{problem}");
    assert_eq!(seen["project"], lab.dir().display().to_string());
    ensure!(!lab.home().join("logs/other/main.log").metadata().is_ok_and(|log| log.len() > 0), "it was never started");

    // Every registration writes its name there, and the name stays.
    let names = std::fs::read_to_string(lab.home().join("instances/.names"))?;
    ensure!(names.contains(" shop ") && !names.contains(" other "), "it was registered: {names}");

    // The hub reports the same for its own port.
    let mut hub = lab.linchpin(["--json", "hub", "--port", &port]);
    hub.env("LINCHPIN_HOME", lab.dir().join("another-home"));
    let problem = Output::of(hub).await?.problem(4)?;
    assert_eq!((&problem["code"], &problem["observed"]["pid"]), (&json!("port_taken"), &taken["pid"]), "{problem}");

    // The holder of the port ends with a take-over of its name, but not if the new one runs alongside.
    let problem = lab.verb(["--json", "run", "--name", "shop", "--alongside", "--port", &port, "--", "true"]).await?;
    assert_eq!(problem.problem(4)?["code"], "port_taken");
    ensure!(!std::fs::read_to_string(lab.home().join("instances/.names"))?.contains(" shop-2 "));
    run(&lab, &["--take-over", "--port", &port], &["python3", "-c", &listen]).await?.exits(0)?;
    process(&lab, "the new one listens", |process| process["ports"] == listens && process["pid"] != taken["pid"])
        .await?;
    lab.finish().await
}

/// Fault 16: the port of an instance is taken while it is down; it waits, names the holder, and continues when the
/// port is free.
#[tokio::test]
async fn process_waits_for_its_taken_port_and_names_the_holder() -> Result<()> {
    let lab = Lab::new()?.with("LINCHPIN_INSTANCE_BACKOFF_MIN_MS", "300");
    let _hub = lab.hub().await?;
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let serve =
        "import os, socket, time; s = socket.create_server(('127.0.0.1', int(os.environ['PORT']))); time.sleep(600)";
    run(&lab, &["--port", &port.to_string()], &["python3", "-c", serve]).await?.exits(0)?;
    let first = process(&lab, "it listens", |process| process["ports"] == at(&json!(port))).await?;
    kill_9(u32::try_from(first["pid"].as_u64().context("pid")?)?).await?;
    let us = TcpListener::bind(("127.0.0.1", port))?;
    let named = format!("port {port} is taken by pid {} (", std::process::id());
    let waits = process(&lab, "the port's owner is this test", |process| {
        process["last_end"].as_str().is_some_and(|end| end.contains(&named))
    });
    assert_eq!(waits.await?["pid"], Value::Null, "it is not started");
    let log = std::fs::read_to_string(lab.home().join("logs/shop/main.log"))?;
    assert_eq!(log.matches("main started, pid").count(), 1, "{log}");
    drop(us);
    process(&lab, "it listens again", |process| process["ports"] == at(&json!(port))).await?;
    lab.finish().await
}

/// Fault 16: a program insists on its own port.
#[tokio::test]
async fn crash_on_a_taken_port_names_the_holder() -> Result<()> {
    let lab = Lab::new()?;
    let _hub = lab.hub().await?;
    let us = TcpListener::bind("127.0.0.1:0")?;
    let port = us.local_addr()?.port();
    let insists = format!("import socket, time; s = socket.create_server(('127.0.0.1', {port})); time.sleep(600)");
    run(&lab, &[], &["python3", "-c", &insists]).await?.exits(0)?;
    let named = format!("exit 1; port {port} is taken by pid {} (", std::process::id());
    process(&lab, "the port's owner is this test", |process| {
        process["last_end"].as_str().is_some_and(|end| end.contains(&named))
    })
    .await?;
    let text = lab.verb(["explain", "shop"]).await?.exits(0)?.stdout;
    ensure!(text.contains(&named), "{text}");
    drop(us);
    process(&lab, "it listens", |process| process["ports"] == at(&json!(port))).await?;
    lab.finish().await
}

/// Fault 16: what a killed instance left is reported as an orphan.
#[tokio::test]
async fn orphan_that_holds_the_port_is_reported_as_an_orphan() -> Result<()> {
    let lab = Lab::new()?;
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port().to_string();
    let listen = format!("import socket, time; s = socket.create_server(('127.0.0.1', {port})); time.sleep(600)");
    let mut agent =
        lab.run_in_front("agent", ["--no-autostart", "run", "--name", "shop", "--", "python3", "-c", &listen])?;
    lab.wait_for("it listens", async || {
        tokio::net::TcpStream::connect(format!("127.0.0.1:{port}")).await.context("nobody listens").map(drop)
    })
    .await?;
    agent.kill_9().await?;
    let mut command =
        lab.linchpin(["--no-autostart", "--json", "run", "--name", "other", "--port", &port, "--", "true"]);
    command.current_dir(lab.project("other")?);
    let problem = Output::of(command).await?.problem(4)?;
    assert_eq!(problem["observed"]["left by"], "shop", "{problem}");
    // The instance itself ends its orphan and gets the port.
    let mut again =
        lab.linchpin(["--no-autostart", "run", "--name", "shop", "--detach", "--port", &port, "--", "sleep", "608"]);
    again.kill_on_drop(true);
    Output::of(again).await?.exits(0)?;
    let record = Registry::new(&Home::at(lab.home())).scan()?.entries.remove(0).record;
    record.process.signal(Signal::TERM)?;
    gone(&record.process, SOON).await?;
    lab.nothing_is_left().await
}
