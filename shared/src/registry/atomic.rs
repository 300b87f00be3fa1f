//! Writing a file so that a reader sees the old one or the new one, whole.
//!
//! Owns the one sequence for it: a temporary file in the same directory, mode 0600, under a name that nobody can guess,
//! renamed over the old one. [`write()`] also syncs, file before and directory after, so that this holds over a power cut;
//! a record needs no sync, see [`super::Registry`]. Invariant: a failed write leaves the old file as it was and no
//! temporary one; what a killed writer left says in its name who that was.
//! Never: writes in place, or follows a link at the path (a rename replaces the link itself).

use crate::process::Identity;
use std::ffi::OsStr;
use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// How the name of a temporary file begins: this, the pid and the start ticks of its writer, each with a dash.
const TEMPORARY: &str = ".new-";

/// Replaces the file at `path` by one with these bytes, for good: also after a power cut.
///
/// # Errors
/// When any step fails; the file at `path` is then the old one, except if only the last step (syncing the directory)
/// failed.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let prepared = Prepared::new(path, bytes)?;
    prepared.file.sync_all()?;
    prepared.place()?;
    File::open(path.parent().ok_or(io::ErrorKind::InvalidInput)?)?.sync_all()
}

/// As [`write()`], for a file that is not ours alone: with this mode.
///
/// # Errors
/// As [`write()`].
pub fn write_as(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let prepared = Prepared::new(path, bytes)?;
    prepared.file.set_permissions(Permissions::from_mode(mode))?;
    prepared.file.sync_all()?;
    prepared.place()?;
    File::open(path.parent().ok_or(io::ErrorKind::InvalidInput)?)?.sync_all()
}

/// A file that is written, but not yet in its place. Removed when dropped.
pub(crate) struct Prepared {
    file: File,
    /// Where it is; `None` once it is in its place.
    temporary: Option<PathBuf>,
    path: PathBuf,
}

impl Prepared {
    /// The slow part: writing.
    pub(crate) fn new(path: &Path, bytes: &[u8]) -> io::Result<Self> {
        let dir = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        let writer = Identity::current()?;
        let unique = Uuid::new_v4().simple();
        let temporary = dir.join(format!("{TEMPORARY}{}-{}-{unique}", writer.pid, writer.start_ticks));
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        let mut prepared = Self { file, temporary: Some(temporary), path: path.to_owned() };
        prepared.file.write_all(bytes)?;
        Ok(prepared)
    }

    /// The quick part: the rename.
    pub(crate) fn place(mut self) -> io::Result<()> {
        if let Some(temporary) = &self.temporary {
            std::fs::rename(temporary, &self.path)?;
        }
        self.temporary = None;
        Ok(())
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            let _ = std::fs::remove_file(temporary);
        }
    }
}

/// Whether a file of this name was left by a writer that is dead.
pub(crate) fn is_leftover(name: &OsStr) -> bool {
    let writer = name.to_str().and_then(|name| {
        let mut parts = name.strip_prefix(TEMPORARY)?.split('-');
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    });
    writer.is_some_and(|(pid, start_ticks)| {
        Identity::current().is_ok_and(|me| !Identity { pid, start_ticks, ..me }.is_alive())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            dir.read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn it_is_private_and_replaces_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        write(&path, b"one").unwrap();
        write(&path, b"two").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o600);
        write_as(&path, b"three", 0o644).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o644);
        assert_eq!(names(dir.path()), ["file"]);
    }

    #[test]
    fn a_link_is_replaced_and_its_target_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (target, path) = (dir.path().join("target"), dir.path().join("file"));
        std::fs::write(&target, b"precious").unwrap();
        std::os::unix::fs::symlink(&target, &path).unwrap();
        write(&path, b"new").unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"precious");
        assert!(path.symlink_metadata().unwrap().is_file());
    }

    #[test]
    fn a_failed_write_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::create_dir(&path).unwrap();
        assert!(write(&path, b"x").is_err());
        assert_eq!(names(dir.path()), ["file"]);
    }

    #[test]
    fn what_a_dead_writer_left_is_known() {
        let me = Identity::current().unwrap();
        let name = |ticks: u64| format!(".new-{}-{ticks}-abc", me.pid);
        assert!(is_leftover(name(me.start_ticks + 1).as_ref()));
        for other in [&name(me.start_ticks), ".new-", ".new-x-y-z", ".lock", "a.json"] {
            assert!(!is_leftover(other.as_ref()), "{other}");
        }
        let dir = tempfile::tempdir().unwrap();
        let prepared = Prepared::new(&dir.path().join("file"), b"x").unwrap();
        let names = names(dir.path());
        assert!(names[0].starts_with(name(me.start_ticks).trim_end_matches("abc")), "{names:?}");
        drop(prepared);
    }

    #[test]
    fn a_reader_never_sees_half_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let (short, long) = (vec![b'a'; 10], vec![b'b'; 100_000]);
        write(&path, &short).unwrap();
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for round in 0..50 {
                    write(&path, if round % 2 == 0 { &long } else { &short }).unwrap();
                }
            });
            while !writer.is_finished() {
                let seen = std::fs::read(&path).unwrap();
                assert!(seen == short || seen == long, "{} bytes", seen.len());
            }
        });
    }
}
