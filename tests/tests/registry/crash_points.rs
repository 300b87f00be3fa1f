//! Kills at every step: each system call that changes a file of the home is in turn the last one of a process, and the
//! state afterwards is checked. A preloaded library counts the calls and kills.

use anyhow::{Context, Result, ensure};
use linchpin_shared::home::Home;
use linchpin_shared::registry::{Owner, Registry};
use linchpin_tests::lab::Lab;
use linchpin_tests::lab::running::Running;
use linchpin_tests::preload;
use linchpin_tests::races::driver::nothing_else;
use linchpin_tests::races::wire::{Answer, Order, is_whole};
use linchpin_tests::races::worker::Worker;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;
use tokio::process::Command;

/// More steps than any action here has; reaching it means that the test is wrong.
const MOST: u32 = 300;

fn register(name: &str) -> Order {
    Order::Register { name: name.into(), project: "/project".into(), fill: 100 }
}

/// Makes a command die right before its `at`-th step in `home`.
fn crash_at<'a>(command: &'a mut Command, library: &Path, home: &Path, at: u32) -> &'a mut Command {
    command.env("LD_PRELOAD", library).env("CRASH_HOME", home).env("CRASH_AT", at.to_string())
}

struct CrashLab {
    _dir: TempDir,
    home: Home,
    registry: Registry,
    library: PathBuf,
    bystander: Worker,
}

impl CrashLab {
    async fn new() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let home = Home::at(dir.path().join("home"));
        home.prepare()?;
        let mut bystander = Worker::start(home.root())?;
        bystander.does(&register("bystander")).await?;
        let registry = Registry::new(&home);
        Ok(Self { _dir: dir, registry, home, library: preload::library("crash")?, bystander })
    }

    /// Lets a worker carry out these orders and die at each step in turn, with `before` called each time. Returns the
    /// number of steps.
    async fn die_at_every_step(&mut self, orders: &[Order], before: impl AsyncFn(&Self) -> Result<()>) -> Result<u32> {
        for at in 1..MOST {
            before(self).await?;
            let died = self.dies(orders, at).await?;
            self.check().await.with_context(|| format!("after a death before step {at} of {orders:?}"))?;
            if !died {
                return Ok(at - 1);
            }
        }
        anyhow::bail!("{orders:?} has more than {MOST} steps")
    }

    /// Whether a worker died before it had carried out the orders.
    async fn dies(&self, orders: &[Order], at: u32) -> Result<bool> {
        let mut command = Command::new(linchpin_tests::kit::program("registry-worker")?);
        let mut worker = Worker::with(self.home.root(), crash_at(&mut command, &self.library, self.home.root(), at))?;
        for order in orders {
            if worker.tell(order).await.is_err() {
                return Ok(true);
            }
            match worker.answer().await {
                Ok(Answer::Refused { code, detail }) => anyhow::bail!("{order:?} was refused: {code:?} {detail}"),
                Ok(Answer::Registered { .. } | Answer::Done | Answer::Read { .. }) => {}
                Err(_) => return Ok(true),
            }
        }
        worker.kill_9().await?;
        Ok(false)
    }

    /// Checks the registry at once, and again after the next registration and a cleanup.
    async fn check(&mut self) -> Result<()> {
        let scan = self.registry.scan()?;
        scan.entries.iter().try_for_each(|entry| is_whole(&entry.record))?;
        let junk = self.registry.dir().join(JUNK);
        ensure!(scan.rejected.iter().all(|rejected| rejected.path == junk), "not readable: {:?}", scan.rejected);
        let living: Vec<_> = scan.entries.iter().filter(|entry| entry.owner == Owner::Alive).collect();
        ensure!(living.len() == 1 && living[0].record.name == "bystander", "alive: {living:?}");

        let mut next = Worker::start(self.home.root())?;
        next.does(&register("shop")).await.context("its name is free")?;
        let living = self.registry.scan()?.entries.into_iter().filter(|entry| entry.owner == Owner::Alive).count();
        ensure!(living == 2, "{living} live");
        for order in [Order::Unregister, Order::Quarantine, Order::Sweep, Order::Tidy] {
            next.does(&order).await?;
        }
        let scan = self.registry.scan()?;
        ensure!(scan.entries.len() == 1 && scan.rejected.is_empty(), "left: {scan:?}");
        nothing_else(&self.home, &scan)?;
        self.bystander.does(&Order::Ensure).await
    }
}

const JUNK: &str = "00000000-0000-0000-0000-000000000007.json";

/// Fault 3: registering, updating, restoring and unregistering.
#[tokio::test]
async fn instance_killed_at_any_step_leaves_a_whole_registry() -> Result<()> {
    let mut scene = CrashLab::new().await?;
    let orders = [register("shop"), Order::Update { port: 2, fill: 5000 }, Order::Ensure, Order::Unregister];
    let steps = scene.die_at_every_step(&orders, async |_| Ok(())).await?;
    ensure!(steps > 20, "only {steps} steps were seen: the library sees too little");
    Ok(())
}

/// Fault 3: restoring a removed record.
#[tokio::test]
async fn owner_killed_while_rewriting_its_record_leaves_nothing() -> Result<()> {
    let mut scene = CrashLab::new().await?;
    let orders = [register("shop"), Order::LetGo, Order::Sweep, register("shop"), Order::Ensure];
    let steps = scene.die_at_every_step(&orders, async |_| Ok(())).await?;
    ensure!(steps > 20, "only {steps} steps were seen");
    Ok(())
}

/// Fault 3: sweeping, quarantining and cleaning up.
#[tokio::test]
async fn cleanup_killed_at_any_step_is_finished_by_the_next() -> Result<()> {
    let mut scene = CrashLab::new().await?;
    let dead = async |scene: &CrashLab| -> Result<()> {
        let mut dead = Worker::start(scene.home.root())?;
        dead.does(&register("shop")).await?;
        dead.kill_9().await?;
        for (file, text) in [(JUNK, "{"), (".new-1-1-x", "{"), ("00000000-0000-0000-0000-000000000008.lease", "")] {
            let path = scene.registry.dir().join(file);
            std::fs::write(&path, text)?;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        }
        Ok(())
    };
    let steps = scene.die_at_every_step(&[Order::Sweep, Order::Quarantine, Order::Tidy], dead).await?;
    ensure!(steps > 15, "only {steps} steps were seen");
    Ok(())
}

/// Whether a hub completed its start and its stop.
async fn starts_and_stops(lab: &Lab, mut hub: Running) -> Result<bool> {
    let pid = hub.pid();
    lab.wait_for("the hub serves or has died", async || {
        let serves = lab.hub_facts().is_ok_and(|facts| facts.pid == pid);
        ensure!(serves || hub.ended()?.is_some(), "neither");
        Ok(())
    })
    .await?;
    if hub.ended()?.is_none() {
        let _ = hub.identity().signal(linchpin_shared::process::Signal::TERM);
    }
    Ok(hub.exit(Duration::from_secs(20)).await?.signal().is_none())
}

/// Fault 3: the start and the stop of the hub. The next hub serves with the same token.
#[tokio::test]
async fn hub_killed_at_any_step_is_followed_by_one_that_serves() -> Result<()> {
    let lab = Lab::new()?;
    let library = preload::library("crash")?;
    let mut first = lab.hub().await?;
    let token = lab.hub_facts()?.token;
    first.kill_9().await?;
    for at in 1..MOST {
        let mut command = lab.linchpin(["hub"]);
        crash_at(&mut command, &library, &lab.home(), at);
        let finished = match Running::start(command, lab.dir().join("out/crashing.log")) {
            Ok(hub) => starts_and_stops(&lab, hub).await?,
            // It died before its identity was read.
            Err(error) if format!("{error:#}").contains("ended at once") => false,
            Err(error) => return Err(error),
        };

        let mut next = lab.hub().await.with_context(|| format!("after a death before step {at}"))?;
        ensure!(lab.hub_facts()?.token == token, "another token after a death before step {at}");
        let home = Home::at(lab.home());
        lab.wait_for("its leftovers are removed", async || nothing_else(&home, &Registry::new(&home).scan()?)).await?;
        next.kill_9().await?;
        if finished {
            ensure!(at > 15, "only {at} steps were seen");
            return Ok(());
        }
    }
    anyhow::bail!("start and stop have more than {MOST} steps")
}
