//! External programs: registered by the verb, by the library, and by the example in `docs/registry.md`.

use anyhow::{Context, Result, ensure};
use linchpin_instance::Instance;
use linchpin_shared::home::Home;
use linchpin_shared::process::{Identity, Signal};
use linchpin_shared::registry::{Owner, Registry};
use linchpin_tests::agent::Agent;
use linchpin_tests::kit;
use linchpin_tests::lab::running::Running;
use linchpin_tests::lab::{Lab, leftovers};
use linchpin_tests::races::wire::Order;
use linchpin_tests::races::worker::Worker;
use serde_json::{Value, json};
use std::net::Ipv4Addr;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket};

const SOON: Duration = Duration::from_secs(10);

/// A program that the registry takes for one that listens.
fn sleeper(lab: &Lab) -> Result<Running> {
    let mut command = lab.command("sleep");
    command.arg("600");
    Running::start(command, lab.dir().join("out/sleeper.log"))
}

/// An address at which no program listens while this is held.
struct Nowhere(TcpSocket);

impl Nowhere {
    fn new() -> Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
        Ok(Self(socket))
    }

    fn url(&self) -> Result<String> {
        Ok(format!("http://{}", self.0.local_addr()?))
    }
}

fn register(lab: &Lab, name: &str, pid: u32, url: &str, more: &[&str]) -> Result<Running> {
    let (file, pid) = (format!("register-{name}"), pid.to_string());
    let arguments = ["--no-autostart", "register", "--name", name, "--pid", &pid, "--url", url];
    lab.run_in_front(&file, arguments.iter().chain(more))
}

/// Name, owner and pid of each record.
fn registered(lab: &Lab) -> Result<Vec<(String, Owner, u32)>> {
    let scan = Registry::new(&Home::at(lab.home())).scan()?;
    ensure!(scan.rejected.is_empty(), "{:?}", scan.rejected);
    Ok(scan.entries.into_iter().map(|entry| (entry.record.name, entry.owner, entry.record.process.pid)).collect())
}

/// Checks that the instance is listed as alive but not connected.
async fn check_external_status(lab: &Lab, name: &str, pid: u32) -> Result<()> {
    let refused = |instance: &Value| instance["state"] != "gone" && instance["last_failure"]["kind"] == "refused";
    let instance = lab.shows(name, "it is listed, and refuses", refused).await?;
    assert_eq!(instance["pid"], pid, "{instance}");
    ensure!(instance["state"] != "active", "{instance}");
    Ok(())
}

async fn not_there(lab: &Lab, name: &str) -> Result<()> {
    lab.wait_for("it is gone", async || {
        ensure!(lab.registry_files()?.is_empty(), "{:?}", lab.registry_files()?);
        let shown = lab.instance_status(name).await.ok();
        ensure!(shown.as_ref().is_none_or(|instance| instance["state"] == "gone"), "{shown:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn external_program_is_an_instance_until_it_ends() -> Result<()> {
    let lab = Lab::new()?;
    let _hub = lab.hub().await?;
    let (mut program, nowhere) = (sleeper(&lab)?, Nowhere::new()?);
    let mut holder = register(&lab, "shop", program.pid(), &nowhere.url()?, &["--label", "tier=web"])?;
    check_external_status(&lab, "shop", program.pid()).await?;
    let scan = Registry::new(&Home::at(lab.home())).scan()?;
    assert_eq!(scan.entries[0].record.labels["tier"], "web");

    // The record is written again when the registry vanishes.
    leftovers::remove_whole(&lab.home().join("instances"))?;
    lab.wait_for("the record is back", async || {
        ensure!(registered(&lab)? == [("shop".to_owned(), Owner::Alive, program.pid())]);
        Ok(())
    })
    .await?;

    program.kill_9().await?;
    assert_eq!(holder.exit(SOON).await?.code(), Some(0), "{}", holder.printed());
    ensure!(holder.printed().contains("has ended"), "{}", holder.printed());
    not_there(&lab, "shop").await?;
    lab.finish().await
}

#[tokio::test]
async fn registrar_unregisters_on_a_signal_and_looks_dead_if_killed() -> Result<()> {
    let lab = Lab::new()?;
    let _hub = lab.hub().await?;
    let (mut program, nowhere) = (sleeper(&lab)?, Nowhere::new()?);
    for signal in [Signal::TERM, Signal::INT, Signal::KILL] {
        let mut holder = register(&lab, "shop", program.pid(), &nowhere.url()?, &[])?;
        check_external_status(&lab, "shop", program.pid()).await?;
        holder.signal(signal)?;
        assert_eq!(holder.exit(SOON).await?.code(), (signal != Signal::KILL).then_some(0), "{}", holder.printed());
        not_there(&lab, "shop").await?;
        ensure!(program.identity().is_alive(), "the program goes on");
    }
    program.kill_9().await?;
    lab.finish().await
}

#[tokio::test]
async fn invalid_registrations_are_refused_with_a_problem() -> Result<()> {
    let lab = Lab::new()?;
    let mut program = sleeper(&lab)?;
    let pid = program.pid().to_string();
    let mut gone = sleeper(&lab)?;
    gone.kill_9().await?;
    let dead = gone.pid().to_string();
    let here = "http://127.0.0.1:3000";
    for (name, pid, url, code, exit) in [
        ("shop", dead.as_str(), here, "process_not_found", 3),
        ("shop", &pid, "http://192.0.2.1:80", "bad_request", 2),
        ("No Name", &pid, here, "bad_name", 2),
    ] {
        let arguments = ["register", "--json", "--name", name, "--pid", pid, "--url", url];
        let problem = lab.verb(arguments).await?.problem(exit)?;
        assert_eq!(problem["code"], code, "{problem}");
    }
    let mut holder = register(&lab, "shop", program.pid(), here, &[])?;
    lab.wait_for("it is registered", async || {
        ensure!(holder.printed().contains("is registered"), "{}", holder.printed());
        Ok(())
    })
    .await?;
    let problem = lab.verb(["register", "--json", "--name", "shop", "--pid", &pid, "--url", here]).await?.problem(4)?;
    assert_eq!((&problem["code"], &problem["observed"]["pid"]), (&"name_taken".into(), &program.pid().into()));
    program.kill_9().await?;
    holder.exit(SOON).await?;
    lab.nothing_is_left().await
}

/// Waits until the hub connects here.
async fn called(listener: &TcpListener) -> Result<()> {
    let call = tokio::time::timeout(SOON, listener.accept()).await;
    call.context("no connection reached the new address")?.map(drop).context("accept")
}

/// One id with another port: after a new registration, and in an updated record. The hub does not poll here, so it
/// must notice.
#[tokio::test]
async fn program_that_changes_its_port_is_dialled_there_at_once() -> Result<()> {
    let lab = Lab::new()?.with("LINCHPIN_DISCOVERY_POLL_MS", "3600000");
    let _hub = lab.hub().await?;
    let here = (Ipv4Addr::LOCALHOST, 0);
    let listeners = [TcpListener::bind(here).await?, TcpListener::bind(here).await?, TcpListener::bind(here).await?];
    let mut program = sleeper(&lab)?;
    for listener in &listeners[..2] {
        let url = format!("http://{}", listener.local_addr()?);
        let mut holder = register(&lab, "shop", program.pid(), &url, &[])?;
        called(listener).await?;
        holder.kill_9().await?;
    }
    program.kill_9().await?;

    let mut worker = Worker::start(&lab.home())?;
    worker.does(&Order::Register { name: "mover".into(), project: "/project".into(), fill: 0 }).await?;
    lab.shows("mover", "it is listed", |instance| instance["state"] != "gone").await?;
    worker.does(&Order::Update { port: listeners[2].local_addr()?.port(), fill: 0 }).await?;
    called(&listeners[2]).await?;
    worker.does(&Order::Unregister).await?;
    not_there(&lab, "mover").await?;
    lab.finish().await
}

/// A program that embeds the library disappears without unregistering and comes back with another port and generation.
#[tokio::test]
async fn restarted_embedded_program_is_connected_at_its_new_port() -> Result<()> {
    let lab = Lab::new()?.with("LINCHPIN_DISCOVERY_POLL_MS", "3600000");
    let _hub = lab.hub().await?;
    let start = async || -> Result<Instance> {
        let program = Instance::builder("shop").home(Home::at(lab.home())).project_dir(lab.dir());
        let instance = program.start().await?;
        let life = instance.record().generation.to_string();
        lab.shows("shop", "this run is connected", |shop| shop["state"] == "active" && shop["generation"] == *life)
            .await?;
        Ok(instance)
    };
    let first = start().await?;
    let before = first.record().clone();
    drop(first);
    lab.wait_for("it has released the lease", async || {
        let scan = Registry::new(&Home::at(lab.home())).scan()?;
        ensure!(scan.entries.iter().all(|entry| entry.owner == Owner::Dead), "{scan:?}");
        Ok(())
    })
    .await?;
    let second = start().await?;
    let after = second.record();
    ensure!(after.id == before.id && after.endpoint != before.endpoint, "{before:?} {after:?}");
    second.stop().await?;
    not_there(&lab, "shop").await?;
    lab.finish().await
}

/// The program in `docs/registry.md`.
fn example() -> Result<String> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/registry.md");
    let text = std::fs::read_to_string(path)?;
    let (_, rest) = text.split_once("```python\n").context("no Python in the document")?;
    let (program, _) = rest.split_once("```").context("the example has no end")?;
    ensure!(program.lines().count() <= 20, "the example has more than 20 lines");
    Ok(program.to_owned())
}

#[tokio::test]
async fn python_example_of_the_docs_is_an_instance() -> Result<()> {
    let lab = Lab::new()?;
    let file = lab.dir().join("example.py");
    std::fs::write(&file, example()?)?;
    let start = || -> Result<Running> {
        let mut command = lab.command("python3");
        // `python3` may be a shim that needs the HOME of the user.
        command.arg(&file).envs(std::env::var_os("HOME").map(|home| ("HOME", home)));
        Running::start(command, lab.dir().join("out/python.log"))
    };
    // The home does not exist yet, and no hub runs.
    let mut program = start()?;
    let identity = lab
        .wait_for("it is registered", async || {
            let scan = Registry::new(&Home::at(lab.home())).scan()?;
            ensure!(scan.rejected.is_empty(), "{:?}", scan.rejected);
            let entry = scan.entries.first().with_context(|| program.printed())?;
            ensure!(entry.record.name == "python" && entry.owner == Owner::Alive, "{entry:?}");
            Ok(entry.record.process.clone())
        })
        .await?;
    // A second program of the same project sees the lease and ends.
    let mut second = start()?;
    ensure!(!second.exit(SOON).await?.success());
    ensure!(second.printed().contains("BlockingIOError"), "{}", second.printed());
    assert_eq!(Identity::of(identity.pid)?, identity, "it reports its own identity");
    let _hub = lab.hub().await?;
    let instance = lab.shows("python", "it is connected", |instance| instance["state"] == "active").await?;
    assert_eq!(instance["pid"], identity.pid, "{instance}");
    program.kill_9().await?;
    not_there(&lab, "python").await?;
    lab.finish().await
}

/// A real MCP server on Streamable HTTP that Linchpin did not start: agents use it through the hub over few
/// connections, Linchpin does not stop it, and its instance is gone when it ends.
#[tokio::test]
async fn external_mcp_server_is_used_through_the_hub() -> Result<()> {
    let lab = Lab::new()?;
    let _hub = lab.hub().await?;
    let (mut program, url) = everything_over_http(&lab).await?;
    let mut holder = register(&lab, "web", program.pid(), &url, &["--mcp-url", "/mcp", "--label", "health=/mcp"])?;
    lab.usable("web").await?;
    let mut agent = lab.http("/mcp").await?;
    for round in 0..20 {
        let message = format!("{round}");
        assert_eq!(agent.call("web__echo", json!({"message": message})).await?, format!("Echo: {round}"));
    }
    let link = lab.link("web").await?;
    ensure!(link["connections"] == 1 && link["state"] == "active", "{link}");

    for verb in ["stop", "restart"] {
        let problem = lab.verb([verb, "web", "--json"]).await?.problem(2)?;
        ensure!(problem["observed"]["pid"] == program.pid() && program.identity().is_alive(), "{problem}");
    }
    program.kill_9().await?;
    assert_eq!(holder.exit(SOON).await?.code(), Some(0), "{}", holder.printed());
    not_there(&lab, "web").await?;
    drop(agent);
    lab.finish().await
}

/// server-everything over Streamable HTTP on a free port.
async fn everything_over_http(lab: &Lab) -> Result<(Running, String)> {
    let port = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
    let line = kit::everything_http()?;
    let (program, arguments) = line.split_first().context("an empty command line")?;
    let mut command = lab.command(program);
    command.args(arguments).env("PORT", port.to_string());
    let server = Running::start(command, lab.dir().join("out/web-server.log"))?;
    lab.wait_for("server-everything listens", async || {
        tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.map(drop).with_context(|| server.printed())
    })
    .await?;
    Ok((server, format!("http://127.0.0.1:{port}")))
}
