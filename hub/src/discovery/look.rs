//! One look at the registry.
//!
//! Owns everything that discovery asks of the file system, in one blocking call. Invariant: it only gathers; what
//! follows from it is decided by [`super::reconcile`], which needs no file system.
//! Never: writes, or takes an error for an answer.

use super::Snapshot;
use linchpin_shared::registry::{LeaseState, Registry, Scan};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use uuid::Uuid;

/// How many of the files that were put aside are shown.
const SHOWN: usize = 20;

/// What one look found.
#[derive(Debug)]
pub(super) struct Look {
    /// The records; an error when the directory cannot be read.
    pub(super) scan: io::Result<Scan>,
    /// What there is of the instances that were known and have no readable record now.
    pub(super) traces: BTreeMap<Uuid, Trace>,
}

/// What there is of an instance without a readable record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trace {
    /// Somebody holds its lease, or that cannot be told.
    Lease,
    /// Its lease is free, or its lease is gone and so is its process.
    Nothing,
    /// Its lease file is gone, but its process runs: it unregistered, or somebody removed its files.
    Process,
}

impl Look {
    /// Looks at the registry, and again at what was known.
    pub(super) fn take(registry: &Registry, known: &Snapshot) -> Self {
        let mut scan = registry.scan();
        if let Ok(scan) = &mut scan {
            scan.rejected.extend(registry.quarantined(SHOWN).unwrap_or_default());
        }
        let seen: BTreeSet<Uuid> = scan.iter().flat_map(|scan| &scan.entries).map(|entry| entry.record.id).collect();
        let absent = known.instances.iter().filter(|(id, _)| !seen.contains(id));
        let traces =
            absent.map(|(id, found)| (*id, trace(&registry.lease(*id), || found.record.process.is_alive()))).collect();
        Self { scan, traces }
    }
}

fn trace(lease: &io::Result<LeaseState>, process_runs: impl Fn() -> bool) -> Trace {
    match lease {
        Ok(LeaseState::Held) | Err(_) => Trace::Lease,
        Ok(LeaseState::Free) => Trace::Nothing,
        Ok(LeaseState::Missing | LeaseState::Unsupported) if process_runs() => Trace::Process,
        Ok(LeaseState::Missing | LeaseState::Unsupported) => Trace::Nothing,
    }
}

/// One directory, told apart from another that later has its path. It is kept open, so that no other can get its inode.
#[derive(Debug)]
pub(super) struct Directory(File);

impl Directory {
    /// The directory that is at this path now.
    pub(super) fn at(path: &Path) -> io::Result<Self> {
        File::open(path).map(Self)
    }

    /// Whether it still is.
    pub(super) fn is_at(&self, path: &Path) -> bool {
        let id = |facts: std::fs::Metadata| (facts.dev(), facts.ino());
        match (self.0.metadata(), std::fs::symlink_metadata(path)) {
            (Ok(ours), Ok(there)) => id(ours) == id(there),
            (Err(_), _) | (_, Err(_)) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_not_a_death() {
        let broken = || io::Error::from(io::ErrorKind::PermissionDenied);
        assert_eq!(trace(&Err(broken()), || false), Trace::Lease);
        assert_eq!(trace(&Ok(LeaseState::Held), || false), Trace::Lease);
        assert_eq!(trace(&Ok(LeaseState::Free), || true), Trace::Nothing);
        assert_eq!(trace(&Ok(LeaseState::Missing), || true), Trace::Process);
        assert_eq!(trace(&Ok(LeaseState::Missing), || false), Trace::Nothing);
    }

    #[test]
    fn a_directory_that_was_made_again_is_another_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("instances");
        std::fs::create_dir(&path).unwrap();
        let first = Directory::at(&path).unwrap();
        assert!(first.is_at(&path));
        std::fs::remove_dir(&path).unwrap();
        assert!(!first.is_at(&path));
        std::fs::create_dir(&path).unwrap();
        assert!(!first.is_at(&path));
        assert!(Directory::at(&path).unwrap().is_at(&path));
    }
}
