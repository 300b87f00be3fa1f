//! What keeps files from being written: a full disk, one without inodes, one that is read-only.
//!
//! Owns the [`Problem`] of a write that failed, with what a person needs to see and do. Invariant: it names the path, and
//! where room is what is lacking, how much there is. Never: writes, or tries again.

use crate::home::HOME_VAR;
use crate::problem::{Code, Problem};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What a file system has left for this user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes.
    pub bytes: u64,
    /// Inodes, that is: files. `None` where the file system does not count them.
    pub inodes: Option<u64>,
}

impl Space {
    /// What is left where this path is, or would be.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn at(path: &Path) -> io::Result<Self> {
        let there = path.ancestors().find(|place| place.exists()).unwrap_or(path);
        let facts = rustix::fs::statvfs(there)?;
        let inodes = (facts.f_files > 0).then_some(facts.f_favail);
        Ok(Self { bytes: facts.f_bavail.saturating_mul(facts.f_frsize), inodes })
    }
}

/// The problem of what could not be written at `path`: [`Code::NoSpace`], [`Code::PermissionDenied`], else
/// [`Code::HomeUnusable`].
#[must_use]
pub fn cannot_write(error: &io::Error, what: impl Into<String>, path: &Path) -> Problem {
    let problem = Problem::from_io(error, Code::HomeUnusable, what).seen("path", path.display().to_string());
    let dir = path.parent().unwrap_or(path).display();
    if problem.code == Code::NoSpace {
        return no_space(problem, path);
    }
    if error.kind() == ErrorKind::ReadOnlyFilesystem {
        return problem
            .next(format!("findmnt -T {dir}    (why it is read-only; after a disk error, see dmesg)"))
            .next(format!("make it writable, or set {HOME_VAR} to a directory on another disk"));
    }
    let problem = problem.next(format!("ls -ld {dir} {}", path.display()));
    let problem = match another(path) {
        Some((place, owner)) => problem.seen("owner", owner).next(format!(
            "if a verb under sudo left it: sudo chown -R {} {}",
            ours(),
            place.display()
        )),
        None => problem,
    };
    problem.next(format!("make it yours and private, or set {HOME_VAR} to another directory"))
}

fn ours() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// What is there of this path, if another user owns it.
fn another(path: &Path) -> Option<(&Path, u32)> {
    let (place, facts) = path.ancestors().find_map(|place| Some((place, place.symlink_metadata().ok()?)))?;
    (facts.uid() != ours()).then_some((place, facts.uid()))
}

fn no_space(mut problem: Problem, path: &Path) -> Problem {
    if let Ok(space) = Space::at(path) {
        problem = problem.seen("free bytes", space.bytes);
        if let Some(inodes) = space.inodes {
            problem = problem.seen("free inodes", inodes);
        }
    }
    let dir = path.parent().unwrap_or(path).display();
    problem
        .next(format!("df -h {dir}; df -i {dir}    (bytes, and inodes: either may have run out)"))
        .next(format!("make room, or set {HOME_VAR} to a directory on another disk"))
        .next("try again: what runs goes on, and writes what is missing once there is room")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_has_its_code_and_steps() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("not/there/yet");
        let told = |errno| cannot_write(&io::Error::from_raw_os_error(errno), "cannot write it", &path);
        let full = told(libc::ENOSPC);
        assert_eq!(full.code, Code::NoSpace);
        assert!(full.observed["free bytes"].as_u64().is_some() && full.next_steps[0].contains("df -i"), "{full}");
        assert_eq!(told(libc::EDQUOT).code, Code::NoSpace);
        assert_eq!(told(libc::EACCES).code, Code::PermissionDenied);
        let read_only = told(libc::EROFS);
        assert_eq!(read_only.code, Code::HomeUnusable);
        assert!(read_only.next_steps[0].contains("findmnt"), "{read_only}");
        for problem in [full, read_only, told(libc::EACCES), told(libc::EIO)] {
            assert_eq!(problem.observed["path"], path.display().to_string());
            assert!(problem.next_steps.len() >= 2, "{problem}");
        }
    }
}
