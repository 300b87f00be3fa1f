//! The processes of this machine, as `/proc` lists them: the one file to port to a system without it.
//!
//! An entry describes a process at one moment, so start ticks are checked again before anything is done to it
//! ([`ProcessEntry::signal`]). A process that ends while the table is read is left out.

pub(crate) use linchpin_shared::process::variable;

use linchpin_shared::process::{Identity, Signal};
use rustix::io::Errno;
use std::io;

/// What the kernel reports about one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProcessEntry {
    pub(crate) pid: u32,
    /// The parent's pid.
    pub(crate) parent: u32,
    /// The id of its process group.
    pub(crate) group: u32,
    /// When it started, in clock ticks since boot.
    pub(crate) start_ticks: u64,
    /// Whether all its threads have ended and its parent has not waited for it. A process whose first thread ended
    /// (pthread_exit(3)) while others go on is a zombie by its state alone, yet keeps its memory, files and ports.
    pub(crate) ended: bool,
}

impl ProcessEntry {
    /// Signals the process that was listed, or returns `false` when it is gone.
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<bool> {
        match Identity::of(self.pid) {
            Ok(identity) if identity.start_ticks == self.start_ticks => identity.signal(signal),
            Ok(_) => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Returns this process and its ancestors.
pub(crate) fn ancestry(table: &[ProcessEntry]) -> Vec<u32> {
    let mut ancestry = vec![std::process::id()];
    while let Some(entry) = table.iter().find(|entry| Some(&entry.pid) == ancestry.last()) {
        ancestry.push(entry.parent);
    }
    ancestry
}

/// Lists all visible processes.
pub(crate) fn read() -> io::Result<Vec<ProcessEntry>> {
    let mut entries = Vec::new();
    for file in std::fs::read_dir("/proc")? {
        let Some(pid) = file?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        match std::fs::read(format!("/proc/{pid}/stat")) {
            // A name may be any bytes: the kernel cuts it after 15 of them, perhaps within a character.
            Ok(stat) => entries.extend(parse(pid, &String::from_utf8_lossy(&stat))),
            // It has ended since the directory was read, or it belongs to another user and is hidden (hidepid,
            // proc(5)).
            Err(error) if is_gone(&error) || error.kind() == io::ErrorKind::PermissionDenied => {}
            Err(error) => return Err(error),
        }
    }
    Ok(entries)
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(Errno::SRCH.raw_os_error())
}

/// Parses `/proc/PID/stat`, proc_pid_stat(5). The name in field 2 may contain spaces and parentheses, so fields are
/// counted from the last closing one.
fn parse(pid: u32, stat: &str) -> Option<ProcessEntry> {
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    let group = fields.next()?.parse().ok()?;
    // Fields 20 and 22; the three above are 3 to 5.
    let threads: u32 = fields.nth(14)?.parse().ok()?;
    let start_ticks = fields.nth(1)?.parse().ok()?;
    Some(ProcessEntry { pid, parent, group, start_ticks, ended: matches!(state, "Z" | "X") && threads <= 1 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strange_name_does_not_shift_the_fields() {
        let stat = "42 (a) Z 1 (b)) S 7 40 40 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 889922 1 2 3";
        let entry = ProcessEntry { pid: 42, parent: 7, group: 40, start_ticks: 889_922, ended: false };
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
    fn this_process_is_listed() {
        let pid = std::process::id();
        let entry = read().unwrap().into_iter().find(|entry| entry.pid == pid).unwrap();
        let identity = Identity::current().unwrap();
        assert_eq!(entry.start_ticks, identity.start_ticks);
        assert!(!entry.ended);
    }
}
