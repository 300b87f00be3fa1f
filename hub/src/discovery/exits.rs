//! Hearing of the death of instances, from the kernel.
//!
//! Owns one waiting task for each process that has live instances in the snapshot. Invariant: an exit only ever asks for
//! a look, since the lease alone proves death; each process is waited for once, however many instances it is, and one
//! that cannot be seen does not cause looks for ever.
//! Never: polls where the kernel can tell.

use super::Snapshot;
use linchpin_shared::process::{Identity, exited};
use linchpin_shared::registry::Owner;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

/// The processes that are waited for.
#[derive(Debug, Default)]
pub(super) struct Exits {
    /// By pid and start.
    waiting: BTreeMap<(u32, u64), AbortOnDropHandle<()>>,
}

impl Exits {
    /// Waits for the processes of the live instances of this snapshot, and for no others.
    pub(super) fn follow(&mut self, snapshot: &Snapshot, nudged: &Arc<Notify>) {
        let alive = snapshot.instances.values().filter(|found| found.owner == Owner::Alive);
        let alive: BTreeMap<_, &Identity> = alive
            .map(|found| &found.record.process)
            .map(|process| ((process.pid, process.start_ticks), process))
            .collect();
        self.waiting.retain(|process, _| alive.contains_key(process));
        for (key, process) in alive {
            self.waiting.entry(key).or_insert_with(|| {
                let (exit, nudged) = (exited(process), Arc::clone(nudged));
                AbortOnDropHandle::new(tokio::spawn(async move {
                    exit.await;
                    nudged.notify_one();
                }))
            });
        }
    }
}
