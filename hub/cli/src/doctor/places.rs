//! The directories and files of a home: whose they are, and who may open them.
//!
//! Owns the list of what is ours in a home, and the judgement of owner, kind and mode. Invariant: the settings file is a
//! person's own and not in the list; a link is never followed. A file that others could write is never made private by
//! us: what is in it may be theirs, and a person must look. Never: changes anything but a mode.

use linchpin_shared::home::Home;
use linchpin_shared::problem::{Code, Problem};
use rustix::fs::{Mode, OFlags};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The most files that are looked at in one directory; more than that is told by its size already.
const MAX_FILES: usize = 20_000;

/// The rights of group and others.
const OTHERS: u32 = 0o077;

/// The right of group and others to write.
const OTHERS_WRITE: u32 = 0o022;

/// What is wrong with a place.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Fault {
    pub(super) path: PathBuf,
    pub(super) problem: Problem,
    /// The mode that mends it, where that is safe.
    pub(super) mend: Option<u32>,
}

/// What is known of a file or directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Facts {
    right_kind: bool,
    uid: u32,
    mode: u32,
}

/// What is wrong with the places of this home, outermost first.
pub(super) fn faults(home: &Home) -> Vec<Fault> {
    let mut found = Vec::new();
    look(home.root(), true, &mut found);
    // What is below a directory that is not ours is not ours either.
    if found.iter().any(|fault| fault.mend.is_none()) || !home.root().is_dir() {
        return found;
    }
    for dir in [home.instances(), home.instances().join("quarantine"), home.logs(), home.root().join("outbox")] {
        look(&dir, true, &mut found);
    }
    for name in ["hub.lease", "hub.json", "journal.db", "journal.db-wal", "journal.db-shm"] {
        look(&home.root().join(name), false, &mut found);
    }
    below(&home.instances(), 0, &mut found);
    below(&home.instances().join("quarantine"), 0, &mut found);
    below(&home.logs(), 1, &mut found);
    found
}

/// Looks at the files of a directory, and at the directories in it so many levels down.
fn below(dir: &Path, levels: usize, found: &mut Vec<Fault>) {
    // A link in the place of a directory was told of already.
    let Ok(true) = dir.symlink_metadata().map(|facts| facts.is_dir()) else { return };
    let Ok(files) = dir.read_dir() else { return };
    for file in files.flatten().take(MAX_FILES) {
        let path = file.path();
        let is_dir = file.file_type().is_ok_and(|kind| kind.is_dir());
        if is_dir && levels > 0 {
            look(&path, true, found);
            below(&path, levels - 1, found);
        } else if !is_dir {
            look(&path, false, found);
        }
    }
}

fn look(path: &Path, dir: bool, found: &mut Vec<Fault>) {
    let Ok(facts) = path.symlink_metadata() else { return };
    let right_kind = if dir { facts.is_dir() } else { facts.is_file() };
    let facts = Facts { right_kind, uid: facts.uid(), mode: facts.mode() & 0o7777 };
    if let Some((problem, mend)) = judge(path, dir, facts, rustix::process::geteuid().as_raw()) {
        found.push(Fault { path: path.to_owned(), problem, mend });
    }
}

fn judge(path: &Path, dir: bool, facts: Facts, us: u32) -> Option<(Problem, Option<u32>)> {
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
        return Some((problem.next(format!("ls -ld {shown}    (move it away if you did not put it there)")), None));
    }
    if facts.uid != us {
        let problem = problem(format!("{shown} belongs to user {}, and we are {us}", facts.uid));
        return Some((problem.next(format!("sudo chown {us} {shown}    (or remove it, if it is not yours)")), None));
    }
    if facts.mode & OTHERS == 0 && facts.mode & wanted == wanted {
        return None;
    }
    if !dir && facts.mode & OTHERS_WRITE != 0 {
        let problem = problem(format!("others can write {shown}, so what is in it may be theirs"))
            .next(format!("look into it: less {shown}"))
            .next(format!("chmod 600 {shown}    (or remove it)"));
        return Some((problem, None));
    }
    let detail = format!("{shown} has mode {:04o} and should have {wanted:04o}", facts.mode);
    Some((problem(detail).next("linchpin doctor --fix").next(format!("or: chmod {wanted:o} {shown}")), Some(wanted)))
}

/// Gives a place this mode, if it is still ours and no link.
///
/// # Errors
/// When it is not, or the system refuses.
pub(super) fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    // A path descriptor needs no right to read, and names the very file that is checked and then changed.
    let fd = rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let facts = rustix::fs::fstat(&fd)?;
    let kind = rustix::fs::FileType::from_raw_mode(facts.st_mode);
    if facts.st_uid != rustix::process::geteuid().as_raw() || !(kind.is_file() || kind.is_dir()) {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it is not a file or directory of ours any more"));
    }
    std::fs::set_permissions(format!("/proc/self/fd/{}", fd.as_raw_fd()), PermissionsExt::from_mode(mode))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(dir: bool, mode: u32) -> Option<Option<u32>> {
        let facts = Facts { right_kind: true, uid: 7, mode };
        judge(Path::new("/x"), dir, facts, 7).map(|(problem, mend)| {
            assert!(!problem.next_steps.is_empty());
            mend
        })
    }

    #[test]
    fn what_only_others_could_read_is_mended_and_what_they_could_write_is_shown() {
        assert_eq!([judged(true, 0o700), judged(false, 0o600)], [None, None]);
        assert_eq!([judged(true, 0o755), judged(true, 0o777), judged(true, 0o500)], [Some(Some(0o700)); 3]);
        assert_eq!([judged(false, 0o644), judged(false, 0o400)], [Some(Some(0o600)); 2]);
        assert_eq!([judged(false, 0o666), judged(false, 0o620)], [Some(None); 2]);
    }

    #[test]
    fn what_belongs_to_another_or_is_a_link_is_never_mended() {
        for facts in [Facts { right_kind: true, uid: 8, mode: 0o644 }, Facts { right_kind: false, uid: 7, mode: 0o777 }]
        {
            assert_eq!(judge(Path::new("/x"), false, facts, 7).unwrap().1, None);
        }
    }

    /// Fault 67: the place that is checked is the one whose mode is changed.
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
