//! The directories and files of a home: who owns them, and who may open them.
//!
//! It lists what belongs to Linchpin in a home, and judges owner, kind and mode. The settings file belongs to the
//! person and is not in the list. Links are never followed. A file that others could write is not made private
//! automatically: its content may be theirs, so a person must look at it. Nothing but a mode is ever changed.

use linchpin_shared::home::Home;
use linchpin_shared::problem::{Code, Problem};
use rustix::fs::{Mode, OFlags};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The number of files that are examined in one directory. If there are more, the size of the directory shows that.
const MAX_FILES: usize = 20_000;

/// The permissions of group and others.
const OTHERS: u32 = 0o077;

/// The permission of group and others to write.
const OTHERS_WRITE: u32 = 0o022;

/// What is wrong with a file or directory.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct PermissionFault {
    pub(super) path: PathBuf,
    pub(super) problem: Problem,
    /// The mode that repairs it, if that is safe.
    pub(super) repair: Option<u32>,
}

/// What is known about a file or directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileStatus {
    right_kind: bool,
    uid: u32,
    mode: u32,
}

/// Returns what is wrong in this home, outermost first.
pub(super) fn faults(home: &Home) -> Vec<PermissionFault> {
    let mut found = Vec::new();
    examine(home.root(), true, &mut found);
    // What is inside a directory that is not ours is not ours either.
    if found.iter().any(|fault| fault.repair.is_none()) || !home.root().is_dir() {
        return found;
    }
    for dir in [home.instances(), home.instances().join("quarantine"), home.logs(), home.root().join("outbox")] {
        examine(&dir, true, &mut found);
    }
    for name in ["hub.lease", "hub.json", "journal.db", "journal.db-wal", "journal.db-shm"] {
        examine(&home.root().join(name), false, &mut found);
    }
    below(&home.instances(), 0, &mut found);
    below(&home.instances().join("quarantine"), 0, &mut found);
    below(&home.logs(), 1, &mut found);
    found
}

/// Examines the files of a directory, and of the directories in it down to this many levels.
fn below(dir: &Path, levels: usize, found: &mut Vec<PermissionFault>) {
    // A link in the place of a directory was reported already.
    let Ok(true) = dir.symlink_metadata().map(|facts| facts.is_dir()) else { return };
    let Ok(files) = dir.read_dir() else { return };
    for file in files.flatten().take(MAX_FILES) {
        let path = file.path();
        let is_dir = file.file_type().is_ok_and(|kind| kind.is_dir());
        if is_dir && levels > 0 {
            examine(&path, true, found);
            below(&path, levels - 1, found);
        } else if !is_dir {
            examine(&path, false, found);
        }
    }
}

fn examine(path: &Path, dir: bool, found: &mut Vec<PermissionFault>) {
    let Ok(facts) = path.symlink_metadata() else { return };
    let right_kind = if dir { facts.is_dir() } else { facts.is_file() };
    let facts = FileStatus { right_kind, uid: facts.uid(), mode: facts.mode() & 0o7777 };
    if let Some((problem, repair)) = judge(path, dir, facts, rustix::process::geteuid().as_raw()) {
        found.push(PermissionFault { path: path.to_owned(), problem, repair });
    }
}

fn judge(path: &Path, dir: bool, facts: FileStatus, us: u32) -> Option<(Problem, Option<u32>)> {
    let wanted = if dir { 0o700 } else { 0o600 };
    let shown = path.display();
    let problem = |detail: String| {
        Problem::new(Code::HomeUnusable, detail)
            .seen("path", shown.to_string())
            .seen("owner", facts.uid)
            .seen("mode", format!("{:04o}", facts.mode))
    };
    if !facts.right_kind {
        let kind = if dir { "a directory" } else { "a regular file" };
        let problem = problem(format!("{shown} is not {kind} (links are not followed)"));
        return Some((problem.next(format!("ls -ld {shown}    (move it away if you did not create it)")), None));
    }
    if facts.uid != us {
        let problem = problem(format!("{shown} belongs to user {}, but you are user {us}", facts.uid));
        return Some((problem.next(format!("sudo chown {us} {shown}    (or remove it, if it is not yours)")), None));
    }
    if facts.mode & OTHERS == 0 && facts.mode & wanted == wanted {
        return None;
    }
    if !dir && facts.mode & OTHERS_WRITE != 0 {
        let problem = problem(format!("others can write {shown}, so its content may not be yours"))
            .next(format!("read it: less {shown}"))
            .next(format!("chmod 600 {shown}    (or remove it)"));
        return Some((problem, None));
    }
    let detail = format!("{shown} has mode {:04o} and should have {wanted:04o}", facts.mode);
    Some((problem(detail).next("linchpin doctor --fix").next(format!("or: chmod {wanted:o} {shown}")), Some(wanted)))
}

/// Sets the mode of a file or directory, if it still belongs to us and is not a link.
///
/// # Errors
/// If it does not, or the system refuses.
pub(super) fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    // A path descriptor needs no read permission, and refers to the same file that is checked and then changed.
    let fd = rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let facts = rustix::fs::fstat(&fd)?;
    let kind = rustix::fs::FileType::from_raw_mode(facts.st_mode);
    if facts.st_uid != rustix::process::geteuid().as_raw() || !(kind.is_file() || kind.is_dir()) {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "it no longer is a file or directory of this user",
        ));
    }
    std::fs::set_permissions(format!("/proc/self/fd/{}", fd.as_raw_fd()), PermissionsExt::from_mode(mode))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(dir: bool, mode: u32) -> Option<Option<u32>> {
        let facts = FileStatus { right_kind: true, uid: 7, mode };
        judge(Path::new("/x"), dir, facts, 7).map(|(problem, repair)| {
            assert!(!problem.next_steps.is_empty());
            repair
        })
    }

    #[test]
    fn only_what_others_could_not_write_is_repaired() {
        assert_eq!([judged(true, 0o700), judged(false, 0o600)], [None, None]);
        assert_eq!([judged(true, 0o755), judged(true, 0o777), judged(true, 0o500)], [Some(Some(0o700)); 3]);
        assert_eq!([judged(false, 0o644), judged(false, 0o400)], [Some(Some(0o600)); 2]);
        assert_eq!([judged(false, 0o666), judged(false, 0o620)], [Some(None); 2]);
    }

    #[test]
    fn a_link_or_a_file_of_another_user_is_not_repaired() {
        for facts in [
            FileStatus { right_kind: true, uid: 8, mode: 0o644 },
            FileStatus { right_kind: false, uid: 7, mode: 0o777 },
        ] {
            assert_eq!(judge(Path::new("/x"), false, facts, 7).unwrap().1, None);
        }
    }

    /// Fault 67: the file that is checked is the one whose mode is changed.
    #[test]
    fn a_mode_is_never_set_on_what_takes_the_place_meanwhile() {
        let dir = tempfile::tempdir().unwrap();
        let [target, path, own, link] = ["target", "path", "own", "link"].map(|name| dir.path().join(name));
        std::fs::write(&target, "").unwrap();
        set_mode(&target, 0o640).unwrap();
        let mut set = 0;
        std::thread::scope(|scope| {
            let (target, path, own, link) = (&target, &path, &own, &link);
            let changing = scope.spawn(move || {
                for _ in 0..5_000 {
                    std::fs::write(own, "").unwrap();
                    std::fs::rename(own, path).unwrap();
                    std::os::unix::fs::symlink(target, link).unwrap();
                    std::fs::rename(link, path).unwrap();
                }
            });
            while !changing.is_finished() {
                set += u32::from(set_mode(path, 0o600).is_ok());
            }
        });
        assert!(set > 0);
        assert_eq!(target.metadata().unwrap().mode() & 0o777, 0o640);
    }

    #[test]
    fn a_mode_is_never_set_through_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let (target, link) = (dir.path().join("target"), dir.path().join("link"));
        std::fs::write(&target, "").unwrap();
        set_mode(&target, 0o640).unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        assert!(set_mode(&link, 0o600).is_err());
        assert_eq!(target.metadata().unwrap().mode() & 0o777, 0o640);
    }
}
