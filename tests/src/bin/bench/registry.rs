//! The registry alone: many registrations at the same moment, and reading a thousand records.

use crate::stats::Samples;
use anyhow::{Result, bail, ensure};
use linchpin_shared::home::Home;
use linchpin_shared::registry::{Owner, Registry};
use linchpin_tests::races::wire::{Answer, Order};
use linchpin_tests::races::worker::Worker;
use std::time::Duration;
use tokio::time::Instant;

/// The number of processes that register at once.
pub(crate) const CROWD: usize = 128;
/// How often they register.
const ROUNDS: usize = 5;
/// The number of records in one read.
pub(crate) const RECORDS: usize = 1000;
/// How often they are read.
const SCANS: usize = 50;

/// What was measured.
#[derive(Default)]
pub(crate) struct Measured {
    pub(crate) registered: Samples,
    pub(crate) scanned: Samples,
}

pub(crate) async fn run() -> Result<Measured> {
    let mut measured = Measured::default();
    crowd(&mut measured.registered).await?;
    scans(&mut measured.scanned)?;
    Ok(measured)
}

/// Lets all processes register at the same moment, repeatedly, and fails if one of them is lost.
async fn crowd(samples: &mut Samples) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let home = Home::at(dir.path().join("home"));
    home.prepare()?;
    let mut workers = (0..CROWD).map(|_| Worker::start(home.root())).collect::<Result<Vec<_>>>()?;
    for worker in &mut workers {
        // A worker that has answered once is loaded and waits.
        worker.does(&Order::Scan(1)).await?;
    }
    for _ in 0..ROUNDS {
        for (number, worker) in workers.iter_mut().enumerate() {
            let order = Order::Register { name: format!("i{number}"), project: String::from("/project"), fill: 200 };
            worker.tell(&order).await?;
        }
        for worker in &mut workers {
            match worker.answer().await? {
                Answer::Registered { micros, .. } => samples.add(Duration::from_micros(micros)),
                other @ (Answer::Done | Answer::Refused { .. } | Answer::Read { .. }) => bail!("{other:?}"),
            }
        }
        let scan = Registry::new(&home).scan()?;
        ensure!(
            scan.entries.len() == CROWD && scan.entries.iter().all(|entry| entry.owner == Owner::Alive),
            "one is lost"
        );
        for worker in &mut workers {
            worker.does(&Order::Unregister).await?;
        }
    }
    Ok(())
}

/// Reads many records of live instances, whose leases this process holds.
fn scans(samples: &mut Samples) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let home = Home::at(dir.path().join("home"));
    home.prepare()?;
    let registry = Registry::new(&home);
    let register = |number| -> Result<_> {
        Ok(registry.register(linchpin_tests::races::wire::record(&format!("i{number}"), "/project", 200)?)?)
    };
    let _registered = (0..RECORDS).map(register).collect::<Result<Vec<_>>>()?;
    for _ in 0..SCANS {
        let began = Instant::now();
        let scan = registry.scan()?;
        samples.add(began.elapsed());
        ensure!(scan.entries.len() == RECORDS);
    }
    Ok(())
}
