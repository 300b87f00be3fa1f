//! Log files that are put aside by size: `web.log` is written, `web.log.1` to `web.log.5` are older and older.
//!
//! Owns the [`Writer`], [`Lossy`], [`tail`] and the [`Follower`] of one such family of files. Invariant: the family takes at
//! most (kept + 1) × the size of one; nothing written is lost but the oldest file; joined in order, the files are what was
//! written, byte for byte. A file that somebody removed or moved away is begun anew at its place, so that what is written
//! can be read. Never: waits for the disk to sync, holds lines back, or has two writers.

mod gap;
mod read;

pub use gap::Lossy;
pub use read::{Follower, tail};

use crate::registry::private;
use rustix::fs::OFlags;
use std::fs::{DirBuilder, File, Metadata};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// The file that was put aside `age` times; age 0 is the one that is written.
fn aged(path: &Path, age: usize) -> PathBuf {
    if age == 0 {
        return path.to_owned();
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{age}"));
    PathBuf::from(name)
}

/// Appends to a log file and puts it aside when it is full.
///
/// One call of `write` stays in one file if it fits: hand in whole lines.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    file: File,
    id: (u64, u64),
    size: u64,
    max_bytes: u64,
    keep: usize,
}

impl Writer {
    /// Goes on with the file at `path`, or begins it, with its directory. A file is put aside when it would grow beyond
    /// `max_bytes`, and `keep` of those are kept.
    ///
    /// # Errors
    /// When the file cannot be made, or is not a private file of ours.
    pub fn open(path: impl Into<PathBuf>, max_bytes: u64, keep: usize) -> io::Result<Self> {
        let path = path.into();
        let (file, facts) = open(&path)?;
        Ok(Self { path, file, id: id(&facts), size: facts.len(), max_bytes: max_bytes.max(1), keep })
    }

    /// Appends all of these bytes or, on an error, takes back what it had begun in the file.
    ///
    /// # Errors
    /// What keeps them from being written: no room, most often.
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let (file, size) = (self.id, self.size);
        self.write_all(bytes).inspect_err(|_| {
            let whole = if self.id == file { size } else { 0 };
            if self.size > whole && self.file.set_len(whole).is_ok() {
                self.size = whole;
            }
        })
    }

    fn reopen(&mut self) -> io::Result<()> {
        let (file, facts) = open(&self.path)?;
        (self.file, self.id, self.size) = (file, id(&facts), facts.len());
        Ok(())
    }

    /// Whether the path names our file. A look costs a microsecond, a log that nobody can find costs more.
    fn is_in_place(&self) -> bool {
        std::fs::symlink_metadata(&self.path).is_ok_and(|facts| id(&facts) == self.id)
    }

    fn rotate(&mut self) -> io::Result<()> {
        // Files beyond a gap stay where they are: then nothing is dropped, and a rotation that was cut short is finished.
        let moving = (0..self.keep).take_while(|&age| aged(&self.path, age).exists()).count();
        for age in (0..moving).rev() {
            unless_missing(std::fs::rename(aged(&self.path, age), aged(&self.path, age + 1)))?;
        }
        if self.keep == 0 {
            unless_missing(std::fs::remove_file(&self.path))?;
        }
        self.reopen()
    }
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !self.is_in_place() {
            self.reopen()?;
        }
        let fits = bytes.len() as u64 <= self.max_bytes.saturating_sub(self.size);
        if !fits && self.size > 0 {
            self.rotate()?;
        }
        let room = usize::try_from(self.max_bytes.saturating_sub(self.size)).unwrap_or(usize::MAX);
        let written = self.file.write(&bytes[..bytes.len().min(room)])?;
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Which file it is, whatever it is called.
fn id(facts: &Metadata) -> (u64, u64) {
    (facts.dev(), facts.ino())
}

fn open(path: &Path) -> io::Result<(File, Metadata)> {
    if let Some(dir) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    }
    Ok(private::open(path, OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE)?)
}

fn unless_missing(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::fs::PermissionsExt;

    /// All files of a family joined, oldest first, and the size of each.
    fn joined(path: &Path) -> (Vec<u8>, Vec<usize>) {
        let files: Vec<_> = (0..100).rev().filter_map(|age| std::fs::read(aged(path, age)).ok()).collect();
        (files.concat(), files.iter().map(Vec::len).collect())
    }

    #[test]
    fn a_full_file_is_put_aside_and_the_oldest_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("logs/shop/web.log");
        let mut log = Writer::open(&path, 10, 2).unwrap();
        for line in ["aaaa\n", "bbbb\n", "cccc\n", "dddd\n", "eeee\n", "ffff\n", "gggg\n"] {
            log.write_all(line.as_bytes()).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "gggg\n");
        assert_eq!(std::fs::read_to_string(aged(&path, 1)).unwrap(), "eeee\nffff\n");
        assert_eq!(std::fs::read_to_string(aged(&path, 2)).unwrap(), "cccc\ndddd\n");
        assert!(!aged(&path, 3).exists());
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(path.parent().unwrap().metadata().unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_new_writer_goes_on_where_the_last_one_stopped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        for _ in 0..3 {
            Writer::open(&path, 10, 1).unwrap().write_all(b"1234").unwrap();
        }
        assert_eq!(std::fs::read(&path).unwrap(), b"1234");
        assert_eq!(std::fs::read(aged(&path, 1)).unwrap(), b"12341234");
    }

    #[test]
    fn a_directory_that_vanished_is_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("logs/log");
        let mut log = Writer::open(&path, 4, 1).unwrap();
        log.write_all(b"1234").unwrap();
        std::fs::remove_dir_all(dir.path().join("logs")).unwrap();
        log.write_all(b"5678").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"5678");
    }

    #[test]
    fn a_file_that_was_taken_away_is_begun_anew_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = Writer::open(&path, 100, 1).unwrap();
        log.append(b"one\n").unwrap();
        std::fs::rename(&path, dir.path().join("aside")).unwrap();
        log.append(b"two\n").unwrap();
        std::fs::remove_file(&path).unwrap();
        log.append(b"three\n").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"three\n");
        assert_eq!(std::fs::read(dir.path().join("aside")).unwrap(), b"one\n");
    }

    #[test]
    fn what_is_not_a_private_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::os::unix::fs::symlink("/dev/null", &path).unwrap();
        assert!(Writer::open(&path, 10, 1).is_err());
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_no_file_is_too_large(
            writes in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..40), max in 30u64..99,
        ) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("log");
            let mut log = Writer::open(&path, max, 99).unwrap();
            for bytes in &writes {
                log.write_all(bytes).unwrap();
            }
            let (all, sizes) = joined(&path);
            prop_assert_eq!(all, writes.concat());
            prop_assert!(sizes.into_iter().all(|size| size as u64 <= max));
        }
    }
}
