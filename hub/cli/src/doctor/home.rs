//! The checks `home`, `permissions`, `parents`, `space` and `logs`: the home directory, its free space and the size of
//! its logs.
//!
//! They create nothing. If the home does not exist, Linchpin has not been used on this machine yet.

use super::check::Check;
use super::places;
use linchpin_shared::home::Home;
use linchpin_shared::problem::{Code, Problem};
use linchpin_shared::settings::LogSettings;
use rustix::fs::{Access, AtFlags, CWD};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Below this many free bytes something fails soon. A hub writes kilobytes, and most of that are its logs.
const LOW_BYTES: u64 = 100 << 20;
/// Below this many free bytes something fails now.
const NO_BYTES: u64 = 1 << 20;

/// Below this many free inodes something fails soon. Each instance has two files and a few logs.
const LOW_INODES: u64 = 1_000;
/// Below this many free inodes something fails now.
const NO_INODES: u64 = 10;

/// Above this size the logs are reported, whatever the settings allow.
const MANY_LOG_BYTES: u64 = 1 << 30;

/// Runs all checks of this file.
pub(super) fn checks(home: &Home, log: &LogSettings) -> Vec<Check> {
    let mut checks = vec![home_directory(home)];
    checks.extend(permissions(home));
    checks.push(parents(home));
    checks.push(space(home));
    checks.push(logs(home, log));
    checks
}

/// Whether the home can be used, or created.
fn home_directory(home: &Home) -> Check {
    let root = home.root();
    if !root.is_absolute() {
        let problem = Problem::new(Code::HomeUnusable, format!("{} is not an absolute path", root.display()));
        return Check::error("home", problem.next("set LINCHPIN_HOME to an absolute path, or unset it"));
    }
    let Some(there) = root.ancestors().find(|path| path.exists()) else {
        return Check::error("home", Problem::new(Code::HomeUnusable, "no directory of its path exists"));
    };
    if let Err(error) = rustix::fs::accessat(CWD, there, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS) {
        let what = format!("cannot write to {}", there.display());
        let problem = Problem::from_io(&error.into(), Code::HomeUnusable, what)
            .seen("path", there.display().to_string())
            .next(format!(
                "ls -ld {0}; findmnt -T {0}    (shows its owner, and whether it is mounted read-only)",
                there.display()
            ))
            .next("become its owner, or set LINCHPIN_HOME to another directory");
        return Check::error("home", problem);
    }
    if there == root {
        Check::ok("home", format!("{} is writable", root.display()))
    } else {
        Check::ok("home", format!("{} does not exist yet; the first command that needs it creates it", root.display()))
    }
}

/// Whether everything in it is private and belongs to the user.
fn permissions(home: &Home) -> Vec<Check> {
    let faults = places::faults(home);
    if faults.is_empty() {
        return vec![Check::ok("permissions", "everything in it is private and belongs to you")];
    }
    let check = |fault: places::PermissionFault| {
        Check::error("permissions", fault.problem).about(fault.path.display().to_string())
    };
    faults.into_iter().map(check).collect()
}

/// Whether another user could replace this directory by another one.
fn parents(home: &Home) -> Check {
    let us = rustix::process::geteuid().as_raw();
    let above = home.root().ancestors().skip(1).filter_map(|dir| Some((dir, dir.metadata().ok()?)));
    match above.into_iter().find(|(_, facts)| lets_others_rename(facts.mode(), facts.uid(), us)) {
        None => Check::ok("parents", "no other user can replace the home"),
        Some((dir, facts)) => {
            let shown = dir.display();
            let problem = Problem::new(
                Code::HomeUnusable,
                format!("other users can rename what is in {shown}, and so replace the home"),
            )
            .seen("path", shown.to_string())
            .seen("owner", facts.uid())
            .seen("mode", format!("{:04o}", facts.mode() & 0o7777));
            Check::warning(
                "parents",
                problem.next(format!("ls -ld {shown}")).next("set LINCHPIN_HOME to a directory that belongs to you"),
            )
        }
    }
}

/// Whether a directory with this mode and owner lets users other than us and root rename what is ours in it. A sticky
/// directory does not.
const fn lets_others_rename(mode: u32, owner: u32, us: u32) -> bool {
    (owner != us && owner != 0) || mode & 0o1002 == 0o002
}

fn space(home: &Home) -> Check {
    let there = home.root().ancestors().find(|path| path.exists()).unwrap_or(home.root());
    match rustix::fs::statvfs(there) {
        Ok(facts) => judge_space(there, facts.f_bavail.saturating_mul(facts.f_frsize), (facts.f_favail, facts.f_files)),
        Err(error) => {
            let what = format!("cannot determine the free space of {}", there.display());
            let problem = Problem::from_io(&error.into(), Code::HomeUnusable, what);
            Check::warning("space", problem.next(format!("df -h {}", there.display())))
        }
    }
}

fn judge_space(place: &Path, bytes: u64, (inodes, all_inodes): (u64, u64)) -> Check {
    // A file system that does not count inodes reports that it has none.
    let inodes = if all_inodes == 0 { u64::MAX } else { inodes };
    let seen = format!(
        "{} free, {} free inodes",
        size(bytes),
        if inodes == u64::MAX { "unlimited".into() } else { inodes.to_string() }
    );
    if bytes >= LOW_BYTES && inodes >= LOW_INODES {
        return Check::ok("space", seen);
    }
    let problem = Problem::new(Code::NoSpace, format!("little space is left in {}: {seen}", place.display()))
        .seen("path", place.display().to_string())
        .seen("free bytes", bytes)
        .seen("free inodes", inodes)
        .next(format!("df -h {0}; df -i {0}", place.display()))
        .next("free some space, or set LINCHPIN_HOME to a directory on another disk");
    if bytes < NO_BYTES || inodes < NO_INODES {
        Check::error("space", problem)
    } else {
        Check::warning("space", problem)
    }
}

/// How much space the logs take.
fn logs(home: &Home, log: &LogSettings) -> Check {
    let (mut total, mut largest) = (0, 0);
    add_sizes(&home.logs(), 2, &mut |bytes| {
        total += bytes;
        largest = largest.max(bytes);
    });
    judge_logs(&home.logs(), total, largest, log)
}

fn judge_logs(dir: &Path, total: u64, largest: u64, log: &LogSettings) -> Check {
    let problem = |detail: String| {
        Problem::new(Code::NoSpace, detail)
            .seen("path", dir.display().to_string())
            .next(format!("du -ah {} | sort -h | tail", dir.display()))
    };
    // A line is never split, so a file may exceed the setting by one line.
    if largest > log.max_bytes.saturating_mul(2) {
        let problem = problem(format!(
            "a log file has {}, although it should be rotated at {}",
            size(largest),
            size(log.max_bytes)
        ));
        return Check::warning("logs", problem.next("remove it if it is not needed"));
    }
    if total > MANY_LOG_BYTES {
        let problem = problem(format!("the logs take {}", size(total)));
        return Check::warning(
            "logs",
            problem.next("remove those of instances that no longer exist, or lower log.keep"),
        );
    }
    Check::ok("logs", format!("{} in total", size(total)))
}

fn add_sizes(dir: &Path, levels: usize, add: &mut impl FnMut(u64)) {
    let Ok(files) = dir.read_dir() else { return };
    for file in files.flatten() {
        match file.metadata() {
            Ok(facts) if facts.is_dir() && levels > 0 => add_sizes(&file.path(), levels - 1, add),
            Ok(facts) if facts.is_file() => add(facts.len()),
            Ok(_) | Err(_) => {}
        }
    }
}

/// Formats a number of bytes in the largest unit that fits.
fn size(bytes: u64) -> String {
    match bytes {
        b if b < 10 << 10 => format!("{b} bytes"),
        b if b < 10 << 20 => format!("{} kB", b >> 10),
        b if b < 10 << 30 => format!("{} MB", b >> 20),
        b => format!("{} GB", b >> 30),
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::Severity;
    use super::*;

    #[test]
    fn space_means_bytes_and_inodes() {
        let level = |bytes, inodes| judge_space(Path::new("/x"), bytes, inodes).level;
        assert_eq!(level(LOW_BYTES, (LOW_INODES, 1)), Severity::Ok);
        assert_eq!(level(LOW_BYTES, (0, 0)), Severity::Ok, "a file system without inodes");
        assert_eq!(level(LOW_BYTES - 1, (LOW_INODES, 1)), Severity::Warning);
        assert_eq!(level(LOW_BYTES, (LOW_INODES - 1, 1)), Severity::Warning);
        assert_eq!(level(0, (LOW_INODES, 1)), Severity::Error);
        assert_eq!(level(LOW_BYTES, (0, 1)), Severity::Error);
    }

    #[test]
    fn large_logs_are_reported() {
        let log = LogSettings { max_bytes: 10, keep: 1 };
        let level = |total, largest| judge_logs(Path::new("/x"), total, largest, &log).level;
        assert_eq!(
            [level(20, 20), level(21, 21), level(MANY_LOG_BYTES + 1, 1)],
            [Severity::Ok, Severity::Warning, Severity::Warning]
        );
    }

    #[test]
    fn a_missing_home_is_ok_and_not_created() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path().join("a/b"));
        let log = LogSettings { max_bytes: 10, keep: 1 };
        assert!(checks(&home, &log).iter().all(|check| check.level == Severity::Ok));
        assert_eq!(dir.path().read_dir().unwrap().count(), 0);
        assert_eq!(home_directory(&Home::at("relative")).level, Severity::Error);
    }
}
