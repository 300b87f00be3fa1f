//! A supervised process and all its descendants, which are ended as a whole.
//!
//! To a tree belong the process group, all descendants, the daemons that we adopted and, of a run whose agent is dead,
//! all processes that carry its mark. A detached program ([`DETACHED`](crate::env::DETACHED), in a group of its own)
//! belongs to no tree. The leader is reaped only after the tree is gone, so its group id cannot be reused before;
//! processes outside the group are signalled by identity. [`ProcessTree::end`] returns only when the whole tree is
//! gone, however long that takes, and a process list that cannot be read does not count as empty.

use super::reaper::Reaper;
use crate::owner_mark::{InstanceRun, is_detached};
use crate::process_table::{self, ProcessEntry, ancestry};
use linchpin_shared::process::{Identity, Signal};
use rustix::process::{Pid, kill_process_group};
use std::collections::BTreeSet;
use std::io;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// The pauses between two checks of a tree that ends: short ones first, because most trees end at once.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LAST_PAUSE: Duration = Duration::from_millis(50);
/// When to check again after no marked process was found: during an exec a process has no environment, hence no mark.
const RECHECK_AFTER: Duration = Duration::from_millis(20);
/// How often SIGKILL is repeated, for processes that were started meanwhile.
const KILL_INTERVAL: Duration = Duration::from_millis(100);
/// When a process that does not end on SIGKILL is logged. It waits inside the kernel.
const STUCK_AFTER: Duration = Duration::from_secs(10);

/// A set of processes that are ended together. Each includes all descendants.
#[derive(Debug, Clone, Copy)]
pub(crate) enum ProcessTree<'a> {
    /// One supervised process: its group, which has the id of its leader, and the adopted children with its mark.
    Supervised {
        /// The leader, which has not been reaped.
        leader: Pid,
        /// The mark.
        owner: &'a str,
        /// Knows which children were adopted.
        reaper: &'a Reaper,
    },
    /// All children that this process adopted.
    Adopted(&'a Reaper),
    /// What earlier runs of this instance left whose agents were killed.
    EarlierRuns(Uuid),
    /// What this one run left. Use it only when the agent of the run is known to be dead.
    DeadRun(InstanceRun),
}

/// How much time a tree gets to end by itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StopTimeouts {
    /// Before SIGTERM is sent.
    pub(crate) before_term: Duration,
    /// Between SIGTERM and SIGKILL.
    pub(crate) after_term: Duration,
}

impl ProcessTree<'_> {
    /// Ends the tree: with SIGTERM after the first timeout, with SIGKILL after the second. `kill` ends both timeouts.
    pub(crate) async fn end(&self, timeouts: StopTimeouts, kill: &CancellationToken) {
        if self.is_gone_within(timeouts.before_term, kill).await {
            return;
        }
        loop {
            self.end_found(timeouts, kill).await;
            let by_mark = match self {
                Self::Supervised { .. } | Self::Adopted(_) => false,
                Self::EarlierRuns(_) | Self::DeadRun(_) => true,
            };
            if !by_mark {
                return;
            }
            sleep(RECHECK_AFTER).await;
            if self.is_gone() {
                return;
            }
        }
    }

    async fn end_found(&self, timeouts: StopTimeouts, kill: &CancellationToken) {
        if !kill.is_cancelled() {
            self.signal(Signal::TERM);
            // A stopped process receives SIGTERM only once it continues.
            self.signal(Signal::CONT);
            if self.is_gone_within(timeouts.after_term, kill).await {
                return;
            }
        }
        let started = Instant::now();
        let mut logged = false;
        loop {
            self.signal(Signal::KILL);
            if self.is_gone_within(KILL_INTERVAL, &CancellationToken::new()).await {
                return;
            }
            if !logged && started.elapsed() > STUCK_AFTER {
                logged = true;
                tracing::warn!(left = ?self.members(), "processes do not end on SIGKILL; waiting for them");
            }
        }
    }

    async fn is_gone_within(&self, within: Duration, kill: &CancellationToken) -> bool {
        let deadline = Instant::now() + within;
        let mut pause = FIRST_PAUSE;
        loop {
            if self.is_gone() {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || kill.run_until_cancelled(sleep(pause.min(left))).await.is_none() {
                return false;
            }
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }

    fn is_gone(&self) -> bool {
        self.members().is_ok_and(|members| members.is_empty())
    }

    fn signal(&self, signal: Signal) {
        let members = match self.members() {
            Ok(members) => members,
            Err(error) => {
                tracing::warn!(%error, "cannot list processes; only the process group is signalled");
                Vec::new()
            }
        };
        let leader = match *self {
            Self::Supervised { leader, .. } => Some(leader),
            Self::Adopted(_) | Self::EarlierRuns(_) | Self::DeadRun(_) => None,
        };
        if let Some(leader) = leader
            && let Err(error) = kill_process_group(leader, signal)
        {
            tracing::debug!(%error, ?signal, "cannot signal the process group");
        }
        let group = leader.map_or(0, number);
        for member in members.iter().filter(|member| member.group != group) {
            if let Err(error) = member.signal(signal) {
                tracing::warn!(%error, pid = member.pid, ?signal, "cannot signal a process");
            }
        }
    }

    /// Returns the identities of all living members.
    pub(crate) fn identities(&self) -> io::Result<Vec<Identity>> {
        let identity =
            |member: &ProcessEntry| Identity::of(member.pid).ok().filter(|it| it.start_ticks == member.start_ticks);
        Ok(self.members()?.iter().filter_map(identity).collect())
    }

    /// Returns all living members.
    pub(super) fn members(&self) -> io::Result<Vec<ProcessEntry>> {
        let table = process_table::read()?;
        let (group, roots) = match *self {
            Self::Supervised { leader, owner, reaper } => {
                let mut roots = reaper.adopted(&table, Some(owner));
                roots.push(number(leader));
                (Some(number(leader)), roots)
            }
            Self::Adopted(reaper) => (None, reaper.adopted(&table, None)),
            Self::EarlierRuns(instance) => {
                (None, marked(&table, |run| run.instance == instance && !run.has_live_agent()))
            }
            Self::DeadRun(dead) => (None, marked(&table, |run| run == dead)),
        };
        Ok(members(&table, group, roots, is_detached))
    }
}

const fn number(pid: Pid) -> u32 {
    pid.as_raw_nonzero().get().cast_unsigned()
}

/// Returns the living processes whose marks name such a run. Detached processes, this process and its ancestors are
/// left out.
fn marked(table: &[ProcessEntry], wanted: impl Fn(InstanceRun) -> bool) -> Vec<u32> {
    let ancestry = ancestry(table);
    let alive = table.iter().filter(|entry| !entry.ended && !ancestry.contains(&entry.pid)).map(|entry| entry.pid);
    alive.filter(|pid| InstanceRun::marked_on(*pid).is_some_and(&wanted) && !is_detached(*pid)).collect()
}

/// Returns the living members of the group and of the roots with all their descendants. A descendant that `is_detached`
/// is left out together with its own descendants.
fn members(
    table: &[ProcessEntry],
    group: Option<u32>,
    roots: Vec<u32>,
    is_detached: impl Fn(u32) -> bool,
) -> Vec<ProcessEntry> {
    let mut tree = BTreeSet::from_iter(roots);
    let in_group = |entry: &ProcessEntry| group == Some(entry.group);
    tree.extend(table.iter().filter(|entry| in_group(entry)).map(|entry| entry.pid));
    let mut detached = BTreeSet::new();
    loop {
        let before = (tree.len(), detached.len());
        let children = table.iter().filter(|entry| tree.contains(&entry.parent) && !tree.contains(&entry.pid));
        let (left, found): (Vec<u32>, Vec<u32>) =
            children.map(|entry| entry.pid).filter(|pid| !detached.contains(pid)).partition(|pid| is_detached(*pid));
        detached.extend(left);
        tree.extend(found);
        if before == (tree.len(), detached.len()) {
            break;
        }
    }
    table.iter().filter(|entry| !entry.ended && tree.contains(&entry.pid)).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(pid: u32, parent: u32, group: u32) -> ProcessEntry {
        ProcessEntry { pid, parent, group, start_ticks: 1, ended: false }
    }

    #[test]
    fn a_tree_is_group_descendants_and_adopted_children() {
        let ended = |entry: ProcessEntry| ProcessEntry { ended: true, ..entry };
        let table = [
            entry(1, 0, 1),
            ended(entry(10, 2, 10)), // the leader, not reaped
            entry(11, 1, 10),        // in the group, its parent is gone
            entry(12, 11, 12),       // left the group, but descends from it
            entry(13, 12, 13),
            entry(20, 2, 20), // an adopted child
            entry(21, 20, 20),
            entry(30, 1, 30), // unrelated
            entry(31, 2, 31),
        ];
        let pids = |detached: &[u32]| -> Vec<u32> {
            let members = members(&table, Some(10), vec![10, 20], |pid| detached.contains(&pid));
            members.iter().map(|entry| entry.pid).collect()
        };
        assert_eq!(pids(&[]), [11, 12, 13, 20, 21]);
        assert_eq!(pids(&[12]), [11, 20, 21], "a detached process takes its descendants along");
        assert_eq!(pids(&[11]), [11, 12, 13, 20, 21], "but the group is signalled as a whole");
        assert_eq!(members(&table, None, vec![20], |_| false).len(), 2);
    }
}
