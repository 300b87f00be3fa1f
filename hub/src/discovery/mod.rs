//! Which instances exist.
//!
//! Owns the snapshot of the registry that the rest of the hub reads. Invariant: a snapshot is whole; readers compare
//! snapshots and keep nothing else. An instance leaves it only when it unregistered or its owner is proven dead: a record
//! that cannot be read, a directory that was removed, or a scan that failed are no such proof. Events from the file
//! system only ever mean "look soon", and the registry is read every few polls whether or not one came.
//! Never: opens connections, or decides anything by age.

mod actor;
mod ear;
mod exits;
mod look;
mod quarantine;
mod reconcile;
mod suspects;
mod sweep;
#[cfg(test)]
mod tests;
mod watching;

use actor::Actor;
use linchpin_shared::problem::Problem;
use linchpin_shared::registry::record::Record;
use linchpin_shared::registry::{Aside, Owner, Registry, Rejected};
use linchpin_shared::settings::Settings;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;
use watching::Watching;

/// What the registry shows.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Snapshot {
    /// The instances by their ids.
    pub instances: BTreeMap<Uuid, Found>,
    /// Those that were proven dead and whose records were swept, for a while: a reader that looks late must still be able
    /// to tell a death from a goodbye.
    pub swept: BTreeMap<Uuid, Arc<Record>>,
    /// Files that cannot be believed, and those that were put aside last.
    pub rejected: Vec<Rejected>,
    /// How much was put aside.
    pub aside: Aside,
}

/// An instance that the registry shows.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// Its record.
    pub record: Arc<Record>,
    /// Whether its owner lives.
    pub owner: Owner,
}

/// How long things take.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// The registry is read at least once in this time where changes are not heard, and in five times this where they are.
    pub poll: Duration,
    /// How long a process that a dead instance left may take to end when it is asked to.
    pub stop: Duration,
}

impl From<&Settings> for Times {
    fn from(settings: &Settings) -> Self {
        Self { poll: settings.discovery.poll, stop: settings.instance.stop_timeout }
    }
}

/// What keeps discovery from seeing everything at once.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Senses {
    /// Why changes are not heard of, so that polling alone finds them.
    pub deaf: Option<Problem>,
    /// Why the registry cannot be read. What was known stays.
    pub blind: Option<Problem>,
}

/// The way to what discovery finds.
#[derive(Debug, Clone)]
pub struct Discovery {
    /// The last snapshot, and every new one.
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
    /// What is wrong with looking, now and whenever that changes.
    pub senses: watch::Receiver<Senses>,
    nudged: Arc<Notify>,
}

impl Discovery {
    /// Watches the registry until cancelled.
    #[must_use]
    pub fn start(registry: Registry, times: Times, cancel: CancellationToken, tasks: &TaskTracker) -> Self {
        let watching = Watching::new(registry.dir());
        Self::spawn(registry, times, watching, cancel, tasks)
    }

    fn spawn(
        registry: Registry,
        times: Times,
        watching: Watching,
        cancel: CancellationToken,
        tasks: &TaskTracker,
    ) -> Self {
        let nudged = Arc::new(Notify::new());
        let (publish, snapshot) = watch::channel(Arc::default());
        let (feel, senses) = watch::channel(Senses::default());
        tasks.spawn(Actor::new(registry, times, watching, Arc::clone(&nudged), publish, feel, cancel).run());
        Self { snapshot, senses, nudged }
    }

    /// Asks for a look at the registry now: a link lost its peer, or somebody wants to know.
    pub fn nudge(&self) {
        self.nudged.notify_one();
    }
}
