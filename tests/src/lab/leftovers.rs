//! The processes of one lab, found and ended.
//!
//! Owns the mark: every process that a lab starts carries `LINCHPIN_LAB=<the lab's own value>` in its environment, and
//! hands it on to its children, whatever session, group or parent they have later.
//! Invariant: only a process that carries the mark, or descends from one that does, is ever signalled, and only by
//! identity. Never: matches by name.

use anyhow::{Result, ensure};
use linchpin_shared::process::{Identity, Signal, command_line};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The variable that carries the mark.
pub const VAR: &str = "LINCHPIN_LAB";

/// A lab's own value of [`VAR`].
#[derive(Debug, Clone)]
pub struct Mark(String);

impl Mark {
    /// The mark of this value.
    #[must_use]
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// Its value.
    #[must_use]
    pub fn value(&self) -> &str {
        &self.0
    }

    /// All living processes of the lab.
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

    /// Ends all of them with SIGKILL and comes back when none is left; a keeper that starts another meanwhile is caught
    /// by the next round.
    ///
    /// # Errors
    /// When some are still there after `rounds` rounds of 10 ms; their command lines are told.
    pub fn end_all(&self, rounds: u32) -> Result<()> {
        for _ in 0..rounds {
            let left = self.processes();
            if left.is_empty() {
                return Ok(());
            }
            for process in left {
                // Gone already, or it will be seen again in the next round.
                let _ = process.signal(Signal::KILL);
            }
            #[expect(clippy::disallowed_methods, reason = "runs in drops, where nothing can be awaited")]
            std::thread::sleep(Duration::from_millis(10));
        }
        let left = describe(&self.processes());
        ensure!(left.is_empty(), "these do not end:\n{left}");
        Ok(())
    }
}

/// One line a process: pid and command line.
#[must_use]
pub fn describe(processes: &[Identity]) -> String {
    let line = |process: &Identity| {
        let command = command_line(process.pid).unwrap_or_else(|| process.executable.display().to_string());
        format!("  {} {command}\n", process.pid)
    };
    processes.iter().map(line).collect()
}

/// The parent of every living process; those that only wait to be reaped are left out.
fn parents() -> BTreeMap<u32, u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return BTreeMap::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid: u32| Some((pid, parent(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?)))
        .collect()
}

/// The parent in `/proc/PID/stat`: the second field after the command, which is in parentheses and may hold anything.
fn parent(stat: &str) -> Option<u32> {
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?;
    if matches!(state, "Z" | "X") { None } else { fields.next()?.parse().ok() }
}

/// Removes a directory into which a program that runs may be writing at this very moment.
///
/// # Errors
/// When it cannot be removed for another reason than a new file in it.
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
            // The inner shell drops the mark and its parent: it is still found, as a descendant, while the chain lives.
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
