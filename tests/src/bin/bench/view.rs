//! Waits until the hub's list of instances is as wanted.

use crate::wire::Wire;
use anyhow::{Context, Result, ensure};
use linchpin_shared::home::Home;
use linchpin_tests::lab::{HubFacts, Lab};
use linchpin_tests::sim::Sim;
use serde_json::Value;
use std::time::Duration;
use tokio::time::Instant;

/// The time after which a wait has failed.
const WITHIN: Duration = Duration::from_secs(60);

/// The pause between two requests, because the hub needs CPU time to write a long list.
const LONG: usize = 100;

/// The hub's list of instances.
pub(crate) struct View(HubFacts);

impl View {
    /// The view of the hub that `hub.json` names.
    pub(crate) fn of(lab: &Lab) -> Result<Self> {
        Ok(Self(lab.hub_facts()?))
    }

    /// Asks repeatedly over one connection; the hub closes one that is idle for long.
    pub(crate) async fn until(&self, what: &str, wanted: impl Fn(&[Value]) -> bool) -> Result<()> {
        let mut wire = Wire::connect(&self.0.url, &self.0.token).await?;
        let deadline = Instant::now() + WITHIN;
        loop {
            let (status, body) = wire.get("/v1/instances").await?;
            ensure!(status.is_success(), "{status}");
            let list: Value = serde_json::from_slice(&body)?;
            let all = list["instances"].as_array().context("no list")?;
            if wanted(all) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{what}: not after {WITHIN:?}; {} are active", active(all));
            let pause = if all.len() > LONG { 50 } else { 1 };
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }

    /// The same with a request that is cheap for the hub, however many instances there are.
    pub(crate) async fn until_active(&self, number: usize) -> Result<()> {
        let mut wire = Wire::connect(&self.0.url, &self.0.token).await?;
        let deadline = Instant::now() + WITHIN;
        loop {
            let (_, body) = wire.get("/health").await?;
            let health: Value = serde_json::from_slice(&body)?;
            if health["connections"].as_u64().context("no connections")? >= number as u64 {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "not {number} after {WITHIN:?}: {health}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// The number of connected instances.
pub(crate) fn active(all: &[Value]) -> usize {
    all.iter().filter(|instance| instance["state"] == "active").count()
}

/// The state of one instance.
pub(crate) fn state<'a>(all: &'a [Value], name: &str) -> Option<&'a str> {
    all.iter().find(|instance| instance["name"] == name).and_then(|instance| instance["state"].as_str())
}

/// Adds instances up to this number, and waits until all are connected.
pub(crate) async fn crowd(home: &Home, view: &View, sims: &mut Vec<Sim>, number: usize) -> Result<()> {
    while sims.len() < number {
        sims.push(Sim::start(home, &format!("sim-{}", sims.len())).await?);
    }
    view.until_active(number).await
}
