//! Tidying up after the dead: first what an instance left running, then its record.
//!
//! Owns the order and the work under way. Invariant: the record of a dead instance is there for as long as a process of
//! it runs, so that nobody takes the instance for gone; work never holds up a look at the registry, and the tree of one
//! instance never that of another. Never: ends a process of an instance whose agent lives; the leftovers are the
//! instance crate's to know.

use super::Snapshot;
use super::reconcile::to_sweep;
use linchpin_instance::leftovers;
use linchpin_shared::problem::{Code, Problem};
use linchpin_shared::registry::Registry;
use linchpin_shared::registry::record::Record;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// How often a record that could not be swept is tried again.
const SWEEP_AGAIN: Duration = Duration::from_secs(30);

/// Tidies up after the dead.
pub(super) struct Sweep {
    registry: Registry,
    nudged: Arc<Notify>,
    patience: Duration,
    cancel: CancellationToken,
    running: Option<JoinHandle<Swept>>,
    ending: BTreeMap<Uuid, JoinHandle<()>>,
    in_vain: BTreeSet<Uuid>,
    again: Option<Instant>,
    tidied: bool,
}

/// What came of one round over the records.
struct Swept {
    failed: Vec<(Uuid, Problem)>,
    left: Vec<Arc<Record>>,
}

impl Sweep {
    /// Nothing to do yet. `patience` is how long a process may take to end when it is asked to. A hub that is `cancel`led
    /// leaves the rest to the next one.
    pub(super) fn new(registry: Registry, nudged: Arc<Notify>, patience: Duration, cancel: CancellationToken) -> Self {
        Self {
            registry,
            nudged,
            patience,
            cancel,
            running: None,
            ending: BTreeMap::new(),
            in_vain: BTreeSet::new(),
            again: None,
            tidied: false,
        }
    }

    /// Takes up what is done and begins what is to be done, on threads of its own; it asks for a look when that is done.
    pub(super) async fn tend(&mut self, snapshot: &Snapshot, now: Instant) {
        self.ending.retain(|_, ending| !ending.is_finished());
        if let Some(done) = self.running.take_if(|running| running.is_finished()) {
            self.take(done.await.unwrap_or(Swept { failed: Vec::new(), left: Vec::new() }), now);
        }
        if self.again.is_some_and(|again| now >= again) {
            self.in_vain.clear();
            self.again = None;
        }
        let dead = to_sweep(snapshot, &self.in_vain).into_iter().filter(|id| !self.ending.contains_key(id));
        let dead: Vec<_> = dead.filter_map(|id| Some(Arc::clone(&snapshot.instances.get(&id)?.record))).collect();
        // The first time also when nobody is dead: a hub that was killed may have left something.
        if self.running.is_none() && !(dead.is_empty() && self.tidied) {
            self.tidied = true;
            let (registry, nudged) = (self.registry.clone(), Arc::clone(&self.nudged));
            self.running = Some(tokio::task::spawn_blocking(move || {
                let swept = sweep(&registry, dead);
                if let Err(problem) = registry.tidy() {
                    tracing::debug!(%problem, "cannot remove what the dead left beside records; it does no harm");
                }
                nudged.notify_one();
                swept
            }));
        }
    }

    fn take(&mut self, swept: Swept, now: Instant) {
        for (id, problem) in swept.failed {
            tracing::warn!(%id, %problem, "cannot sweep the record of a dead instance; trying again later");
            self.in_vain.insert(id);
            self.again = Some(now + SWEEP_AGAIN);
        }
        for record in swept.left {
            let (patience, nudged, id) = (self.patience, Arc::clone(&self.nudged), record.id);
            let (runtime, cancel) = (Handle::current(), self.cancel.clone());
            let ending = tokio::task::spawn_blocking(move || {
                // A hub that stops waits for its threads.
                runtime.block_on(cancel.run_until_cancelled(leftovers::end(&record, patience)));
                nudged.notify_one();
            });
            self.ending.insert(id, ending);
        }
    }
}

/// Removes the records of those that left nothing.
fn sweep(registry: &Registry, dead: Vec<Arc<Record>>) -> Swept {
    let left: BTreeSet<Uuid> = match leftovers::among(dead.iter().map(|record| &**record)) {
        Ok(left) => left.into_iter().map(|record| record.id).collect(),
        Err(error) => {
            let problem = Problem::from_io(&error, Code::Internal, "cannot see what a dead instance left running");
            return Swept {
                failed: dead.iter().map(|record| (record.id, problem.clone())).collect(),
                left: Vec::new(),
            };
        }
    };
    let (left, clean): (Vec<_>, Vec<_>) = dead.into_iter().partition(|record| left.contains(&record.id));
    let failed = clean.into_iter().filter_map(|record| Some((record.id, registry.sweep(record.id).err()?))).collect();
    Swept { failed, left }
}
