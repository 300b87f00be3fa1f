//! Machines that sleep, and clocks that are set: the clocks of all processes of a lab are moved while they run.
//!
//! A sleep is simulated by a jump of the boot time while monotonic time continues, which is all that a process sees of
//! it.

use anyhow::{Context, Result, ensure};
use linchpin_shared::process::{Identity, Signal};
use linchpin_tests::clock::Clock;
use linchpin_tests::kit;
use linchpin_tests::lab::Lab;
use linchpin_tests::lab::ledger::Load;
use linchpin_tests::lab::running::{Running, kill_9};
use linchpin_tests::lab::witness::Witness;

use serde_json::Value;
use std::time::Duration;

const NAMES: [&str; 4] = ["shop", "second", "third", "fourth"];
const HOUR: Duration = Duration::from_secs(3600);
const YEAR: i64 = 365 * 24 * 3600;

struct Scene {
    lab: Lab,
    clock: Clock,
    hub: Running,
    witnesses: Vec<Witness>,
    load: Load,
}

impl Scene {
    async fn new() -> Result<Self> {
        let (clock, lab) = Clock::in_lab(Lab::new()?)?;
        let hub = lab.hub().await?;
        for name in NAMES {
            lab.detached(name, &kit::echo(name)?).await?;
        }
        let mut witnesses = Vec::new();
        for name in NAMES {
            witnesses.push(Witness::of(&lab, name).await?);
        }
        let load = Load::start(&lab, "shop__echo-shop", 2).await?;
        load.continues(&lab, 20).await?;
        Ok(Self { lab, clock, hub, witnesses, load })
    }

    /// Waits until the hub has noticed this many absences.
    async fn noticed(&self, absences: u64) -> Result<Value> {
        self.lab
            .wait_for(&format!("{absences} absences"), async || {
                let hub = self.lab.status().await?["hub"].take();
                let seen = hub["network"]["absences"].as_u64().context("no count")?;
                // On a busy machine the hub may get no CPU time for a second, which adds an absence.
                ensure!(seen >= absences, "{hub}");
                Ok(hub)
            })
            .await
    }

    /// Waits until the link with this name has been checked and is active.
    async fn asked(&self, name: &str, why: &str) -> Result<()> {
        self.lab
            .wait_for(&format!("{name} is probed because {why}"), async || {
                let link = self.lab.link(name).await?;
                ensure!(link["transitions"].to_string().contains(why) && link["state"] == "active", "{link}");
                Ok(())
            })
            .await
    }

    /// Checks that nothing happened: no call was lost, no link connected again, nothing restarted.
    async fn ends_as_it_began(self) -> Result<()> {
        let Self { lab, hub, witnesses, load, .. } = self;
        load.continues(&lab, 20).await?;
        let load = load.finish().await?;
        ensure!(load.interrupted + load.refused == 0, "{load:?}");
        for witness in witnesses {
            witness.untouched(&lab).await.with_context(|| lab.logs())?;
        }
        ensure!(lab.hub_facts()?.pid == hub.pid(), "the same hub");
        lab.finish().await
    }
}

/// Fault 48: eight hours of sleep. Every link is checked at once, one instance wakes later than the hub, and recovery
/// is held; nothing is restarted and no link connects again.
#[tokio::test]
async fn links_are_checked_and_kept_after_a_night_of_sleep() -> Result<()> {
    let mut scene = Scene::new().await?;
    let late = Identity::of(scene.witnesses[3].pid()?)?;
    late.signal(Signal::STOP)?;
    scene.clock.sleep(HOUR * 8)?;
    let hub = scene.noticed(1).await?;
    late.signal(Signal::CONT)?;
    let slept = hub["network"]["last_absence"]["asleep_ms"].as_u64().context("how long")?;
    ensure!(slept.abs_diff(8 * 3_600_000) < 1000, "{hub}");
    for name in NAMES {
        scene.asked(name, "the machine slept").await?;
    }
    let hold = scene
        .lab
        .wait_for("the ladder is not climbed", async || {
            let hold = scene.lab.status().await?["hub"]["hold"].take();
            ensure!(hold["why"].as_str().is_some_and(|why| why.contains("away")), "{hold}");
            Ok(hold)
        })
        .await?;
    let health: Value = reqwest::get(format!("{}/health", scene.lab.hub_facts()?.url)).await?.json().await?;
    ensure!(health["status"] == "ok" && health["checks"]["machine"] == hold["why"], "{health}");
    scene.ends_as_it_began().await
}

/// Fault 49: short wakes with sleep between them cause no new connection.
#[tokio::test]
async fn dark_wakes_make_no_new_connection() -> Result<()> {
    let mut scene = Scene::new().await?;
    for wake in 1..=8 {
        scene.clock.sleep(HOUR / 60)?;
        scene.noticed(wake).await?;
    }
    for name in NAMES {
        scene.asked(name, "the machine slept").await?;
    }
    scene.ends_as_it_began().await
}

/// Fault 47: the time of day changes by an hour and by ten years in both directions, and to 1970.
#[tokio::test]
async fn time_of_day_changes_move_no_timer() -> Result<()> {
    let scene = Scene::new().await?;
    for seconds in [3600, -3600, 10 * YEAR, -10 * YEAR, -56 * YEAR] {
        scene.clock.time_of_day_off_by(seconds)?;
        scene.load.continues(&scene.lab, 20).await?;
        let hub = scene.lab.status().await?["hub"].take();
        ensure!(hub["uptime_seconds"].as_u64().is_some_and(|uptime| uptime < 120), "{hub}");
        ensure!(
            hub["network"]["last_absence"]["asleep_ms"].as_u64().unwrap_or_default() < 1000,
            "a sleep was detected: {hub}"
        );
    }
    scene.ends_as_it_began().await
}

/// Fault 47: a generation that starts in 1970, by its own clock, follows one of this century, and is the newer one.
#[tokio::test]
async fn generation_that_starts_in_1970_is_still_the_newer_one() -> Result<()> {
    let (clock, lab) = Clock::in_lab(Lab::new()?)?;
    let _hub = lab.hub().await?;
    lab.detached("shop", &kit::echo("shop")?).await?;
    let first = lab.usable("shop").await?;
    clock.time_of_day_off_by(-56 * YEAR)?;
    kill_9(Witness::of(&lab, "shop").await?.pid()?).await?;
    let second = lab.wait_for("the next run is usable", async || {
        let instance = lab.instance_status("shop").await?;
        ensure!(instance["generation"] != first["generation"] && instance["state"] == "active", "{instance}");
        Ok(instance)
    });
    let second = second.await?;
    ensure!(second["registered_at"].as_str().is_some_and(|at| at.starts_with("197")), "{second}");
    Witness::of(&lab, "shop").await?;
    lab.finish().await
}
