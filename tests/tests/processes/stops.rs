//! Stops and kills: `stop` returns when everything has ended, and the leftovers of a kill are ended by the next
//! process.

use anyhow::{Context, Result, ensure};
use linchpin_shared::home::Home;
use linchpin_shared::process::{Identity, Signal, command_line};
use linchpin_shared::registry::Registry;
use linchpin_tests::agent::{Agent, stdio::Stdio};
use linchpin_tests::kit;
use linchpin_tests::lab::Lab;
use linchpin_tests::lab::running::{Running, gone, kill_9};
use serde_json::{Value, json};
use std::net::TcpListener;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);

/// Waits for a process of the lab with this command line.
async fn running(lab: &Lab, command: &str) -> Result<Identity> {
    lab.wait_for(command, async || {
        let all = lab.mark().processes().into_iter();
        all.into_iter().find(|it| command_line(it.pid).as_deref() == Some(command)).context("it does not run yet")
    })
    .await
}

fn instance(lab: &Lab, name: &str, script: &str) -> Result<Running> {
    lab.run_in_front(name, ["run", "--name", name, "--", "sh", "-c", script])
}

async fn detached(lab: &Lab, name: &str, flags: &[&str], command: &[&str]) -> Result<u32> {
    let words = [&["run", "--name", name, "--detach"], flags, &["--"], command].concat();
    lab.verb(words).await?.exits(0)?;
    let live = Registry::new(&Home::at(lab.home())).find_live(name);
    Ok(live.context("it is not registered")?.record.process.pid)
}

fn parent(pid: u32) -> Result<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after_name = stat.rsplit_once(')').context("no name")?.1;
    Ok(after_name.split_whitespace().nth(1).context("no parent")?.parse()?)
}

/// Waits until the record is removed, which happens last.
async fn swept(lab: &Lab) -> Result<()> {
    lab.wait_for("the record is swept", async || {
        ensure!(lab.registry_files()?.is_empty(), "{:?}", lab.registry_files()?);
        Ok(())
    })
    .await
}

fn hub_log(lab: &Lab) -> Result<String> {
    Ok(std::fs::read_to_string(lab.home().join("logs/hub.log"))?)
}

/// Fault 4, nobody starts the killed instance again, so the hub ends its leftovers, and nothing else.
#[tokio::test]
async fn hub_ends_the_processes_that_a_killed_instance_left() -> Result<()> {
    let lab = Lab::new()?;
    let _hub = lab.hub().await?;
    // The process 2004 is detached on purpose.
    let script = "(setsid sleep 2001 &); (trap '' TERM; sleep 2002 & sleep 2003) & \
                  (LINCHPIN_DETACHED=1 setsid sleep 2004 &); exec sleep 2005";
    let mut agent = instance(&lab, "shop", script)?;
    let mut left = Vec::new();
    for seconds in [2001, 2002, 2003, 2005] {
        left.push(running(&lab, &format!("sleep {seconds}")).await?);
    }
    let free = running(&lab, "sleep 2004").await?;
    lab.shows("shop", "it is connected", |instance| instance["state"] == "active").await?;
    agent.kill_9().await?;
    for process in &left {
        gone(process, SOON).await.with_context(|| lab.logs())?;
    }
    lab.shows("shop", "it is gone", |instance| instance["state"] == "gone").await?;
    swept(&lab).await?;
    let log = hub_log(&lab)?;
    ensure!(log.contains("was killed left processes") && log.contains("sleep 2002"), "{log}");
    ensure!(free.is_alive(), "a process that detached itself was ended");
    kill_9(free.pid).await?;
    lab.finish().await
}

/// Fault 4: everything is killed at once; the next hub cleans up, and the instance can be started again.
#[tokio::test]
async fn hub_keeper_and_agent_killed_together_leave_nothing() -> Result<()> {
    let lab = Lab::new()?;
    let mut hub = lab.hub().await?;
    let agent = detached(&lab, "shop", &[], &["sh", "-c", "(setsid sleep 2011 &); exec sleep 2012"]).await?;
    let left = [running(&lab, "sleep 2011").await?, running(&lab, "sleep 2012").await?];
    let both = [Identity::of(parent(agent)?)?, Identity::of(agent)?];
    hub.kill_9().await?;
    // Stopped first, so that neither can start the other again.
    for signal in [Signal::STOP, Signal::KILL] {
        for process in &both {
            ensure!(process.signal(signal)?, "{} had ended before", process.pid);
        }
    }
    for process in &both {
        gone(process, SOON).await?;
    }
    ensure!(left.iter().all(Identity::is_alive), "no process was left that could end them");
    let _hub = lab.hub().await?;
    for process in &left {
        gone(process, SOON).await.with_context(|| lab.logs())?;
    }
    detached(&lab, "shop", &[], &["sleep", "2013"]).await?;
    running(&lab, "sleep 2013").await?;
    lab.shows("shop", "it is connected", |instance| instance["state"] == "active").await?;
    lab.finish().await
}

/// For an instance that is killed during its stop, `stop` returns only when the hub has ended its leftovers.
#[tokio::test]
async fn stop_returns_when_nothing_is_left_even_after_a_kill() -> Result<()> {
    let lab = Lab::new()?;
    let _hub = lab.hub().await?;
    let mut agent = instance(&lab, "shop", "trap '' TERM; (sleep 2021 &); sleep 2022")?;
    let left = [running(&lab, "sleep 2021").await?, running(&lab, "sleep 2022").await?];
    let connected = lab.shows("shop", "it runs", |instance| instance["processes"][0]["state"] == "running");
    connected.await?;
    let stop = tokio::spawn({
        let mut command = lab.linchpin(["--no-autostart", "stop", "shop"]);
        async move { command.output().await }
    });
    lab.shows("shop", "it is being stopped", |instance| instance["processes"][0]["state"] == "stopping").await?;
    agent.kill_9().await?;
    let said = stop.await??;
    ensure!(said.status.success(), "{said:?}");
    ensure!(left.iter().all(|process| !process.is_alive()), "said while some ran: {said:?}");
    swept(&lab).await?;
    lab.finish().await
}

/// Fault 11: a real chain of `sh -c`, npx and node.
#[tokio::test]
async fn wrapper_chain_ends_with_its_leaf_and_frees_the_port() -> Result<()> {
    let lab = Lab::new()?;
    let _hub = lab.hub().await?;
    for round in 0..2 {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let url = format!("http://127.0.0.1:{port}/mcp");
        let chain = format!(
            "cd '{}' && PORT={port} npx --offline --no-install mcp-server-everything streamableHttp; true",
            kit::dir().display()
        );
        let mut agent = if round == 0 {
            Some(lab.run_in_front("web", ["run", "--name", "web", "--mcp-url", &url, "--", "sh", "-c", &chain])?)
        } else {
            detached(&lab, "web", &["--mcp-url", &url], &["sh", "-c", &chain]).await?;
            None
        };
        lab.usable("web").await?;
        let tree = lab.mark().processes();
        let node = tree.iter().filter(|it| command_line(it.pid).is_some_and(|line| line.contains("streamableHttp")));
        ensure!(node.count() >= 2, "a chain: {tree:?}");
        lab.verb(["stop", "web"]).await?.exits(0)?;
        TcpListener::bind(("127.0.0.1", port)).context("the port is free once stopped is said")?;
        let left = lab.mark().processes();
        // The command line of its keeper has the same words, and the keeper ends after its agent.
        let lines = left.iter().filter_map(|it| command_line(it.pid));
        let chain_left: Vec<_> = lines.filter(|line| !line.contains("linchpin")).collect();
        ensure!(!chain_left.iter().any(|line| line.contains("streamableHttp")), "{chain_left:?}");
        if let Some(agent) = &mut agent {
            agent.exit(SOON).await?;
        }
    }
    lab.finish().await
}

/// Fault 2: the death of a hub does not affect an instance.
#[tokio::test]
async fn killed_hub_restarts_no_instance_and_loses_no_log_line() -> Result<()> {
    let lab = Lab::new()?;
    let script = "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.003; done";
    let agent = detached(&lab, "counter", &[], &["sh", "-c", script]).await?;
    let facts = |instance: &Value| (instance["pid"].clone(), instance["processes"][0].clone());
    let mut before = None;
    for _ in 0..4 {
        let mut hub = lab.hub().await?;
        let connected = |instance: &Value| instance["state"] == "active" && instance["processes"][0]["pid"].is_u64();
        let now = facts(&lab.shows("counter", "it is connected", connected).await?);
        assert_eq!(now.0, agent);
        assert_eq!(*before.get_or_insert_with(|| now.clone()), now, "the process was restarted");
        hub.kill_9().await?;
    }
    let _hub = lab.hub().await?;
    lab.shows("counter", "it is connected", |instance| instance["state"] == "active").await?;
    lab.verb(["stop", "counter"]).await?.exits(0)?;
    let log = std::fs::read_to_string(lab.home().join("logs/counter/main.log"))?;
    let lines: Vec<usize> = log.lines().filter_map(|line| line.strip_prefix("line ")?.parse().ok()).collect();
    ensure!(lines.len() > 10, "{} lines", lines.len());
    ensure!(lines.iter().copied().eq(1..=lines.len()), "a line is missing or doubled");
    lab.finish().await
}

/// Fault 18: a hub and a shim continue without their file; the shim starts a new hub from the new file if there is
/// one.
#[tokio::test]
async fn hub_outlives_its_executable() -> Result<()> {
    let lab = Lab::new()?;
    let binary = lab.project("bin")?.join("linchpin");
    let deleted = format!("{} (deleted)", binary.display());
    let install = || -> Result<()> {
        let new = binary.with_extension("new");
        std::fs::copy(lab.binary(), &new)?;
        Ok(std::fs::rename(new, &binary)?)
    };
    let executes = || -> Result<String> {
        let pid = lab.hub_facts()?.pid;
        Ok(std::fs::read_link(format!("/proc/{pid}/exe"))?.display().to_string())
    };
    install()?;
    lab.detached("one", &kit::echo("one")?).await?;
    let mut command = lab.command(&binary);
    command.args(["mcp"]);
    let (mut agent, _) = Stdio::open(command, &lab.shim_log()).await?;
    lab.usable("one").await?;
    assert_eq!(executes()?, binary.display().to_string());

    std::fs::remove_file(&binary)?;
    lab.usable("one").await.context("it goes on")?;
    for (expected, what) in [(deleted.as_str(), "removed: as before"), (&binary.display().to_string(), "the new one")] {
        if what == "the new one" {
            install()?;
        }
        lab.kill_hub().await?;
        assert_eq!(agent.call("one__echo-one", json!({"message": what})).await?, what);
        assert_eq!(executes()?, expected, "{what}");
    }
    agent.close().await?;
    lab.finish().await
}
