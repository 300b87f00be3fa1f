//! The task that keeps the snapshot true.
//!
//! Owns when to look and publishing what follows. Invariant: looks never overlap, and between two there is always a
//! pause in proportion to what a look costs, so a storm of events cannot take the machine.
//! Never: waits for a sweep, which may have to wait for a lock.

use super::exits::Exits;
use super::look::{Directory, Look, Sight};
use super::quarantine::Quarantine;
use super::reconcile::reconcile;
use super::sweep::Sweep;
use super::watching::Watching;
use super::{Found, Senses, Snapshot, Times};
use linchpin_shared::registry::Registry;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// How often is looked while there is no registry directory: the first instance to write its record makes it again.
const POLL_WHILE_LOST: Duration = Duration::from_millis(100);

/// How long after the directory was lost instances may take to write their records again. They look every second.
const GRACE: Duration = Duration::from_secs(5);

/// How long a swept instance is remembered. Readers follow within milliseconds.
const REMEMBER_SWEPT: Duration = Duration::from_secs(60);

/// A look is followed by a pause of this many times its own length.
const PAUSE: u32 = 2;

/// While changes are heard, looks that nothing asked for are this many polls apart: they are there for what nobody knows of,
/// and with a hundred instances a look at every poll is half of what an idle hub costs.
const HEARING: u32 = 5;

/// And this many times their own length, if that is more: a registry of thousands must not keep the machine busy.
const LEISURE: u32 = 10;

pub(super) struct Actor {
    registry: Registry,
    poll: Duration,
    watching: Watching,
    nudged: Arc<Notify>,
    publish: watch::Sender<Arc<Snapshot>>,
    feel: watch::Sender<Senses>,
    exits: Exits,
    directory: Option<Directory>,
    awaited: BTreeSet<Uuid>,
    await_until: Option<Instant>,
    sweep: Sweep,
    quarantine: Quarantine,
    swept_at: BTreeMap<Uuid, Instant>,
    cancel: CancellationToken,
}

impl Actor {
    pub(super) fn new(
        registry: Registry,
        times: Times,
        watching: Watching,
        nudged: Arc<Notify>,
        publish: watch::Sender<Arc<Snapshot>>,
        feel: watch::Sender<Senses>,
        cancel: CancellationToken,
    ) -> Self {
        let sweep = Sweep::new(registry.clone(), Arc::clone(&nudged), times.stop, cancel.clone());
        Self {
            registry,
            poll: times.poll,
            watching,
            nudged,
            publish,
            feel,
            exits: Exits::default(),
            directory: None,
            awaited: BTreeSet::new(),
            await_until: None,
            sweep,
            quarantine: Quarantine::default(),
            swept_at: BTreeMap::new(),
            cancel,
        }
    }

    pub(super) async fn run(mut self) {
        loop {
            let began = Instant::now();
            self.watch_directory(began);
            if let Some(look) = self.look().await {
                if let Sight::Seen(scan) = &look.sight {
                    self.quarantine.follow(&scan.rejected, &self.registry, &self.nudged, Instant::now()).await;
                }
                self.take(look);
            }
            let snapshot = Arc::clone(&self.publish.borrow());
            self.sweep.tend(&snapshot, began).await;
            tokio::select! {
                () = self.cancel.cancelled() => return,
                () = self.wait(began.elapsed()) => {}
            }
        }
    }

    /// Until the next look is due, after one that took so long.
    async fn wait(&self, took: Duration) {
        let poll = match &self.directory {
            None => self.poll.min(POLL_WHILE_LOST),
            Some(_) if self.watching.hears() => (self.poll * HEARING).max(took * LEISURE),
            Some(_) => self.poll,
        };
        sleep(took * PAUSE).await;
        let asked = async {
            tokio::select! {
                () = self.nudged.notified() => {}
                () = self.watching.heard() => {}
            }
        };
        let _ = timeout(self.quarantine.pace(poll), asked).await;
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
        self.watching.arm(now);
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
        self.tell_senses(&look.sight);
        let Some(mut after) = reconcile(&before, look, &self.awaited) else { return };
        self.forget_swept(&mut after, Instant::now());
        if after != *before {
            tell(&before, &after);
            self.exits.follow(&after, &self.nudged);
            self.publish.send_replace(Arc::new(after));
        }
    }

    /// Says what keeps us from seeing everything, when that changes.
    fn tell_senses(&self, sight: &Sight) {
        let blind = match sight {
            Sight::Hidden(problem) => Some(problem.clone()),
            Sight::Seen(_) | Sight::Missing => None,
        };
        let senses = Senses { deaf: self.watching.trouble().cloned(), blind };
        let before = self.feel.borrow().blind.is_some();
        match &senses.blind {
            Some(problem) if !before => {
                tracing::warn!(%problem, "the registry is not read; what was known of it stays");
            }
            None if before => tracing::info!("the registry is read again"),
            Some(_) | None => {}
        }
        self.feel.send_if_modified(|now| {
            let changed = *now != senses;
            *now = senses;
            changed
        });
    }

    /// Lets go of the memory of those that were swept long ago.
    fn forget_swept(&mut self, snapshot: &mut Snapshot, now: Instant) {
        self.swept_at.retain(|id, _| snapshot.swept.contains_key(id));
        snapshot.swept.retain(|id, _| now < *self.swept_at.entry(*id).or_insert(now) + REMEMBER_SWEPT);
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
