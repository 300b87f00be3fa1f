//! One look at the registry.
//!
//! Owns everything that discovery asks of the file system, in one blocking call. Invariant: it only gathers; what
//! follows from it is decided by [`super::reconcile`], which needs no file system.
//! Never: writes, or takes an error for an answer.

use super::Snapshot;
use linchpin_shared::home::check_private_dir;
use linchpin_shared::problem::{Code, Problem};
use linchpin_shared::registry::{Aside, LeaseState, Registry, Scan};
use rustix::fs::{Mode, OFlags};
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
    /// The records, if they can be seen.
    pub(super) sight: Sight,
    /// What there is of the instances that were known and have no readable record now.
    pub(super) traces: BTreeMap<Uuid, Trace>,
    /// What was put aside.
    pub(super) aside: Aside,
}

/// What can be seen of the registry.
#[derive(Debug)]
pub(super) enum Sight {
    /// Everything.
    Seen(Scan),
    /// There is no directory.
    Missing,
    /// What is there cannot be read, or is not ours to believe: a link, another user's, open to others.
    Hidden(Problem),
}

impl Sight {
    fn of(registry: &Registry) -> Self {
        let dir = registry.dir();
        match check_private_dir(dir) {
            Err(problem) if dir.symlink_metadata().is_ok() => return Self::Hidden(problem),
            Err(_) => return Self::Missing,
            Ok(()) => {}
        }
        match registry.scan() {
            Ok(scan) => Self::Seen(scan),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::Missing,
            Err(error) => {
                let problem = Problem::from_io(&error, Code::HomeUnusable, "cannot read the registry");
                Self::Hidden(problem.seen("path", dir.display().to_string()).next(format!("ls -ld {}", dir.display())))
            }
        }
    }
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
        let mut sight = Sight::of(registry);
        let (mut seen, mut aside) = (BTreeSet::new(), Aside::default());
        if let Sight::Seen(scan) = &mut sight {
            scan.rejected.extend(registry.quarantined(SHOWN).unwrap_or_default());
            aside = registry.aside().unwrap_or_default();
            seen.extend(scan.entries.iter().map(|entry| entry.record.id));
        }
        let absent = known.instances.iter().filter(|(id, _)| !seen.contains(id));
        let traces =
            absent.map(|(id, found)| (*id, trace(&registry.lease(*id), || found.record.process.is_alive()))).collect();
        Self { sight, traces, aside }
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
    /// The directory that is at this path now, and not one that a link there names.
    pub(super) fn at(path: &Path) -> io::Result<Self> {
        let itself = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::open(path, itself, Mode::empty())?.into()))
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
