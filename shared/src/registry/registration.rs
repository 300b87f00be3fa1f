//! One instance's place in the registry, for as long as it lives.
//!
//! Owns the lease and the record of this process's instance. Invariant: the record on disk is ours to write while the
//! lease is held, and every rewrite keeps the fields that others added to it.
//! Never: rewrites a record of a newer format, or unregisters by being dropped: what died without a word must look dead.

use super::lock::DirLock;
use super::record::{FORMAT, Record};
use super::{Lease, Registry, atomic, scan};
use crate::home::private_dir;
use crate::problem::{Code, Problem};
use std::path::PathBuf;

/// A registered instance. Dropping it lets go of the lease, after which the record is that of a dead owner.
#[derive(Debug)]
pub struct Registration {
    registry: Registry,
    record: Record,
    lease: Lease,
}

impl Registration {
    /// Writes the first record of an instance whose lease was just taken.
    pub(super) fn write_first(
        registry: Registry,
        record: Record,
        lease: Lease,
        lock: &DirLock,
    ) -> Result<Self, Problem> {
        let registration = Self { registry, record, lease };
        registration.write(&registration.record, lock)?;
        Ok(registration)
    }

    /// The record as it was last written.
    #[must_use]
    pub fn record(&self) -> &Record {
        &self.record
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
        private_dir(&self.registry.dir)?;
        let lock = self.registry.lock()?;
        self.registry.refuse_taken(&self.record)?;
        if !self.lease.is_current() {
            self.lease = self.registry.take_lease(&self.record)?;
        }
        self.write(&self.record, &lock)?;
        Ok(true)
    }

    /// Changes the record. When it cannot be written, it stays as it was.
    ///
    /// # Errors
    /// As [`Registry::register`], and [`Code::Internal`] when the id is changed: that would be another instance.
    pub fn update(&mut self, change: impl FnOnce(&mut Record)) -> Result<(), Problem> {
        self.ensure()?;
        let mut changed = self.record.clone();
        change(&mut changed);
        if changed.id != self.record.id {
            return Err(Problem::new(Code::Internal, "the id of a registered instance cannot change")
                .next("unregister it and register the new one"));
        }
        super::check(&changed)?;
        let lock = self.registry.lock()?;
        self.registry.refuse_taken(&changed)?;
        self.write(&changed, &lock)?;
        self.record = changed;
        Ok(())
    }

    /// Removes the record and the lease. Needs no lock: both are ours.
    ///
    /// # Errors
    /// When a file cannot be removed. The lease is let go in any case.
    pub fn unregister(self) -> Result<(), Problem> {
        if !self.lease.is_current() {
            return Ok(());
        }
        let path = self.path();
        let removed = match std::fs::remove_file(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            other => other,
        };
        removed.and_then(|()| self.lease.remove()).map_err(|error| {
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

    fn write(&self, record: &Record, _lock: &DirLock) -> Result<(), Problem> {
        let path = self.path();
        let written = serde_json::to_vec(record).map_err(Into::into).and_then(|json| atomic::write(&path, &json));
        written.map_err(|error| {
            Problem::from_io(&error, Code::HomeUnusable, "cannot write the record")
                .seen("path", path.display().to_string())
                .next(format!("df -h {}", self.registry.dir.display()))
                .next(format!("ls -ld {}", self.registry.dir.display()))
        })
    }
}
