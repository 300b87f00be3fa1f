//! Finds and ends the processes of one lab.
//!
//! Every process that a lab starts carries the mark `LINCHPIN_LAB=VALUE` in its environment, with the lab's own value,
//! and passes it on to its children, whatever session, group or parent they have later. Only a process that carries the
//! mark, or descends from one that does, is ever signalled, and only by its identity, never by its name.

use anyhow::{Result, ensure};
use linchpin_shared::process::{Identity, Signal, command_line};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The variable that carries the mark.
pub const VAR: &str = "LINCHPIN_LAB";

/// The value of [`VAR`] of one lab.
#[derive(Debug, Clone)]
pub struct Mark(String);

impl Mark {
    /// The mark with this value.
    #[must_use]
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// Its value.
    #[must_use]
    pub fn value(&self) -> &str {
        &self.0
    }

    /// All live processes of the lab.
    #[must_use]
    pub fn processes(&self) -> Vec<Identity> {
        let parents = parents();
        let mut ours: BTreeSet<u32> = parents.keys().copied().filter(|pid| self.is_on(*pid)).collect();
        loop {
            let children = parents.iter().filter(|(_, parent)| ours.contains(parent)).map(|(pid, _)| *pid);
            let before = ours.len();
            ours = children.chain(ours.iter().copied()).collect();
            if ours.len() == before {
                return ours.into_iter().filter_map(|pid| Identity::of(pid).ok()).collect();
            }
        }
    }

    fn is_on(&self, pid: u32) -> bool {
        let wanted = format!("{VAR}={}", self.0);
        std::fs::read(format!("/proc/{pid}/environ"))
            .is_ok_and(|environment| environment.split(|byte| *byte == 0).any(|entry| entry == wanted.as_bytes()))
    }

    /// Kills all of them and returns when none is left; what a keeper starts in the meantime is killed in the next
    /// round.
    ///
    /// # Errors
    /// If some are still there after `rounds` rounds of 10 ms; with their command lines.
    pub fn end_all(&self, rounds: u32) -> Result<()> {
        for _ in 0..rounds {
            let left = self.processes();
            if left.is_empty() {
                return Ok(());
            }
            for process in left {
                // If it fails, the process is gone, or it is found again in the next round.
                let _ = process.signal(Signal::KILL);
            }
            #[expect(clippy::disallowed_methods, reason = "is called in drop, where nothing can be awaited")]
            std::thread::sleep(Duration::from_millis(10));
        }
        let left = describe(&self.processes());
        ensure!(left.is_empty(), "these processes do not end:\n{left}");
        Ok(())
    }
}

/// One line for each process: pid and command line.
#[must_use]
pub fn describe(processes: &[Identity]) -> String {
    let line = |process: &Identity| {
        let command = command_line(process.pid).unwrap_or_else(|| process.executable.display().to_string());
        format!("  {} {command}\n", process.pid)
    };
    processes.iter().map(line).collect()
}

/// The parent of every live process, without zombies.
fn parents() -> BTreeMap<u32, u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return BTreeMap::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid: u32| Some((pid, parent(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?)))
        .collect()
}

/// The parent in `/proc/PID/stat`: the second field after the command, which is in parentheses and may contain
/// anything.
fn parent(stat: &str) -> Option<u32> {
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?;
    if matches!(state, "Z" | "X") { None } else { fields.next()?.parse().ok() }
}

/// Removes a directory into which a running program may still write.
///
/// # Errors
/// If it cannot be removed for another reason than a new file in it.
pub fn remove_whole(dir: &std::path::Path) -> std::io::Result<()> {
    loop {
        match std::fs::remove_dir_all(dir) {
            Err(error) if error.kind() == std::io::ErrorKind::DirectoryNotEmpty => {}
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parent_is_found_behind_any_command_name() {
        assert_eq!(parent("7 (a) b (c) S 4 7 7 0"), Some(4));
        assert_eq!(parent("7 (gone) Z 4 7 7 0"), None);
        assert_eq!(parent("7"), None);
    }

    #[test]
    fn only_marked_processes_and_their_children_are_ended() {
        let mark = Mark::new(uuid::Uuid::new_v4().to_string());
        let start = |mark: &str| {
            // The first sleep has no mark and is found as a descendant of the shell.
            let script = "env -u LINCHPIN_LAB sleep 300 & exec sleep 300";
            std::process::Command::new("sh").args(["-c", script]).env(VAR, mark).spawn().unwrap()
        };
        let mut ours = start(mark.value());
        let another = Mark::new(uuid::Uuid::new_v4().to_string());
        let mut other = start(another.value());
        while mark.processes().len() < 2 {
            std::thread::yield_now();
        }
        mark.end_all(200).unwrap();
        assert!(ours.wait().unwrap().code().is_none());
        assert!(other.try_wait().unwrap().is_none(), "another lab's process was ended");
        another.end_all(200).unwrap();
        other.wait().unwrap();
    }
}
