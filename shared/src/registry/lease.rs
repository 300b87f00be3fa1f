//! The lease: an exclusive lock on a file, held for a whole life. The kernel lets go of it at death, however that comes.
//!
//! Owns taking, holding and probing such locks. Invariant: who holds a [`Lease`] held the lock on the very file that its
//! path named (both are compared after locking), so no two processes hold one path. A probe locks for an instant, and
//! only shared; whoever acquires tells that from an owner and waits it out. On a file system without locks the file says
//! who holds it, and that process's identity decides.
//! Never: waits in the kernel (`flock` knows no deadline), renames a lease, or lets its descriptor reach a child.

#[cfg(test)]
mod tests;

use super::private;
use crate::process::Identity;
use rustix::fs::OFlags;
use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::Instant;

/// Pauses between attempts grow from the first to the longest: short for a probe, cheap for a queue.
const FIRST_PAUSE: Duration = Duration::from_micros(200);
const LONGEST_PAUSE: Duration = Duration::from_millis(5);

/// How long a probe may stand in the way. It takes microseconds, unless its process is stopped in the midst of it.
const PROBE_PATIENCE: Duration = Duration::from_secs(1);

/// The largest lease file that is read, in bytes: one [`Identity`].
const MAX_BYTES: u64 = 16 << 10;

/// The name of a holder is padded to a multiple of this, in bytes.
const PADDING: usize = 512;

/// A lock that is held until this is dropped or the process ends.
#[derive(Debug)]
pub struct Lease {
    file: File,
    path: PathBuf,
    /// Whether the lock holds it, or only what the file says.
    locked: bool,
}

/// What the file of a lease says of its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseState {
    /// Somebody holds it.
    Held,
    /// Nobody holds it: its last holder is dead or let go.
    Free,
    /// There is no such file. That proves nothing: somebody may hold one that was removed.
    Missing,
    /// The file system has no locks. Identities must decide.
    Unsupported,
}

/// What came of trying to lock a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Attempt {
    Locked,
    /// An owner holds it.
    Held,
    /// Only probes are in the way.
    Probed,
    /// The file system has no locks.
    Unsupported,
}

impl Lease {
    /// Takes the lease at `path`, making the file where there is none. `None`: somebody held it for as long as `wait`.
    ///
    /// # Errors
    /// When the file cannot be made, is not a private file of ours, or a stopped process probes it without end.
    pub fn acquire(path: &Path, wait: Duration) -> io::Result<Option<Self>> {
        Self::acquire_by(path, wait, try_exclusive)
    }

    fn acquire_by(
        path: &Path,
        wait: Duration,
        attempt: impl Fn(&File) -> io::Result<Attempt>,
    ) -> io::Result<Option<Self>> {
        let (began, mut pause) = (Instant::now(), FIRST_PAUSE);
        loop {
            let (file, _) = private::open(path, OFlags::RDWR | OFlags::CREATE)?;
            let waited = began.elapsed();
            match attempt(&file)? {
                Attempt::Locked if is_at(&file, path)? => return Ok(Some(Self::locked(file, path))),
                Attempt::Unsupported if claim(&file)? => {
                    return Ok(Some(Self { file, path: path.to_owned(), locked: false }));
                }
                Attempt::Held | Attempt::Unsupported if waited >= wait => return Ok(None),
                Attempt::Probed | Attempt::Locked if waited >= wait.max(PROBE_PATIENCE) => {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "the lease is being probed all the time"));
                }
                Attempt::Locked | Attempt::Held | Attempt::Probed | Attempt::Unsupported => {}
            }
            drop(file);
            sleep(pause.mul_f64(jitter()));
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Writes down who we are, for whoever waits. The lock holds without it, so a full disk is no reason to fail.
    fn locked(file: File, path: &Path) -> Self {
        if let Err(error) = sign(&file) {
            tracing::debug!(path = %path.display(), %error, "the lease does not say who holds it");
        }
        Self { file, path: path.to_owned(), locked: true }
    }

    /// Whether somebody holds the lease at `path`. Where there is no such file, nobody does.
    ///
    /// # Errors
    /// When that cannot be told: the file cannot be opened or is not a private file of ours.
    pub fn is_held(path: &Path) -> io::Result<bool> {
        match probe(path)? {
            LeaseState::Held => Ok(true),
            LeaseState::Free | LeaseState::Missing => Ok(false),
            LeaseState::Unsupported => Ok(Self::holder(path).is_some_and(|holder| holder.is_alive())),
        }
    }

    /// Who was the last to write into the lease file that it holds it. For people, once it is known that somebody does:
    /// only [`Lease::is_held`] is proof.
    #[must_use]
    pub fn holder(path: &Path) -> Option<Identity> {
        serde_json::from_slice(&private::read(path, MAX_BYTES).ok()?).ok()
    }

    /// Whether the path still names the file that is locked. It does not when the directory was removed or moved away.
    #[must_use]
    pub fn is_current(&self) -> bool {
        is_at(&self.file, &self.path).unwrap_or(false)
    }

    /// Removes the file, then lets go. Who waits for it sees that its file is no longer the one at the path.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub fn remove(self) -> io::Result<()> {
        self.unlink()
    }

    /// Removes the file.
    pub(super) fn unlink(&self) -> io::Result<()> {
        if self.is_current() { std::fs::remove_file(&self.path) } else { Ok(()) }
    }
}

impl Drop for Lease {
    /// Unlocks rather than only closing: a child that was forked an instant ago, and has not yet reached its `exec`,
    /// shares the lock until then. The end of the process needs neither of these steps.
    fn drop(&mut self) {
        let _ = if self.locked { self.file.unlock() } else { self.file.set_len(0) };
    }
}

/// Looks whether the lease at `path` is held, without disturbing its owner.
pub(crate) fn probe(path: &Path) -> io::Result<LeaseState> {
    probe_by(path, try_shared)
}

fn probe_by(path: &Path, look: impl Fn(&File) -> io::Result<LeaseState>) -> io::Result<LeaseState> {
    loop {
        let file = match private::open(path, OFlags::RDONLY) {
            Ok((file, _)) => file,
            Err(why) if why.is_missing() => return Ok(LeaseState::Missing),
            Err(why) => return Err(why.into()),
        };
        let seen = look(&file)?;
        // A file that was replaced meanwhile says nothing about the one that is there now.
        if is_at(&file, path)? {
            return Ok(seen);
        }
    }
}

fn try_shared(file: &File) -> io::Result<LeaseState> {
    match file.try_lock_shared() {
        Ok(()) => Ok(LeaseState::Free),
        Err(TryLockError::WouldBlock) => Ok(LeaseState::Held),
        Err(TryLockError::Error(error)) if has_no_locks(&error) => Ok(LeaseState::Unsupported),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn try_exclusive(file: &File) -> io::Result<Attempt> {
    match file.try_lock() {
        Ok(()) => Ok(Attempt::Locked),
        // Another shared lock is possible beside probes, but not beside an owner.
        Err(TryLockError::WouldBlock) => match file.try_lock_shared() {
            Ok(()) => file.unlock().map(|()| Attempt::Probed),
            Err(TryLockError::WouldBlock) => Ok(Attempt::Held),
            Err(TryLockError::Error(error)) => Err(error),
        },
        Err(TryLockError::Error(error)) if has_no_locks(&error) => Ok(Attempt::Unsupported),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn has_no_locks(error: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(Errno::from_io_error(error), Some(Errno::NOLCK | Errno::OPNOTSUPP | Errno::NOSYS))
}

/// Whether `path` names this open file.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let ours = file.metadata()?;
    match std::fs::symlink_metadata(path) {
        Ok(there) => Ok((there.dev(), there.ino()) == (ours.dev(), ours.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Takes a lease without locks: whoever the file names holds it while alive. Two claims in the same instant are told
/// apart by reading again after a pause; the last writer has it.
fn claim(file: &File) -> io::Result<bool> {
    if signed_by(file).is_some_and(|holder| holder.is_alive()) {
        return Ok(false);
    }
    let me = sign(file)?;
    sleep(LONGEST_PAUSE);
    Ok(signed_by(file) == Some(me))
}

/// Padded, so that one holder's name covers that of another and the file need not be cut, which costs a journal entry.
fn sign(file: &File) -> io::Result<Identity> {
    let me = Identity::current()?;
    let mut json = serde_json::to_vec(&me)?;
    json.resize(json.len().next_multiple_of(PADDING), b' ');
    file.write_all_at(&json, 0)?;
    if file.metadata()?.len() != json.len() as u64 {
        file.set_len(json.len() as u64)?;
    }
    Ok(me)
}

fn signed_by(file: &File) -> Option<Identity> {
    let mut bytes = vec![0; usize::try_from(MAX_BYTES).ok()?];
    let length = file.read_at(&mut bytes, 0).ok()?;
    serde_json::from_slice(&bytes[..length]).ok()
}

/// Between a half and one: a crowd that began to wait at one moment must not look at the same moments ever after, or all
/// but one of each look find the lock taken, and nobody looks when it is free.
fn jitter() -> f64 {
    let random = getrandom::u32().unwrap_or_default();
    0.5 + 0.5 * f64::from(random) / f64::from(u32::MAX)
}

#[expect(clippy::disallowed_methods, reason = "there is no lock with a deadline, and nothing to wait on")]
fn sleep(pause: Duration) {
    std::thread::sleep(pause);
}
