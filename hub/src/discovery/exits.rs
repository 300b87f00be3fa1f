//! Hearing of the death of instances, from the kernel.
//!
//! Owns one waiting task for each live process in the snapshot. Invariant: an exit only ever asks for a look, since the
//! lease alone proves death; each process is waited for once, so one that cannot be seen does not cause looks for ever.
//! Never: polls where the kernel can tell.

use super::Snapshot;
use linchpin_shared::process::exited;
use linchpin_shared::registry::Owner;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

/// The processes that are waited for.
#[derive(Debug, Default)]
pub(super) struct Exits {
    /// By instance: which life of it.
    waiting: BTreeMap<Uuid, (Uuid, AbortOnDropHandle<()>)>,
}

impl Exits {
    /// Waits for the live instances of this snapshot, and for no others.
    pub(super) fn follow(&mut self, snapshot: &Snapshot, nudged: &Arc<Notify>) {
        let alive = |id: &Uuid| snapshot.instances.get(id).filter(|found| found.owner == Owner::Alive);
        self.waiting
            .retain(|id, (generation, _)| alive(id).is_some_and(|found| found.record.generation == *generation));
        for (id, found) in &snapshot.instances {
            if found.owner == Owner::Alive && !self.waiting.contains_key(id) {
                let (exit, nudged) = (exited(&found.record.process), Arc::clone(nudged));
                let task = tokio::spawn(async move {
                    exit.await;
                    nudged.notify_one();
                });
                self.waiting.insert(*id, (found.record.generation, AbortOnDropHandle::new(task)));
            }
        }
    }
}
