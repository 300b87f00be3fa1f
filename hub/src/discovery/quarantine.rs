//! Putting aside what cannot be read as a record.
//!
//! Owns the moves under way. Invariant: one task at a time does them, so that a crowd of bad files cannot take all
//! threads; a file that cannot be moved, or must not be yet, is tried again later and not at every look.
//! Never: decides which file is due ([`Suspects`] does), or is waited for by a look.

use super::suspects::{STEP, Suspects};
use linchpin_shared::problem::Problem;
use linchpin_shared::registry::{Registry, Rejected};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// How often a file is tried again whose lease is held. Asking is cheap.
const HELD_AGAIN: Duration = Duration::from_secs(2);

/// How often a file is tried again that could not be moved.
const FAILED_AGAIN: Duration = Duration::from_secs(30);

/// How often the quarantine is looked through for what is too old, besides whenever something is put there.
const PRUNE: Duration = Duration::from_secs(3600);

type Outcome = Result<Option<PathBuf>, Problem>;

/// The files that are watched, and those that are being moved.
#[derive(Debug, Default)]
pub(super) struct Quarantine {
    suspects: Suspects,
    running: Option<JoinHandle<Vec<(PathBuf, Outcome)>>>,
    pruned: Option<Instant>,
}

impl Quarantine {
    /// Takes note of a look and moves what is due, on a thread of its own; asks for a look when that is done.
    pub(super) async fn follow(
        &mut self,
        rejected: &[Rejected],
        registry: &Registry,
        nudged: &Arc<Notify>,
        now: Instant,
    ) {
        if let Some(done) = self.running.take_if(|running| running.is_finished()) {
            for (path, outcome) in done.await.unwrap_or_default() {
                self.done(&path, outcome, now);
            }
        }
        let due = self.suspects.observe(rejected, now);
        let prune = self.pruned.is_none_or(|at| now >= at + PRUNE);
        if self.running.is_some() || (due.is_empty() && !prune) {
            return;
        }
        self.pruned = Some(now);
        let (registry, nudged) = (registry.clone(), Arc::clone(nudged));
        self.running = Some(tokio::task::spawn_blocking(move || {
            let outcomes = due.into_iter().map(|file| (file.path.clone(), registry.quarantine(&file))).collect();
            prune_and_tell(&registry);
            nudged.notify_one();
            outcomes
        }));
    }

    /// Takes note of what came of a move.
    fn done(&mut self, path: &Path, outcome: Outcome, now: Instant) {
        match outcome {
            Ok(Some(place)) => {
                tracing::warn!(path = %path.display(), why = %format!("{}.why", place.display()), "a file that is no record was put aside");
            }
            Ok(None) => self.suspects.postpone(path, now + HELD_AGAIN),
            Err(problem) => {
                tracing::warn!(path = %path.display(), %problem, "a bad record cannot be put aside; trying again later");
                self.suspects.postpone(path, now + FAILED_AGAIN);
            }
        }
    }

    /// How long until the next look, if the usual time is this.
    pub(super) fn pace(&self, usual: Duration) -> Duration {
        if self.suspects.is_watching() { usual.min(STEP) } else { usual }
    }
}

fn prune_and_tell(registry: &Registry) {
    match registry.prune_quarantine() {
        Ok(removed) if removed.is_empty() => {}
        Ok(removed) => tracing::info!(files = removed.len(), "the oldest files that had been put aside were removed"),
        Err(error) => tracing::warn!(%error, "the quarantine cannot be kept within its bounds"),
    }
}
