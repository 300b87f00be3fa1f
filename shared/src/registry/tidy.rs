//! What is left in the registry by those who died, and who holds its lock: for a person who looks, and for who tidies.
//!
//! Owns leases without a record, temporary files of dead writers, and reasons whose file is not in the quarantine.
//! Invariant: looking changes nothing and needs no lock; removing is done under the directory lock, a lease only by who
//! could lock it, a temporary file only after its writer's very process was seen to be gone.
//! Never: touches a record, which is for [`Registry::sweep`].

use super::lease::{self, Lease, LeaseState};
use super::{LEASE_PATIENCE, Registry, atomic, lock, scan};
use crate::problem::{Code, Problem};
use crate::process::Identity;
use std::io;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// A lease without a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Orphan {
    /// The instance it is of.
    pub id: Uuid,
    /// The file.
    pub path: PathBuf,
    /// Whether somebody holds it. Somebody who does will write the record again.
    pub state: LeaseState,
}

impl Registry {
    /// Removes all that the dead left beside records. The hub does it when it starts and whenever it swept a record.
    ///
    /// # Errors
    /// [`Code::LockTimeout`], or what keeps something from being looked at or removed.
    pub fn tidy(&self) -> Result<(), Problem> {
        self.remove_leftovers()?;
        let orphans = self.orphans().map_err(|error| cannot_remove(&error, &self.dir))?;
        let free = orphans.into_iter().filter(|orphan| orphan.state == LeaseState::Free);
        free.map(|orphan| orphan.id).try_for_each(|id| self.remove_orphan(id).map(drop))
    }

    /// Whether the directory lock is held at this moment. It is, for milliseconds, whenever somebody writes.
    ///
    /// # Errors
    /// When that cannot be told.
    pub fn locked(&self) -> io::Result<LeaseState> {
        lease::probe(&lock::path(&self.dir))
    }

    /// Who was the last to write down that it holds the directory lock, if that process runs.
    #[must_use]
    pub fn lock_holder(&self) -> Option<Identity> {
        Lease::holder(&lock::path(&self.dir)).filter(Identity::is_alive)
    }

    /// The leases without a record, by path.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn orphans(&self) -> io::Result<Vec<Orphan>> {
        let mut orphans = Vec::new();
        for file in self.dir.read_dir()? {
            let path = file?.path();
            let Some(id) = lease_id(&path).filter(|id| !self.has_record(*id)) else { continue };
            // One that cannot be opened is told of by whoever checks modes and owners.
            if let Ok(state) = lease::probe(&path)
                && state != LeaseState::Missing
            {
                orphans.push(Orphan { id, path, state });
            }
        }
        orphans.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(orphans)
    }

    /// Removes a lease without a record; `false` when it has one, when somebody holds it, or where locks prove nothing.
    ///
    /// # Errors
    /// [`Code::LockTimeout`], or what keeps the file from being removed.
    pub fn remove_orphan(&self, id: Uuid) -> Result<bool, Problem> {
        let _lock = self.lock()?;
        let path = scan::lease_path(&self.dir, id);
        let cannot = |error: io::Error| cannot_remove(&error, &path);
        if self.has_record(id) || lease::probe(&path).map_err(cannot)? != LeaseState::Free {
            return Ok(false);
        }
        let Some(lease) = Lease::acquire(&path, LEASE_PATIENCE).map_err(cannot)? else { return Ok(false) };
        lease.remove().map_err(cannot)?;
        Ok(true)
    }

    /// The temporary files that dead writers left, beside the records, beside the hub's file and in the quarantine, and
    /// there the reasons without a file, by path.
    ///
    /// # Errors
    /// When a directory cannot be read.
    pub fn leftovers(&self) -> io::Result<Vec<PathBuf>> {
        let mut leftovers = self.lonely_reasons();
        let quarantine = Some(self.quarantine_dir()).filter(|dir| dir.is_dir());
        let dirs = [Some(self.dir.clone()), self.dir.parent().map(Path::to_owned), quarantine];
        for dir in dirs.into_iter().flatten() {
            for file in dir.read_dir()? {
                let file = file?;
                if atomic::is_leftover(&file.file_name()) && file.file_type()?.is_file() {
                    leftovers.push(file.path());
                }
            }
        }
        leftovers.sort();
        Ok(leftovers)
    }

    /// Removes what [`Registry::leftovers`] finds, and returns it.
    ///
    /// # Errors
    /// [`Code::LockTimeout`], or what keeps a file from being removed.
    pub fn remove_leftovers(&self) -> Result<Vec<PathBuf>, Problem> {
        let _lock = self.lock()?;
        let leftovers = self.leftovers().map_err(|error| cannot_remove(&error, &self.dir))?;
        for path in &leftovers {
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(cannot_remove(&error, path)),
                Ok(()) | Err(_) => {}
            }
        }
        Ok(leftovers)
    }

    /// Whether anything stands where this record would be, even a broken one.
    fn has_record(&self, id: Uuid) -> bool {
        scan::record_path(&self.dir, id).symlink_metadata().is_ok()
    }
}

/// The id that a lease's file is named after.
fn lease_id(path: &Path) -> Option<Uuid> {
    let is_lease = path.extension().is_some_and(|extension| extension == "lease");
    path.file_stem().filter(|_| is_lease)?.to_str()?.parse().ok()
}

fn cannot_remove(error: &io::Error, path: &Path) -> Problem {
    Problem::from_io(error, Code::HomeUnusable, "cannot remove what was left behind")
        .seen("path", path.display().to_string())
        .next(format!("ls -ld {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::home::Home;
    use std::time::Duration;

    fn lab() -> (tempfile::TempDir, Registry) {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path().join("home"));
        home.prepare().unwrap();
        (dir, Registry::new(&home))
    }

    fn take(path: &Path) -> Lease {
        Lease::acquire(path, Duration::ZERO).unwrap().unwrap()
    }

    #[test]
    fn a_free_lease_without_a_record_is_removed_and_a_held_one_never() {
        let (_dir, registry) = lab();
        let (free, held, recorded) = (Uuid::from_u128(1), Uuid::from_u128(2), Uuid::from_u128(3));
        let path = |id| scan::lease_path(registry.dir(), id);
        drop(take(&path(free)));
        let _held = take(&path(held));
        drop(take(&path(recorded)));
        std::fs::write(scan::record_path(registry.dir(), recorded), "broken").unwrap();
        let states: Vec<_> = registry.orphans().unwrap().into_iter().map(|orphan| (orphan.id, orphan.state)).collect();
        assert_eq!(states, [(free, LeaseState::Free), (held, LeaseState::Held)]);
        assert!(registry.remove_orphan(free).unwrap());
        assert!(!registry.remove_orphan(held).unwrap());
        assert!(!registry.remove_orphan(recorded).unwrap());
        assert!(!path(free).exists() && path(held).exists() && path(recorded).exists());
    }

    #[test]
    fn what_a_dead_writer_left_is_removed_and_what_a_live_one_writes_is_not() {
        let (_dir, registry) = lab();
        let me = Identity::current().unwrap();
        let name = |ticks: u64| format!(".new-{}-{ticks}-abc", me.pid);
        let root = registry.dir().parent().unwrap().to_owned();
        let dead = [root.join(name(me.start_ticks + 1)), registry.dir().join(name(me.start_ticks + 1))];
        let live = registry.dir().join(name(me.start_ticks));
        for path in dead.iter().chain([&live]) {
            std::fs::write(path, "x").unwrap();
        }
        let mut expected = dead.to_vec();
        expected.sort();
        assert_eq!(registry.leftovers().unwrap(), expected);
        assert_eq!(registry.remove_leftovers().unwrap(), expected);
        assert!(live.exists() && dead.iter().all(|path| !path.exists()));
    }

    #[test]
    fn who_holds_the_lock_is_seen_without_waiting_for_it() {
        let (_dir, registry) = lab();
        assert_eq!(registry.locked().unwrap(), LeaseState::Missing);
        let lock = registry.lock().unwrap();
        assert_eq!(registry.locked().unwrap(), LeaseState::Held);
        assert_eq!(registry.lock_holder().unwrap().pid, std::process::id());
        drop(lock);
        assert_eq!(registry.locked().unwrap(), LeaseState::Free);
    }
}
