//! Keeps the hub findable: its lease and its `hub.json`, for as long as it serves.
//!
//! A person or a cleanup job may remove the state directory while the hub is running. The hub could then neither be
//! found nor told to stop, so it writes what is missing again, as instances do with their records. Only the holder of
//! the lease writes `hub.json`. A hub that finds another hub there stops. A stop does not fail if the file cannot be
//! written.

use jiff::Timestamp;
use linchpin_shared::home::Home;
use linchpin_shared::hub_file::HubFile;
use linchpin_shared::panics;
use linchpin_shared::problem::Problem;
use linchpin_shared::registry::Lease;
use linchpin_shared::space::cannot_write;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often to check. A check reads one small file.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The lease and the file of this hub.
pub(super) struct HubRegistration {
    pub(super) home: Home,
    pub(super) file: HubFile,
    pub(super) lease: Lease,
}

impl HubRegistration {
    /// Maintains both until `stop`, and then notes in the file that the hub stops. The lease is held until the result
    /// is dropped.
    pub(super) async fn maintain(mut self, stop: &CancellationToken) -> Self {
        let mut failed = false;
        while stop.run_until_cancelled(tokio::time::sleep(CHECK_INTERVAL)).await.is_some() {
            let restored = self.restore();
            let known = std::mem::replace(&mut failed, restored.is_err());
            match restored {
                Ok(true) => {}
                Ok(false) => {
                    tracing::error!("another hub serves this home now, so this one stops");
                    stop.cancel();
                }
                Err(_) if known => {}
                Err(problem) => tracing::warn!(%problem, "other processes cannot find the hub"),
            }
        }
        // A hub that panicked was not stopped on purpose, so whatever needs a hub may start the next one.
        if self.lease.is_current() && !panics::happened() {
            self.file.stopped_at = Some(Timestamp::now());
            if let Err(problem) = self.file.write(&self.home) {
                tracing::warn!(%problem, "cannot note that the hub was stopped on purpose");
            }
        }
        self
    }

    /// Writes again what is missing; returns `false` if another hub has taken the place.
    fn restore(&mut self) -> Result<bool, Problem> {
        if !self.lease.is_current() {
            self.home.prepare()?;
            let path = self.home.hub_lease();
            let lease = Lease::acquire(&path, Duration::ZERO)
                .map_err(|error| cannot_write(&error, format!("cannot lock {}", path.display()), &path))?;
            let Some(lease) = lease else { return Ok(false) };
            self.lease = lease;
        }
        // A file that cannot be trusted, for example a link, is replaced too.
        let there = HubFile::read(&self.home).ok().flatten();
        if there.is_none_or(|file| file.process != self.file.process) {
            self.file.write(&self.home)?;
            tracing::warn!("hub.json was missing or changed, and was written again");
        }
        Ok(true)
    }
}
