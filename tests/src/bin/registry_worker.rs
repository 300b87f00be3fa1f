//! A process that carries out orders on the registry, for the races and the crash points: orders on standard input,
//! answers on standard output, one JSON value per line. It ends with its input, without unregistering.

use anyhow::Result;
use linchpin_shared::home::Home;
use linchpin_shared::problem::Problem;
use linchpin_shared::registry::{Lease, Registration, Registry};
use linchpin_tests::races::wire::{self, Answer, Order};
use std::io::{BufRead, Write};
use std::time::Duration;
use tokio::time::Instant;

struct Worker {
    registry: Registry,
    registration: Option<Registration>,
    lock: Option<Lease>,
}

fn main() -> Result<()> {
    let mut worker = Worker { registry: Registry::new(&Home::from_env()?), registration: None, lock: None };
    let mut output = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let answer = match worker.obey(serde_json::from_str(&line?)?)? {
            Ok(answer) => answer,
            Err(problem) => problem.into(),
        };
        writeln!(output, "{}", serde_json::to_string(&answer)?)?;
        output.flush()?;
    }
    Ok(())
}

impl Worker {
    fn obey(&mut self, order: Order) -> Result<Result<Answer, Problem>> {
        let registry = &self.registry;
        Ok(match order {
            Order::Register { name, project, fill } => {
                let record = wire::record(&name, &project, fill)?;
                let (generation, began) = (record.generation, Instant::now());
                registry.register(record).map(|registration| {
                    self.registration = Some(registration);
                    Answer::Registered { generation, micros: u64::try_from(began.elapsed().as_micros()).unwrap_or(0) }
                })
            }
            Order::Update { port, fill } => {
                self.with(|registration| registration.update(|record| wire::refill(record, port, fill)))
            }
            Order::Ensure => self.with(|registration| registration.ensure().map(drop)),
            Order::Unregister => done(self.registration.take().map_or(Ok(()), Registration::unregister)),
            Order::LetGo => {
                self.registration = None;
                done(Ok(()))
            }
            Order::Scan(times) => Ok(read(registry, times)?),
            Order::Sweep => done(sweep(registry)),
            Order::Tidy => done(registry.tidy()),
            Order::Quarantine => done(
                registry
                    .scan()
                    .unwrap_or_default()
                    .rejected
                    .iter()
                    .try_for_each(|file| registry.quarantine(file).map(drop)),
            ),
            Order::Lock => {
                self.lock = Lease::acquire(&registry.dir().join(".lock"), Duration::from_secs(5))?;
                done(Ok(()))
            }
        })
    }

    fn with(&mut self, act: impl FnOnce(&mut Registration) -> Result<(), Problem>) -> Result<Answer, Problem> {
        done(self.registration.as_mut().map_or(Ok(()), act))
    }
}

fn done(outcome: Result<(), Problem>) -> Result<Answer, Problem> {
    outcome.map(|()| Answer::Done)
}

/// Sweeps every record, also those of live owners, because the sweep itself must distinguish them.
fn sweep(registry: &Registry) -> Result<(), Problem> {
    let entries = registry.scan().unwrap_or_default().entries;
    entries.iter().try_for_each(|entry| registry.sweep(entry.record.id).map(drop))
}

fn read(registry: &Registry, times: u32) -> Result<Answer> {
    let (mut rejected, mut torn) = (Vec::new(), Vec::new());
    for _ in 0..times {
        // A directory that is missing for a moment contains nothing.
        let Ok(scan) = registry.scan() else { continue };
        rejected.extend(scan.rejected.into_iter().map(|file| file.path));
        torn.extend(
            scan.entries.iter().filter_map(|entry| Some(format!("{:#}", wire::is_whole(&entry.record).err()?))),
        );
    }
    rejected.sort();
    rejected.dedup();
    Ok(Answer::Read { rejected, torn })
}
