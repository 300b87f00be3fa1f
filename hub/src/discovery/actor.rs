//! The task that keeps the snapshot true.
//!
//! Owns when to look and publishing what follows. Invariant: looks never overlap, and between two there is always a
//! pause in proportion to what a look costs, so a storm of events cannot take the machine.
//! Never: waits for a sweep, which may have to wait for a lock.

use super::exits::Exits;
use super::look::{Directory, Look};
use super::quarantine::Quarantine;
use super::reconcile::{reconcile, to_sweep};
use super::watching::Watching;
use super::{Found, Snapshot};
use linchpin_shared::problem::Problem;
use linchpin_shared::registry::Registry;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// How often is looked while there is no registry directory: the first instance to write its record makes it again.
const POLL_WHILE_LOST: Duration = Duration::from_millis(100);

/// How long after the directory was lost instances may take to write their records again. They look every second.
const GRACE: Duration = Duration::from_secs(5);

/// How often a record that could not be swept is tried again.
const SWEEP_AGAIN: Duration = Duration::from_secs(30);

/// How long a swept instance is remembered. Readers follow within milliseconds.
const REMEMBER_SWEPT: Duration = Duration::from_secs(60);

/// A look is followed by a pause of this many times its own length.
const PAUSE: u32 = 2;

pub(super) struct Actor {
    registry: Registry,
    poll: Duration,
    watching: Watching,
    nudged: Arc<Notify>,
    publish: watch::Sender<Arc<Snapshot>>,
    exits: Exits,
    directory: Option<Directory>,
    awaited: BTreeSet<Uuid>,
    await_until: Option<Instant>,
    blind: bool,
    sweep: Sweep,
    quarantine: Quarantine,
    swept_at: BTreeMap<Uuid, Instant>,
}

/// Removing the records of the dead.
#[derive(Default)]
struct Sweep {
    running: Option<JoinHandle<Vec<(Uuid, Problem)>>>,
    in_vain: BTreeSet<Uuid>,
    again: Option<Instant>,
}

impl Actor {
    pub(super) fn new(
        registry: Registry,
        poll: Duration,
        watching: Watching,
        nudged: Arc<Notify>,
        publish: watch::Sender<Arc<Snapshot>>,
    ) -> Self {
        Self {
            registry,
            poll,
            watching,
            nudged,
            publish,
            exits: Exits::default(),
            directory: None,
            awaited: BTreeSet::new(),
            await_until: None,
            blind: false,
            sweep: Sweep::default(),
            quarantine: Quarantine::default(),
            swept_at: BTreeMap::new(),
        }
    }

    pub(super) async fn run(mut self, cancel: CancellationToken) {
        loop {
            let began = Instant::now();
            self.watch_directory(began);
            if let Some(look) = self.look().await {
                if let Ok(scan) = &look.scan {
                    self.quarantine.follow(&scan.rejected, &self.registry, &self.nudged, Instant::now()).await;
                }
                self.take(look);
            }
            self.sweep(began).await;
            tokio::select! {
                () = cancel.cancelled() => return,
                () = self.wait(began.elapsed() * PAUSE) => {}
            }
        }
    }

    /// Until the next look is due.
    async fn wait(&self, pause: Duration) {
        let poll = if self.directory.is_some() { self.poll } else { self.poll.min(POLL_WHILE_LOST) };
        sleep(pause).await;
        let _ = timeout(self.quarantine.pace(poll), self.nudged.notified()).await;
    }

    /// Watches the directory that is there now. This comes before the look, so that between both nothing is missed.
    fn watch_directory(&mut self, now: Instant) {
        if !self.directory.as_ref().is_some_and(|directory| directory.is_at(self.registry.dir())) {
            if self.directory.is_some() {
                tracing::info!(dir = %self.registry.dir().display(), "the registry directory was removed or replaced");
                self.awaited = self.publish.borrow().instances.keys().copied().collect();
            }
            self.watching.disarm();
            self.directory = Directory::at(self.registry.dir()).ok();
            self.await_until = Some(now + GRACE);
        }
        if self.directory.is_some() {
            self.watching.arm(now);
        }
        if self.await_until.is_some_and(|until| now >= until) {
            self.awaited.clear();
        }
    }

    /// `None` when the runtime is shutting down.
    async fn look(&self) -> Option<Look> {
        let (registry, known) = (self.registry.clone(), Arc::clone(&self.publish.borrow()));
        tokio::task::spawn_blocking(move || Look::take(&registry, &known)).await.ok()
    }

    fn take(&mut self, look: Look) {
        let before = Arc::clone(&self.publish.borrow());
        self.awaited.retain(|id| look.traces.contains_key(id));
        let error = look.scan.as_ref().err().map(ToString::to_string);
        let Some(mut after) = reconcile(&before, look, &self.awaited) else {
            if !std::mem::replace(&mut self.blind, true) {
                tracing::warn!(dir = %self.registry.dir().display(), error, "cannot read the registry; what was known stays");
            }
            return;
        };
        self.blind = false;
        self.forget_swept(&mut after, Instant::now());
        if after != *before {
            tell(&before, &after);
            self.exits.follow(&after, &self.nudged);
            self.publish.send_replace(Arc::new(after));
        }
    }

    /// Lets go of the memory of those that were swept long ago.
    fn forget_swept(&mut self, snapshot: &mut Snapshot, now: Instant) {
        self.swept_at.retain(|id, _| snapshot.swept.contains_key(id));
        snapshot.swept.retain(|id, _| now < *self.swept_at.entry(*id).or_insert(now) + REMEMBER_SWEPT);
    }

    /// Removes the records of the dead, on a thread of its own, and asks for a look when that is done.
    async fn sweep(&mut self, now: Instant) {
        let sweep = &mut self.sweep;
        if let Some(done) = sweep.running.take_if(|running| running.is_finished()) {
            for (id, problem) in done.await.unwrap_or_default() {
                tracing::warn!(%id, %problem, "cannot sweep the record of a dead instance; trying again later");
                sweep.in_vain.insert(id);
                sweep.again = Some(now + SWEEP_AGAIN);
            }
        }
        if sweep.again.is_some_and(|again| now >= again) {
            sweep.in_vain.clear();
            sweep.again = None;
        }
        let dead = to_sweep(&self.publish.borrow(), &sweep.in_vain);
        if sweep.running.is_none() && !dead.is_empty() {
            let (registry, nudged) = (self.registry.clone(), Arc::clone(&self.nudged));
            sweep.running = Some(tokio::task::spawn_blocking(move || {
                let failed = dead.into_iter().filter_map(|id| Some((id, registry.sweep(id).err()?))).collect();
                nudged.notify_one();
                failed
            }));
        }
    }
}

/// Says what a user recognises: who came, who went, and what cannot be believed.
fn tell(before: &Snapshot, after: &Snapshot) {
    let lives = |snapshot: &Snapshot| -> BTreeMap<Uuid, Found> {
        snapshot.instances.values().map(|found| (found.record.generation, found.clone())).collect()
    };
    let (old, new) = (lives(before), lives(after));
    for found in new.values().filter(|found| !old.contains_key(&found.record.generation)) {
        tracing::info!(name = found.record.name, id = %found.record.id, owner = ?found.owner, "instance found");
    }
    for found in old.values().filter(|found| !new.contains_key(&found.record.generation)) {
        tracing::info!(name = found.record.name, id = %found.record.id, "instance gone from the registry");
    }
    let known: BTreeSet<&PathBuf> = before.rejected.iter().map(|rejected| &rejected.path).collect();
    for rejected in after.rejected.iter().filter(|rejected| !known.contains(&rejected.path)) {
        tracing::warn!(path = %rejected.path.display(), problem = %rejected.problem, "a record cannot be believed");
    }
}
