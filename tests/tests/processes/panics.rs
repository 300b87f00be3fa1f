//! Unplanned ends: panics in hub, keeper, agent and registrar, and early signals.
//!
//! Debug builds panic on SIGUSR2 at the place that `LINCHPIN_PANIC` names (`shared/src/panics.rs`).

use anyhow::{Context, Result, ensure};
use linchpin_shared::home::Home;
use linchpin_shared::process::{Identity, Signal, command_line};
use linchpin_shared::registry::Registry;
use linchpin_shared::registry::record::Record;
use linchpin_tests::lab::Lab;
use linchpin_tests::lab::running::gone;
use linchpin_tests::lab::verb::Output;
use rustix::process::{Pid, kill_process};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(15);

/// The message of the requested panic contains this, and no log may.
const SECRET: &str = "hunter2";

fn panic(pid: u32) -> Result<()> {
    Ok(kill_process(Pid::from_raw(pid.cast_signed()).context("a pid")?, rustix::process::Signal::USR2)?)
}

async fn running(lab: &Lab, command: &str) -> Result<Identity> {
    lab.wait_for(command, async || {
        let all = lab.mark().processes().into_iter();
        all.into_iter().find(|it| command_line(it.pid).as_deref() == Some(command)).context("it does not run yet")
    })
    .await
}

fn live(lab: &Lab) -> Result<Record> {
    Ok(Registry::new(&Home::at(lab.home())).find_live("shop").context("it is not registered")?.record)
}

fn told(log: &str) -> Result<()> {
    ensure!(
        log.contains("a task panicked") && log.contains("panics.rs:"),
        "the log does not say where it panicked: {log}"
    );
    ensure!(!log.contains(SECRET), "{log}");
    Ok(())
}

/// A process outside of the group that ignores SIGTERM, and one inside.
const STUBBORN: &str = "(setsid sh -c 'trap \"\" TERM; sleep 3001' &); exec sleep 3002";

/// In the foreground nothing starts it again: nothing is left, and the exit code reports the failure.
#[tokio::test]
async fn panicking_agent_ends_its_processes_and_fails() -> Result<()> {
    for place in ["agent", "agent-task", "supervisor"] {
        let lab = Lab::new()?.with("LINCHPIN_PANIC", place).with("LINCHPIN_INSTANCE_STOP_TIMEOUT_MS", "500");
        let _hub = lab.hub().await?;
        let words = ["run", "--name", "shop", "--", "sh", "-c", STUBBORN];
        let mut agent = lab.run_in_front("shop", words)?;
        let left = [running(&lab, "sleep 3001").await?, running(&lab, "sleep 3002").await?];
        lab.shows("shop", "it is connected", |instance| instance["state"] == "active").await?;
        panic(agent.pid())?;
        let status = agent.exit(SOON).await.with_context(|| lab.logs())?;
        ensure!(status.code() == Some(1), "{place}: {status}");
        ensure!(left.iter().all(|process| !process.is_alive()), "{place}: ended before the agent");
        ensure!(lab.registry_files()?.is_empty(), "{place}: {:?}", lab.registry_files()?);
        told(&agent.printed()).context(place)?;
        lab.finish().await?;
    }
    Ok(())
}

/// A keeper starts an agent again, whichever part of it panicked; an agent starts a panicked keeper again.
#[tokio::test]
async fn panicking_background_process_is_restarted() -> Result<()> {
    for place in ["agent-task", "supervisor", "keeper", "keeper-task"] {
        let lab = Lab::new()?.with("LINCHPIN_PANIC", place).with("LINCHPIN_INSTANCE_STOP_TIMEOUT_MS", "500");
        let words = ["run", "--name", "shop", "--detach", "--", "sh", "-c", STUBBORN];
        lab.verb(words).await?.exits(0)?;
        let (before, left) = (live(&lab)?, [running(&lab, "sleep 3001").await?, running(&lab, "sleep 3002").await?]);
        let keeper = keeper_of(&lab).await?;
        if place.starts_with("keeper") {
            panic(keeper.pid)?;
            gone(&keeper, SOON).await?;
            lab.wait_for("another keeper", async || {
                ensure!(keeper_of(&lab).await? != keeper, "not yet");
                Ok(())
            })
            .await?;
            ensure!(live(&lab)? == before && left.iter().all(Identity::is_alive), "the instance did not notice");
        } else {
            panic(before.process.pid)?;
            lab.wait_for("another life", async || {
                let now = live(&lab)?;
                ensure!(now.generation != before.generation, "the same");
                Ok(())
            })
            .await
            .with_context(|| format!("{place}\n{}", lab.logs()))?;
            ensure!(left.iter().all(|process| !process.is_alive()), "{place}: the process ended before the next start");
        }
        told(&std::fs::read_to_string(lab.home().join("logs/shop/agent.log"))?).context(place)?;
        let agent = live(&lab)?.process;
        agent.signal(Signal::TERM)?;
        gone(&agent, SOON).await?;
        lab.finish().await?;
    }
    Ok(())
}

async fn keeper_of(lab: &Lab) -> Result<Identity> {
    lab.wait_for("the keeper", async || {
        let mut all = lab.mark().processes().into_iter();
        all.find(|it| words_of(it.pid).get(1).is_some_and(|word| word == "keeper")).context("it does not run yet")
    })
    .await
}

fn words_of(pid: u32) -> Vec<String> {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

/// The hub ends completely, its file does not say "stopped on purpose", and the next verb starts another one.
#[tokio::test]
async fn panicking_hub_is_replaced_by_the_next_verb() -> Result<()> {
    for place in ["hub", "hub-task"] {
        let lab = Lab::new()?.with("LINCHPIN_PANIC", place);
        let mut hub = lab.hub().await?;
        let before = lab.hub_facts()?;
        panic(before.pid)?;
        let status = hub.exit(SOON).await.with_context(|| lab.logs())?;
        ensure!(status.code() == Some(1), "{place}: {status}");
        let file = std::fs::read_to_string(lab.home().join("hub.json"))?;
        ensure!(!file.contains("stopped_at"), "{place}: {file}");
        told(&std::fs::read_to_string(lab.home().join("logs/hub-error.log"))?).context(place)?;
        Output::of(lab.linchpin(["status"])).await?.exits(0)?;
        ensure!(lab.hub_facts()?.token == before.token && lab.hub_facts()?.pid != before.pid, "another hub");
        lab.finish().await?;
    }
    Ok(())
}

/// The registrar of an external program unregisters it; the program continues.
#[tokio::test]
async fn panicking_registrar_unregisters_and_spares_the_program() -> Result<()> {
    for place in ["registrar", "registrar-task"] {
        let lab = Lab::new()?.with("LINCHPIN_PANIC", place);
        let program = linchpin_tests::lab::running::Running::start(sleep(&lab), lab.dir().join("out/program.log"))?;
        let pid = program.pid().to_string();
        let words = ["--no-autostart", "register", "--name", "shop", "--pid", &pid, "--url", "http://127.0.0.1:9"];
        let mut registrar = lab.run_in_front("registrar", words)?;
        lab.wait_for("it is registered", async || live(&lab)).await?;
        lab.wait_for("it says so", async || registrar.printed().contains("registered").then_some(()).context("no"))
            .await?;
        panic(registrar.pid())?;
        let status = registrar.exit(SOON).await?;
        ensure!(status.code() == Some(1), "{place}: {status}");
        ensure!(lab.registry_files()?.is_empty(), "{place}: {:?}", lab.registry_files()?);
        told(&registrar.printed()).context(place)?;
        ensure!(program.identity().is_alive(), "{place}: a foreign process was ended");
        program.identity().signal(Signal::KILL)?;
        drop(program);
        lab.finish().await?;
    }
    Ok(())
}

fn sleep(lab: &Lab) -> tokio::process::Command {
    let mut command = lab.command("sleep");
    command.arg("3003");
    command
}

/// A signal during a take-over cancels it at once and leaves nothing, also in the background.
#[tokio::test]
async fn signal_before_registration_leaves_nothing() -> Result<()> {
    let lab = Lab::new()?.with("LINCHPIN_INSTANCE_STOP_TIMEOUT_MS", "60000");
    for (flags, signal) in [(&[][..], Signal::INT), (&[], Signal::TERM), (&["--detach"], Signal::INT)] {
        let stays = ["--no-autostart", "run", "--name", "shop", "--", "sh", "-c", "trap '' TERM; exec sleep 3004"];
        let mut first = lab.run_in_front("first", stays)?;
        running(&lab, "sleep 3004").await?;
        let before = live(&lab)?;
        let words =
            [&["--no-autostart", "run", "--name", "shop", "--take-over"], flags, &["--", "sleep", "3005"]].concat();
        let mut second = lab.run_in_front("second", words)?;
        lab.wait_for("the take-over waits", async || {
            let heard = linchpin_tests::lab::running::catches(second.pid(), Signal::INT)?;
            ensure!(heard, "it does not listen yet");
            ensure!(flags.is_empty() || keeper_of(&lab).await.is_ok(), "no keeper yet");
            Ok(())
        })
        .await?;
        second.signal(signal)?;
        let status = second.exit(SOON).await.with_context(|| lab.logs())?;
        ensure!(status.success() == flags.is_empty(), "{status}: {}", second.printed());
        lab.wait_for("nothing is left of it", async || {
            let all = lab.mark().processes();
            let others: Vec<_> = all.iter().filter(|it| words_of(it.pid).iter().any(|word| word == "3005")).collect();
            ensure!(others.is_empty(), "{others:?}");
            Ok(())
        })
        .await?;
        ensure!(live(&lab)? == before, "the name still belongs to the other instance");
        // The take-over may have sent it one signal already; the second one makes it kill at once.
        for signal in [Signal::TERM, Signal::INT] {
            first.signal(signal)?;
        }
        first.exit(SOON).await?;
        ensure!(lab.registry_files()?.is_empty(), "{:?}", lab.registry_files()?);
    }
    lab.finish().await
}

/// A keeper gives the leftovers of a killed agent as much time as the agent would; a second signal makes it kill at
/// once.
#[tokio::test]
async fn second_signal_makes_a_keeper_kill_at_once() -> Result<()> {
    let lab = Lab::new()?.with("LINCHPIN_INSTANCE_STOP_TIMEOUT_MS", "60000");
    lab.verb(["run", "--name", "shop", "--detach", "--", "sh", "-c", STUBBORN]).await?.exits(0)?;
    let left = running(&lab, "sleep 3001").await?;
    let (keeper, agent) = (keeper_of(&lab).await?, live(&lab)?.process);
    agent.signal(Signal::KILL)?;
    gone(&agent, SOON).await?;
    for signal in [Signal::TERM, Signal::INT] {
        keeper.signal(signal)?;
    }
    gone(&keeper, SOON).await.with_context(|| lab.logs())?;
    ensure!(!left.is_alive(), "killed before the keeper ended");
    Ok(())
}
