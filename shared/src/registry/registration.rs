//! One instance's place in the registry, for as long as it lives.
//!
//! Owns the lease and the record of this process's instance. Invariant: the record on disk is ours to write while the
//! lease is held, and every rewrite keeps the fields that others added to it.
//! Never: rewrites a record of a newer format, or unregisters by being dropped unless it was told to: what died without a
//! word, and may have left processes, must look dead.

use super::record::{FORMAT, Record};
use super::{Lease, Registry, scan};
use crate::problem::{Code, Problem};
use std::path::PathBuf;

/// A registered instance. Dropping it lets go of the lease, after which the record is that of a dead owner.
#[derive(Debug)]
pub struct Registration {
    registry: Registry,
    record: Record,
    lease: Lease,
    taken_back: bool,
}

impl Registration {
    /// The registration of a record that was just written under this lease.
    pub(super) fn new(registry: Registry, record: Record, lease: Lease) -> Self {
        Self { registry, record, lease, taken_back: false }
    }

    /// The record as it was last written.
    #[must_use]
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Whether dropping it unregisters, as far as that is possible. Right for whom nothing outlives.
    pub fn take_back_when_dropped(&mut self, taken_back: bool) {
        self.taken_back = taken_back;
    }

    /// Writes the record again if it vanished or was changed, with directory and lease if these are gone too; `true`
    /// if it had to. Cheap when there is nothing to do: call it every second or so.
    ///
    /// # Errors
    /// As [`Registry::register`].
    pub fn ensure(&mut self) -> Result<bool, Problem> {
        if self.lease.is_current() && self.is_written() {
            return Ok(false);
        }
        let (registry, lease, record) = (&self.registry, &self.lease, &self.record);
        let take = || if lease.is_current() { Ok(None) } else { registry.take_lease(record).map(Some) };
        if let Some(lease) = registry.publish(record, take)? {
            self.lease = lease;
        }
        Ok(true)
    }

    /// Changes the record. When it cannot be written, it stays as it was.
    ///
    /// # Errors
    /// As [`Registry::register`], and [`Code::Internal`] when id or name are changed: that would be another instance.
    pub fn update(&mut self, change: impl FnOnce(&mut Record)) -> Result<(), Problem> {
        self.ensure()?;
        let mut changed = self.record.clone();
        change(&mut changed);
        if (changed.id, &changed.name) != (self.record.id, &self.record.name) {
            return Err(Problem::new(Code::Internal, "id and name of a registered instance cannot change")
                .next("unregister it and register the new one"));
        }
        self.registry.publish(&changed, || Ok(()))?;
        self.record = changed;
        Ok(())
    }

    /// Removes the record and the lease. Needs no lock while both are ours; where the lease file is gone, the record may
    /// be another's by now.
    ///
    /// # Errors
    /// When a file cannot be removed. The lease is let go in any case.
    pub fn unregister(mut self) -> Result<(), Problem> {
        self.taken_back = false;
        self.remove()
    }

    fn remove(&self) -> Result<(), Problem> {
        let path = self.path();
        let _lock = if self.lease.is_current() {
            None
        } else {
            let lock = self.registry.dir.is_dir().then(|| self.registry.lock()).transpose()?;
            match scan::read(&path) {
                Ok(Some(on_disk)) if on_disk.generation == self.record.generation => lock,
                Ok(_) | Err(_) => return Ok(()),
            }
        };
        let removed = match std::fs::remove_file(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            other => other,
        };
        removed.and_then(|()| self.lease.unlink()).map_err(|error| {
            Problem::from_io(&error, Code::HomeUnusable, "cannot remove the record")
                .seen("path", path.display().to_string())
                .next(format!("rm {}", path.display()))
        })
    }

    fn path(&self) -> PathBuf {
        scan::record_path(&self.registry.dir, self.record.id)
    }

    /// Whether the record on disk is ours and says what we say. Fields that others added to it become ours.
    fn is_written(&mut self) -> bool {
        let Ok(Some(on_disk)) = scan::read(&self.path()) else { return false };
        if on_disk.generation != self.record.generation {
            return false;
        }
        for (field, value) in &on_disk.other {
            self.record.other.entry(field).or_insert_with(|| value.clone());
        }
        on_disk == self.record || on_disk.format > FORMAT
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        if std::mem::take(&mut self.taken_back)
            && let Err(problem) = self.remove()
        {
            tracing::warn!(%problem, "the record of what ended is left to be swept");
        }
    }
}
