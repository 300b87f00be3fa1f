//! The processes of this machine, as the kernel lists them.
//!
//! Owns the reading of `/proc`. This is the one place to port where a system tells it otherwise.
//! Invariant: an entry is what one process was at one moment; who acts on it checks the start ticks again.
//! Never: fails because a process ended while it was read.

pub(crate) use linchpin_shared::process::variable;
use std::io;

/// What the kernel says of one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Its id.
    pub(crate) pid: u32,
    /// Its parent's id.
    pub(crate) parent: u32,
    /// Its process group.
    pub(crate) group: u32,
    /// When it started, in clock ticks since boot.
    pub(crate) start_ticks: u64,
    /// Whether all of it ended and was not waited for. A process whose first thread ended (pthread_exit(3)) while others
    /// go on looks dead at first sight: it still has its memory, its files and its ports.
    pub(crate) ended: bool,
}

/// All processes that can be seen.
pub(crate) fn read() -> io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for file in std::fs::read_dir("/proc")? {
        let Some(pid) = file?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        match std::fs::read(format!("/proc/{pid}/stat")) {
            // A name is any bytes: one that was cut to 15 of them may end in half a character.
            Ok(stat) => entries.extend(parse(pid, &String::from_utf8_lossy(&stat))),
            // It ended since it was listed, or it is another user's and hidden (hidepid of proc(5)).
            Err(error) if is_gone(&error) || error.kind() == io::ErrorKind::PermissionDenied => {}
            Err(error) => return Err(error),
        }
    }
    Ok(entries)
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

/// `/proc/PID/stat`, proc_pid_stat(5). The name in field 2 may hold spaces and parentheses, so fields are counted from
/// the last closing one.
fn parse(pid: u32, stat: &str) -> Option<Entry> {
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    let group = fields.next()?.parse().ok()?;
    // Fields 20 and 22; the three above are 3 to 5.
    let threads: u32 = fields.nth(14)?.parse().ok()?;
    let start_ticks = fields.nth(1)?.parse().ok()?;
    Some(Entry { pid, parent, group, start_ticks, ended: matches!(state, "Z" | "X") && threads <= 1 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strange_name_does_not_shift_the_fields() {
        let stat = "42 (a) Z 1 (b)) S 7 40 40 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 889922 1 2 3";
        let entry = Entry { pid: 42, parent: 7, group: 40, start_ticks: 889_922, ended: false };
        assert_eq!(parse(42, stat), Some(entry));
        assert_eq!(parse(42, "42 (a) S 7"), None);
    }

    #[test]
    fn a_process_has_ended_only_when_its_last_thread_has() {
        let ended = |state: &str, threads: u32| {
            let stat = format!("42 (a) {state} 7 40 40 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 {threads} 0 889922 1 2 3");
            parse(42, &stat).unwrap().ended
        };
        assert_eq!([ended("S", 1), ended("Z", 1), ended("Z", 0), ended("Z", 3)], [false, true, true, false]);
    }

    #[test]
    fn we_are_listed() {
        let us = std::process::id();
        let entry = read().unwrap().into_iter().find(|entry| entry.pid == us).unwrap();
        let identity = linchpin_shared::process::Identity::current().unwrap();
        assert_eq!(entry.start_ticks, identity.start_ticks);
        assert!(!entry.ended);
    }
}
