//! How the hub stays findable: its lease and its `hub.json`, for as long as it serves.
//!
//! Owns both. A person or a cleaning job may remove the state directory under a hub that runs; it then could neither be
//! found nor told to stop, so what is missing is made again, as instances do with their records.
//! Invariant: `hub.json` is written only by who holds the lease that its path names; a hub that finds another one there
//! stops. Never: lets a stop fail because the file cannot be written.

use jiff::Timestamp;
use linchpin_shared::home::Home;
use linchpin_shared::hub_file::HubFile;
use linchpin_shared::panics;
use linchpin_shared::problem::Problem;
use linchpin_shared::registry::Lease;
use linchpin_shared::space::cannot_write;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often to look. It costs reading one small file.
const LOOK: Duration = Duration::from_secs(1);

/// The hub's place in its home.
pub(super) struct Presence {
    pub(super) home: Home,
    pub(super) file: HubFile,
    pub(super) lease: Lease,
}

impl Presence {
    /// Keeps the place until `stop`, then says in it that the hub stops. The lease is held until this is dropped.
    pub(super) async fn keep(mut self, stop: &CancellationToken) -> Self {
        let mut failed = false;
        while stop.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_some() {
            let restored = self.restore();
            let known = std::mem::replace(&mut failed, restored.is_err());
            match restored {
                Ok(true) => {}
                Ok(false) => {
                    tracing::error!("another hub serves this home now: this one stops");
                    stop.cancel();
                }
                Err(_) if known => {}
                Err(problem) => tracing::warn!(%problem, "the hub cannot be found by others"),
            }
        }
        // Of one that panicked nobody wanted the end: whoever needs a hub starts the next.
        if self.lease.is_current() && !panics::happened() {
            self.file.stopped_at = Some(Timestamp::now());
            if let Err(problem) = self.file.write(&self.home) {
                tracing::warn!(%problem, "cannot say that the hub was stopped on purpose");
            }
        }
        self
    }

    /// Makes again what is missing; `false` when the place is another hub's.
    fn restore(&mut self) -> Result<bool, Problem> {
        if !self.lease.is_current() {
            self.home.prepare()?;
            let path = self.home.hub_lease();
            let lease = Lease::acquire(&path, Duration::ZERO)
                .map_err(|error| cannot_write(&error, format!("cannot lock {}", path.display()), &path))?;
            let Some(lease) = lease else { return Ok(false) };
            self.lease = lease;
        }
        // One that cannot be trusted any more, a link for example, is replaced too.
        let there = HubFile::read(&self.home).ok().flatten();
        if there.is_none_or(|file| file.process != self.file.process) {
            self.file.write(&self.home)?;
            tracing::warn!("what says where the hub is had gone, and was written again");
        }
        Ok(true)
    }
}
