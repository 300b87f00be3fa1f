//! Which instances exist.
//!
//! Owns the snapshot of the registry that the rest of the hub reads. Invariant: a snapshot is whole; readers compare
//! snapshots and keep nothing else. Never: opens connections.

use linchpin_shared::registry::record::Record;
use linchpin_shared::registry::{Owner, Rejected};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::{Notify, watch};
use uuid::Uuid;

/// What the registry shows.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// The instances by their ids.
    pub instances: BTreeMap<Uuid, Found>,
    /// Files that cannot be believed.
    pub rejected: Vec<Rejected>,
}

/// An instance that the registry shows.
#[derive(Debug, Clone)]
pub struct Found {
    /// Its record.
    pub record: Arc<Record>,
    /// Whether its owner lives.
    pub owner: Owner,
}

/// The way to what discovery finds.
#[derive(Debug, Clone)]
pub struct Discovery {
    /// The last snapshot, and every new one.
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
    nudged: Arc<Notify>,
}

impl Discovery {
    /// Asks for a look at the registry now: a link lost its peer, or somebody wants to know.
    pub fn nudge(&self) {
        self.nudged.notify_one();
    }
}
