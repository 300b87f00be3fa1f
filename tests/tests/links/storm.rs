//! Many links at once: they are dialled no faster than the limiter allows, and each is dialled once.

use anyhow::{Context, Result, ensure};
use linchpin_shared::home::Home;
use linchpin_tests::kit;
use linchpin_tests::lab::Lab;
use linchpin_tests::lab::witness::Witness;
use linchpin_tests::sim::Sim;
use tokio::time::Instant;

/// The number of simulated instances, with the real hello and messages.
const MANY: usize = 200;
/// Dials per second, and the burst of the limiter (`link.dials_per_second`).
const RATE: f64 = 50.0;
const BURST: f64 = 10.0;

/// Waits until this many instances are in this state.
async fn wait_for_state(lab: &Lab, state: &str, number: usize) -> Result<()> {
    lab.wait_for(&format!("{number} are {state}"), async || {
        let status = lab.status().await?;
        let instances = status["instances"].as_array().context("no instances")?;
        let found = instances.iter().filter(|instance| instance["state"] == state).count();
        ensure!(found == number, "{found} are");
        Ok(())
    })
    .await
}

/// Faults 45 and 57: all links but one are cut in the same moment.
#[tokio::test]
async fn lost_links_are_redialled_at_the_rate_of_the_limiter() -> Result<()> {
    let lab = Lab::new()?;
    let hub = lab.hub().await?;
    lab.detached("other", &kit::echo("other")?).await?;
    let home = Home::at(lab.home());
    let mut sims = Vec::new();
    for number in 0..MANY {
        sims.push(Sim::start(&home, &format!("sim-{number}")).await?);
    }
    wait_for_state(&lab, "active", MANY + 1).await?;
    let other = Witness::of(&lab, "other").await?;

    let began = Instant::now();
    sims.iter().for_each(Sim::cut);
    lab.wait_for("all are dialled again", async || {
        // Counted before the clock is read, so that a delay allows more dials and never fewer.
        let dialled = sims.iter().filter(|sim| sim.accepted() > 1).count();
        let allowed = BURST + RATE * began.elapsed().as_secs_f64() + 1.0;
        assert!(dialled as f64 <= allowed, "{dialled} were dialled, at most {allowed:.0} may be by now");
        ensure!(dialled == MANY, "{dialled} are");
        Ok(())
    })
    .await?;
    wait_for_state(&lab, "active", MANY + 1).await?;
    ensure!(sims.iter().all(|sim| sim.accepted() == 2), "each is dialled once");
    assert_eq!(lab.hub_facts()?.pid, hub.pid());
    other.untouched(&lab).await?;
    for sim in sims {
        sim.leave()?;
    }
    wait_for_state(&lab, "gone", MANY).await?;
    lab.finish().await
}
