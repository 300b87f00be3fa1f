//! The directory lock: one writer of the registry at a time.
//!
//! Owns the file `.lock` in the registry directory and the bound on waiting for it.
//! Invariant: it is held only from reading to writing, never over a wait; who gives up waiting says who holds it.
//! Never: is needed for reading, or is renamed or removed.

use super::lease::Lease;
use crate::problem::{Code, Problem};
use crate::process::command_line;
use crate::space::cannot_write;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The longest wait for the lock (see "Registry" in ARCHITECTURE.md). Its holder needs milliseconds; after this it is stopped or stuck.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// The lock, held until this is dropped.
#[derive(Debug)]
pub(crate) struct DirLock(#[expect(dead_code, reason = "held, not used")] Lease);

impl DirLock {
    /// Takes the lock of this directory.
    ///
    /// # Errors
    /// [`Code::LockTimeout`], naming the holder, when it does not come free within `wait`.
    pub(crate) fn acquire(dir: &Path, wait: Duration) -> Result<Self, Problem> {
        let path = path(dir);
        match Lease::acquire(&path, wait) {
            Ok(Some(lease)) => Ok(Self(lease)),
            Ok(None) => Err(held_too_long(&path, wait)),
            Err(error) => Err(cannot_write(&error, "cannot lock the registry", &path)),
        }
    }
}

/// The file of the lock of this directory.
pub(crate) fn path(dir: &Path) -> PathBuf {
    dir.join(".lock")
}

fn held_too_long(path: &Path, wait: Duration) -> Problem {
    let problem = Problem::new(Code::LockTimeout, format!("the registry was locked for more than {wait:?}"))
        .seen("path", path.display().to_string());
    match Lease::holder(path).filter(crate::process::Identity::is_alive) {
        Some(holder) => problem
            .seen("pid", holder.pid)
            .seen("command", command_line(holder.pid).unwrap_or_else(|| holder.executable.display().to_string()))
            .next(format!("ps -o pid,stat,etime,args -p {}    (state T: it is stopped)", holder.pid))
            .next(format!("kill -CONT {0}, or end it with kill {0}", holder.pid)),
        None => problem.next(format!("fuser -v {}    (shows who holds it)", path.display())),
    }
    .next("try again")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_holds_it_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let lock = DirLock::acquire(dir.path(), Duration::ZERO).unwrap();
        let problem = DirLock::acquire(dir.path(), Duration::from_millis(1)).unwrap_err();
        assert_eq!(problem.code, Code::LockTimeout);
        assert_eq!(problem.observed["pid"], std::process::id());
        assert!(problem.observed["command"].as_str().unwrap().contains("linchpin"), "{problem}");
        drop(lock);
        DirLock::acquire(dir.path(), Duration::ZERO).unwrap();
    }
}
