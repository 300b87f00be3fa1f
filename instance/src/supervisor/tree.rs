//! A supervised process and all that came of it, to be ended as a whole.
//!
//! Owns who belongs to a tree: the process group, all descendants, and those that daemonised themselves and came to us.
//! Invariant: the leader is waited for only after the tree is gone, so its group id can be nobody else's; everything
//! outside the group is signalled by identity. [`Tree::end`] returns only when nobody of the tree is left.
//! Never: gives up on a process that does not end, or takes a list that could not be read for an empty one.

use super::reaper::{OWNER, Reaper};
use super::table::{self, Entry};
use linchpin_shared::process::{Identity, Signal};
use rustix::process::{Pid, kill_process_group};
use std::collections::BTreeSet;
use std::io;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// How often the tree is looked at while it ends: at first often, as most end at once.
const LOOK_FIRST: Duration = Duration::from_millis(1);
const LOOK_LAST: Duration = Duration::from_millis(50);
/// How often SIGKILL is repeated, for processes that were born meanwhile.
const KILL_AGAIN: Duration = Duration::from_millis(100);
/// After how long a process that does not even end on SIGKILL is worth a word. It waits inside the kernel.
const STUCK: Duration = Duration::from_secs(10);

/// What belongs together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tree<'a> {
    /// Whom it is about.
    pub(crate) whom: Whom<'a>,
    /// Which children came to us.
    pub(crate) reaper: &'a Reaper,
}

/// Whom a tree is about. Each includes all descendants.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Whom<'a> {
    /// One supervised process: its group, which has the id of its leader, and the children that came to us with its mark.
    Process {
        /// The leader, which was not waited for.
        leader: Pid,
        /// The mark.
        owner: &'a str,
    },
    /// All children that came to us.
    Strays,
    /// What an earlier life of this instance left, which could not end it: all that carry a mark with this beginning.
    /// To be used only by who holds the instance's lease, before it starts anything.
    Earlier(&'a str),
}

/// How much time a tree gets to end by itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// Before SIGTERM.
    pub(crate) unasked: Duration,
    /// After it.
    pub(crate) asked: Duration,
}

impl Tree<'_> {
    /// Ends the tree: after some patience SIGTERM, after more SIGKILL. `hurry` ends all patience.
    pub(crate) async fn end(&self, patience: Patience, hurry: &CancellationToken) {
        if self.is_gone_within(patience.unasked, hurry).await {
            return;
        }
        if !hurry.is_cancelled() {
            self.signal(Signal::TERM);
            // A stopped process does not hear of SIGTERM before it goes on.
            self.signal(Signal::CONT);
            if self.is_gone_within(patience.asked, hurry).await {
                return;
            }
        }
        let begun = Instant::now();
        let mut told = false;
        loop {
            self.signal(Signal::KILL);
            if self.is_gone_within(KILL_AGAIN, &CancellationToken::new()).await {
                return;
            }
            if !told && begun.elapsed() > STUCK {
                told = true;
                tracing::warn!(left = ?self.members(), "processes do not end on SIGKILL; still waiting for them");
            }
        }
    }

    async fn is_gone_within(&self, within: Duration, hurry: &CancellationToken) -> bool {
        let deadline = Instant::now() + within;
        let mut pause = LOOK_FIRST;
        loop {
            if self.members().is_ok_and(|members| members.is_empty()) {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || hurry.run_until_cancelled(sleep(pause.min(left))).await.is_none() {
                return false;
            }
            pause = (pause * 2).min(LOOK_LAST);
        }
    }

    fn signal(&self, signal: Signal) {
        let members = match self.members() {
            Ok(members) => members,
            Err(error) => {
                tracing::warn!(%error, "cannot list processes; only the process group is signalled");
                Vec::new()
            }
        };
        let leader = match self.whom {
            Whom::Process { leader, owner: _ } => Some(leader),
            Whom::Strays | Whom::Earlier(_) => None,
        };
        if let Some(leader) = leader
            && let Err(error) = kill_process_group(leader, signal)
        {
            tracing::debug!(%error, ?signal, "cannot signal the process group");
        }
        let group = leader.map_or(0, number);
        for member in members.iter().filter(|member| member.group != group) {
            if let Err(error) = signal_one(member, signal) {
                tracing::warn!(%error, pid = member.pid, ?signal, "cannot signal a process");
            }
        }
    }

    /// Who of the tree is alive.
    fn members(&self) -> io::Result<Vec<Entry>> {
        let table = table::read()?;
        Ok(match self.whom {
            Whom::Process { leader, owner } => {
                let mut roots = self.reaper.strays(&table, Some(owner));
                roots.push(number(leader));
                members(&table, Some(number(leader)), roots)
            }
            Whom::Strays => members(&table, None, self.reaper.strays(&table, None)),
            Whom::Earlier(mark) => members(&table, None, marked(&table, mark)),
        })
    }
}

const fn number(pid: Pid) -> u32 {
    pid.as_raw_nonzero().get().cast_unsigned()
}

/// The living that carry the mark, except ourselves and those that we come from.
fn marked(table: &[Entry], mark: &str) -> Vec<u32> {
    let mut ancestors = vec![std::process::id()];
    while let Some(entry) = table.iter().find(|entry| Some(&entry.pid) == ancestors.last()) {
        ancestors.push(entry.parent);
    }
    let carries = |pid: u32| table::variable(pid, OWNER).is_some_and(|owner| owner.starts_with(mark));
    let alive = table.iter().filter(|entry| !entry.ended && !ancestors.contains(&entry.pid));
    alive.map(|entry| entry.pid).filter(|pid| carries(*pid)).collect()
}

/// The living among the group and the roots with all their descendants.
fn members(table: &[Entry], group: Option<u32>, roots: Vec<u32>) -> Vec<Entry> {
    let mut tree = BTreeSet::from_iter(roots);
    loop {
        let before = tree.len();
        let belongs = |entry: &&Entry| tree.contains(&entry.parent) || group == Some(entry.group);
        let found: Vec<_> = table.iter().filter(belongs).map(|entry| entry.pid).collect();
        tree.extend(found);
        if tree.len() == before {
            break;
        }
    }
    table.iter().filter(|entry| !entry.ended && tree.contains(&entry.pid)).copied().collect()
}

/// Signals the very process that was listed.
fn signal_one(entry: &Entry, signal: Signal) -> io::Result<bool> {
    match Identity::of(entry.pid) {
        Ok(identity) if identity.start_ticks == entry.start_ticks => identity.signal(signal),
        Ok(_) => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(pid: u32, parent: u32, group: u32) -> Entry {
        Entry { pid, parent, group, start_ticks: 1, ended: false }
    }

    #[test]
    fn a_tree_is_group_descendants_and_strays() {
        let ended = |entry: Entry| Entry { ended: true, ..entry };
        let table = [
            entry(1, 0, 1),
            ended(entry(10, 2, 10)), // the leader, not waited for
            entry(11, 1, 10),        // of the group, its parent is gone
            entry(12, 11, 12),       // left the group, but descends from it
            entry(13, 12, 13),
            entry(20, 2, 20), // a stray
            entry(21, 20, 20),
            entry(30, 1, 30), // strangers
            entry(31, 2, 31),
        ];
        let pids: Vec<_> = members(&table, Some(10), vec![10, 20]).iter().map(|entry| entry.pid).collect();
        assert_eq!(pids, [11, 12, 13, 20, 21]);
        assert_eq!(members(&table, None, vec![20]).len(), 2);
    }
}
