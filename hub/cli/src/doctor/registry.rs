//! The checks `lock`, `file system`, `leases` and `leftovers` of the registry directory.
//!
//! Nothing is locked, and nothing is waited for longer than [`PATIENCE`], so a lock that is held for a moment is not
//! reported as stuck.

use super::check::Check;
use super::process_info;
use linchpin_shared::home::Home;
use linchpin_shared::problem::{Code, Problem};
use linchpin_shared::process::Identity;
use linchpin_shared::registry::{LeaseState, Orphan, Registry};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long the directory lock may be held before it is reported. A holder needs milliseconds.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often the lock is checked meanwhile.
const PAUSE: Duration = Duration::from_millis(20);

/// The file systems whose locks may not reach other machines: their magic numbers (statfs(2)) and names.
const REMOTE: [(u64, &str); 6] = [
    (0x6969, "NFS"),
    (0x517B, "SMB"),
    (0xFF53_4D42, "CIFS"),
    (0xFE53_4D42, "SMB2"),
    (0x0102_1997, "9P"),
    (0x6573_5546, "FUSE"),
];

/// Runs all checks of this file, or a single one if there is no registry yet.
pub(super) async fn checks(home: &Home) -> Vec<Check> {
    let registry = Registry::new(home);
    if !registry.dir().is_dir() {
        return vec![Check::ok("registry", "it does not exist yet")];
    }
    let locked = wait_for_lock(&registry).await;
    vec![
        lock(registry.dir(), &locked, registry.lock_holder().as_ref()),
        file_system(registry.dir(), &locked),
        leases(registry.dir(), registry.orphans()),
        leftovers(registry.dir(), registry.leftovers()),
    ]
}

/// Returns the state of the lock, after waiting for a held one to become free.
async fn wait_for_lock(registry: &Registry) -> io::Result<LeaseState> {
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
        // On a file system without locks the content of the file is the lock: it is held by the process that is named
        // there, if that is alive.
        Ok(LeaseState::Unsupported) if holder.is_none() => Check::ok("lock", "no process claims the directory lock"),
        Ok(LeaseState::Held | LeaseState::Unsupported) => {
            let problem = Problem::new(Code::LockTimeout, format!("the directory lock has been held for {PATIENCE:?}"))
                .seen("path", shown.to_string());
            let problem = match holder {
                Some(holder) => process_info::describe(problem, holder),
                None => problem.next(format!("fuser -v {shown}    (shows who holds it)")),
            };
            Check::error("lock", problem.next("linchpin doctor"))
        }
        Err(error) => {
            let problem = Problem::from_io(error, Code::HomeUnusable, "cannot examine the directory lock")
                .seen("path", shown.to_string());
            Check::error("lock", problem.next("linchpin doctor --fix").next(format!("ls -l {shown}")))
        }
    }
}

fn file_system(dir: &Path, locked: &io::Result<LeaseState>) -> Check {
    // The type of this field differs between machines.
    #[expect(clippy::cast_sign_loss, clippy::useless_conversion, reason = "a magic number of 32 bits")]
    let kind = rustix::fs::statfs(dir).map_or(0, |facts| u64::from(facts.f_type as u64) & 0xFFFF_FFFF);
    judge_file_system(dir, locked.as_ref().copied().unwrap_or(LeaseState::Missing), kind)
}

fn judge_file_system(dir: &Path, locked: LeaseState, kind: u64) -> Check {
    let remote = REMOTE.iter().find(|(magic, _)| *magic == kind).map(|(_, name)| *name);
    let detail = match (locked, remote) {
        (LeaseState::Unsupported, _) => {
            "the file system of the registry does not support locks, so pid, start time and boot id decide whether a process is alive".to_owned()
        }
        (_, Some(name)) => format!("the registry is on {name}, whose locks may not reach other machines"),
        (LeaseState::Missing, None) => return Check::ok("file system", "a local one, and nothing is locked there yet"),
        (LeaseState::Held | LeaseState::Free, None) => {
            return Check::ok("file system", "the file system of the registry supports locks");
        }
    };
    let problem = Problem::new(Code::HomeUnusable, detail)
        .seen("path", dir.display().to_string())
        .next(format!("findmnt -T {}", dir.display()))
        .next("set LINCHPIN_HOME to a directory on a local disk");
    Check::warning("file system", problem)
}

/// Leases without a record.
fn leases(dir: &Path, orphans: io::Result<Vec<Orphan>>) -> Check {
    let orphans = match orphans {
        Ok(orphans) => orphans,
        Err(error) => return unreadable("leases", dir, &error),
    };
    let (held, free): (Vec<_>, Vec<_>) = orphans.into_iter().partition(|orphan| orphan.state == LeaseState::Held);
    if let Some(orphan) = held.first() {
        let detail = format!(
            "{} held without a record; a live holder writes its record again within a second",
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
            let detail = format!("{} left without a record and without a holder", count(free.len(), "lease"));
            let problem = Problem::new(Code::Stale, detail).seen("path", orphan.path.display().to_string());
            Check::warning("leases", problem.next("linchpin doctor --fix"))
        }
    }
}

/// Temporary files of dead processes.
fn leftovers(dir: &Path, files: io::Result<Vec<PathBuf>>) -> Check {
    match files {
        Err(error) => unreadable("leftovers", dir, &error),
        Ok(files) => match files.first() {
            None => Check::ok("leftovers", "no process left a temporary file"),
            Some(first) => {
                let detail = format!("{} left by dead processes", count(files.len(), "temporary file"));
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

/// `1 lease is`, `2 leases are`.
pub(super) fn count(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what} is") } else { format!("{number} {what}s are") }
}

#[cfg(test)]
mod tests {
    use super::super::check::Severity;
    use super::*;
    use uuid::Uuid;

    const DIR: &str = "/r";

    #[test]
    fn a_held_lock_names_its_holder() {
        let me = Identity::current().unwrap();
        let check = lock(Path::new(DIR), &Ok(LeaseState::Held), Some(&me));
        assert_eq!(check.level, Severity::Error);
        assert_eq!(check.problem.unwrap().observed["pid"], me.pid);
        let steps = lock(Path::new(DIR), &Ok(LeaseState::Held), None).problem.unwrap().next_steps;
        assert!(steps[0].contains("fuser"));
        assert_eq!(lock(Path::new(DIR), &Ok(LeaseState::Free), Some(&me)).level, Severity::Ok);
    }

    #[test]
    fn file_systems() {
        let level = |locked, kind| judge_file_system(Path::new(DIR), locked, kind).level;
        let (free, none) = (LeaseState::Free, LeaseState::Unsupported);
        assert_eq!(
            [level(free, 0xEF53), level(free, 0x6969), level(none, 0xEF53)],
            [Severity::Ok, Severity::Warning, Severity::Warning]
        );
    }

    #[test]
    fn a_held_lease_without_a_record_is_not_dead() {
        let orphan = |state| Orphan { id: Uuid::nil(), path: PathBuf::from("/r/x.lease"), state };
        let steps = |orphans| leases(Path::new(DIR), Ok(orphans)).problem.map(|problem| problem.next_steps.join(" "));
        assert_eq!(steps(vec![]), None);
        assert!(steps(vec![orphan(LeaseState::Free)]).unwrap().contains("--fix"));
        assert!(!steps(vec![orphan(LeaseState::Held)]).unwrap().contains("--fix"));
    }
}
