//! The registry directory: its lock, whether its file system has locks, and what the dead left in it.
//!
//! Owns the checks `lock`, `file system`, `leases` and `leftovers`. Invariant: nothing is locked and nothing is waited
//! for longer than [`PATIENCE`]. Never: takes a lock that is held for a moment for one that is stuck.

use super::check::Check;
use super::who;
use linchpin_shared::home::Home;
use linchpin_shared::problem::{Code, Problem};
use linchpin_shared::process::Identity;
use linchpin_shared::registry::{LeaseState, Orphan, Registry};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long the directory lock may be held before we say so. Its holders need milliseconds.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often it is looked at meanwhile.
const PAUSE: Duration = Duration::from_millis(20);

/// File systems whose locks may end at this machine (statfs(2)): their magic numbers and names.
const REMOTE: [(u64, &str); 6] = [
    (0x6969, "NFS"),
    (0x517B, "SMB"),
    (0xFF53_4D42, "CIFS"),
    (0xFE53_4D42, "SMB2"),
    (0x0102_1997, "9P"),
    (0x6573_5546, "FUSE"),
];

/// All checks of this file; none where there is no registry yet.
pub(super) async fn checks(home: &Home) -> Vec<Check> {
    let registry = Registry::new(home);
    if !registry.dir().is_dir() {
        return vec![Check::ok("registry", "there is none yet")];
    }
    let locked = watch(&registry).await;
    vec![
        lock(registry.dir(), &locked, registry.lock_holder().as_ref()),
        file_system(registry.dir(), &locked),
        leases(registry.dir(), registry.orphans()),
        leftovers(registry.dir(), registry.leftovers()),
    ]
}

/// What the lock is, after having been given time to come free.
async fn watch(registry: &Registry) -> io::Result<LeaseState> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let seen = registry.locked()?;
        if seen != LeaseState::Held || Instant::now() > deadline {
            return Ok(seen);
        }
        sleep(PAUSE).await;
    }
}

fn lock(dir: &Path, locked: &io::Result<LeaseState>, holder: Option<&Identity>) -> Check {
    let path = dir.join(".lock");
    let shown = path.display();
    match locked {
        Ok(LeaseState::Free | LeaseState::Missing) => Check::ok("lock", "the directory lock is free"),
        // Without locks the file's text is the lock; who is named there and lives has it.
        Ok(LeaseState::Unsupported) if holder.is_none() => Check::ok("lock", "nobody claims the directory lock"),
        Ok(LeaseState::Held | LeaseState::Unsupported) => {
            let problem = Problem::new(Code::LockTimeout, format!("the directory lock has been held for {PATIENCE:?}"))
                .seen("path", shown.to_string());
            let problem = match holder {
                Some(holder) => who::name(problem, holder),
                None => problem.next(format!("fuser -v {shown}    (shows who holds it)")),
            };
            Check::error("lock", problem.next("linchpin doctor"))
        }
        Err(error) => {
            let problem = Problem::from_io(error, Code::HomeUnusable, "cannot look at the directory lock")
                .seen("path", shown.to_string());
            Check::error("lock", problem.next("linchpin doctor --fix").next(format!("ls -l {shown}")))
        }
    }
}

fn file_system(dir: &Path, locked: &io::Result<LeaseState>) -> Check {
    // The kind is the kernel's and of another width on other machines.
    #[expect(clippy::cast_sign_loss, clippy::useless_conversion, reason = "a magic number of 32 bits")]
    let kind = rustix::fs::statfs(dir).map_or(0, |facts| u64::from(facts.f_type as u64) & 0xFFFF_FFFF);
    judge_file_system(dir, locked.as_ref().copied().unwrap_or(LeaseState::Missing), kind)
}

fn judge_file_system(dir: &Path, locked: LeaseState, kind: u64) -> Check {
    let remote = REMOTE.iter().find(|(magic, _)| *magic == kind).map(|(_, name)| *name);
    let detail = match (locked, remote) {
        (LeaseState::Unsupported, _) => {
            "the file system of the registry has no locks; pid, start time and boot decide who lives".to_owned()
        }
        (_, Some(name)) => format!("the registry is on {name}, whose locks may not reach other machines"),
        (LeaseState::Missing, None) => return Check::ok("file system", "a local one, and nothing is locked there yet"),
        (LeaseState::Held | LeaseState::Free, None) => {
            return Check::ok("file system", "the file system of the registry has locks");
        }
    };
    let problem = Problem::new(Code::HomeUnusable, detail)
        .seen("path", dir.display().to_string())
        .next(format!("findmnt -T {}", dir.display()))
        .next("set LINCHPIN_HOME to a directory on a disk of this machine");
    Check::warning("file system", problem)
}

/// The leases without a record.
fn leases(dir: &Path, orphans: io::Result<Vec<Orphan>>) -> Check {
    let orphans = match orphans {
        Ok(orphans) => orphans,
        Err(error) => return unreadable("leases", dir, &error),
    };
    let (held, free): (Vec<_>, Vec<_>) = orphans.into_iter().partition(|orphan| orphan.state == LeaseState::Held);
    if let Some(orphan) = held.first() {
        let detail = format!(
            "{} held without a record; who holds one writes its record again within a second",
            count(held.len(), "lease")
        );
        let problem = Problem::new(Code::Stale, detail).seen("path", orphan.path.display().to_string());
        return Check::warning(
            "leases",
            problem.next("linchpin doctor").next(format!("fuser -v {}", orphan.path.display())),
        );
    }
    match free.first() {
        None => Check::ok("leases", "every lease has its record"),
        Some(orphan) => {
            let detail = format!("{} left without a record and without an owner", count(free.len(), "lease"));
            let problem = Problem::new(Code::Stale, detail).seen("path", orphan.path.display().to_string());
            Check::warning("leases", problem.next("linchpin doctor --fix"))
        }
    }
}

/// The temporary files of dead writers.
fn leftovers(dir: &Path, files: io::Result<Vec<PathBuf>>) -> Check {
    match files {
        Err(error) => unreadable("leftovers", dir, &error),
        Ok(files) => match files.first() {
            None => Check::ok("leftovers", "nobody left a temporary file"),
            Some(first) => {
                let detail = format!("{} left by writers that are dead", count(files.len(), "temporary file"));
                let problem = Problem::new(Code::Stale, detail).seen("path", first.display().to_string());
                Check::warning("leftovers", problem.next("linchpin doctor --fix"))
            }
        },
    }
}

fn unreadable(name: &str, dir: &Path, error: &io::Error) -> Check {
    let problem = Problem::from_io(error, Code::HomeUnusable, format!("cannot read {}", dir.display()));
    Check::error(name, problem.next(format!("ls -ld {}", dir.display())))
}

/// `1 lease`, `2 leases`.
pub(super) fn count(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what} is") } else { format!("{number} {what}s are") }
}

#[cfg(test)]
mod tests {
    use super::super::check::Level;
    use super::*;
    use uuid::Uuid;

    const DIR: &str = "/r";

    #[test]
    fn a_held_lock_names_its_holder() {
        let me = Identity::current().unwrap();
        let check = lock(Path::new(DIR), &Ok(LeaseState::Held), Some(&me));
        assert_eq!(check.level, Level::Error);
        assert_eq!(check.problem.unwrap().observed["pid"], me.pid);
        let steps = lock(Path::new(DIR), &Ok(LeaseState::Held), None).problem.unwrap().next_steps;
        assert!(steps[0].contains("fuser"));
        assert_eq!(lock(Path::new(DIR), &Ok(LeaseState::Free), Some(&me)).level, Level::Ok);
    }

    #[test]
    fn file_systems() {
        let level = |locked, kind| judge_file_system(Path::new(DIR), locked, kind).level;
        let (free, none) = (LeaseState::Free, LeaseState::Unsupported);
        assert_eq!(
            [level(free, 0xEF53), level(free, 0x6969), level(none, 0xEF53)],
            [Level::Ok, Level::Warning, Level::Warning]
        );
    }

    #[test]
    fn an_orphan_that_is_held_is_not_called_dead() {
        let orphan = |state| Orphan { id: Uuid::nil(), path: PathBuf::from("/r/x.lease"), state };
        let steps = |orphans| leases(Path::new(DIR), Ok(orphans)).problem.map(|problem| problem.next_steps.join(" "));
        assert_eq!(steps(vec![]), None);
        assert!(steps(vec![orphan(LeaseState::Free)]).unwrap().contains("--fix"));
        assert!(!steps(vec![orphan(LeaseState::Held)]).unwrap().contains("--fix"));
    }
}
