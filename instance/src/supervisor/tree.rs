//! A supervised process and all that came of it, to be ended as a whole.
//!
//! Owns who belongs to a tree: the process group, all descendants, those that daemonised themselves and came to us, and,
//! of a life whose agent is dead, all that carry its mark. Who left on purpose ([`super::DETACHED`], in a group of its
//! own) belongs to none.
//! Invariant: the leader is waited for only after the tree is gone, so its group id can be nobody else's; everything
//! outside the group is signalled by identity. [`Tree::end`] returns only when nobody of the tree is left.
//! Never: gives up on a process that does not end, or takes a list that could not be read for an empty one.

use super::mark::{Life, left_on_purpose};
use super::reaper::Reaper;
use super::table::{self, Entry};
use linchpin_shared::process::{Identity, Signal};
use rustix::process::{Pid, kill_process_group};
use std::collections::BTreeSet;
use std::io;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// How often the tree is looked at while it ends: at first often, as most end at once.
const LOOK_FIRST: Duration = Duration::from_millis(1);
const LOOK_LAST: Duration = Duration::from_millis(50);
/// How long after nobody was seen to look again: in the midst of an exec a process shows no environment, so no mark.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// How often SIGKILL is repeated, for processes that were born meanwhile.
const KILL_AGAIN: Duration = Duration::from_millis(100);
/// After how long a process that does not even end on SIGKILL is worth a word. It waits inside the kernel.
const STUCK: Duration = Duration::from_secs(10);

/// What belongs together. Each includes all descendants.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Tree<'a> {
    /// One supervised process: its group, which has the id of its leader, and the children that came to us with its mark.
    Process {
        /// The leader, which was not waited for.
        leader: Pid,
        /// The mark.
        owner: &'a str,
        /// Which children came to us.
        reaper: &'a Reaper,
    },
    /// All children that came to us.
    Strays(&'a Reaper),
    /// What earlier lives of this instance left, whose agents were killed.
    Earlier(Uuid),
    /// What this one life left. To be used only when its agent is known to be dead.
    Dead(Life),
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
        loop {
            self.end_seen(patience, hurry).await;
            let by_mark = match self {
                Self::Process { .. } | Self::Strays(_) => false,
                Self::Earlier(_) | Self::Dead(_) => true,
            };
            if !by_mark {
                return;
            }
            sleep(LOOK_AGAIN).await;
            if self.is_gone() {
                return;
            }
        }
    }

    async fn end_seen(&self, patience: Patience, hurry: &CancellationToken) {
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
            if self.is_gone() {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || hurry.run_until_cancelled(sleep(pause.min(left))).await.is_none() {
                return false;
            }
            pause = (pause * 2).min(LOOK_LAST);
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
            Self::Process { leader, .. } => Some(leader),
            Self::Strays(_) | Self::Earlier(_) | Self::Dead(_) => None,
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

    /// Who of the tree is alive, by names that hold.
    pub(crate) fn identities(&self) -> io::Result<Vec<Identity>> {
        let identity = |member: &Entry| Identity::of(member.pid).ok().filter(|it| it.start_ticks == member.start_ticks);
        Ok(self.members()?.iter().filter_map(identity).collect())
    }

    /// Who of the tree is alive.
    pub(super) fn members(&self) -> io::Result<Vec<Entry>> {
        let table = table::read()?;
        let (group, roots) = match *self {
            Self::Process { leader, owner, reaper } => {
                let mut roots = reaper.strays(&table, Some(owner));
                roots.push(number(leader));
                (Some(number(leader)), roots)
            }
            Self::Strays(reaper) => (None, reaper.strays(&table, None)),
            Self::Earlier(instance) => (None, marked(&table, |life| life.instance == instance && !life.is_lived())),
            Self::Dead(dead) => (None, marked(&table, |life| life == dead)),
        };
        Ok(members(&table, group, roots, left_on_purpose))
    }
}

const fn number(pid: Pid) -> u32 {
    pid.as_raw_nonzero().get().cast_unsigned()
}

/// The living that carry the mark of such a life and did not leave on purpose, except ourselves and those that we come
/// from.
fn marked(table: &[Entry], wanted: impl Fn(Life) -> bool) -> Vec<u32> {
    let mut ancestors = vec![std::process::id()];
    while let Some(entry) = table.iter().find(|entry| Some(&entry.pid) == ancestors.last()) {
        ancestors.push(entry.parent);
    }
    let alive = table.iter().filter(|entry| !entry.ended && !ancestors.contains(&entry.pid)).map(|entry| entry.pid);
    alive.filter(|pid| Life::marked_on(*pid).is_some_and(&wanted) && !left_on_purpose(*pid)).collect()
}

/// The living among the group and the roots with all their descendants, without those of them that are `free`.
fn members(table: &[Entry], group: Option<u32>, roots: Vec<u32>, free: impl Fn(u32) -> bool) -> Vec<Entry> {
    let mut tree = BTreeSet::from_iter(roots);
    let in_group = |entry: &Entry| group == Some(entry.group);
    tree.extend(table.iter().filter(|entry| in_group(entry)).map(|entry| entry.pid));
    let mut left = BTreeSet::new();
    loop {
        let before = (tree.len(), left.len());
        let children = table.iter().filter(|entry| tree.contains(&entry.parent) && !tree.contains(&entry.pid));
        let (free, found): (Vec<u32>, Vec<u32>) =
            children.map(|entry| entry.pid).filter(|pid| !left.contains(pid)).partition(|pid| free(*pid));
        left.extend(free);
        tree.extend(found);
        if before == (tree.len(), left.len()) {
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
        let pids = |free: &[u32]| -> Vec<u32> {
            let members = members(&table, Some(10), vec![10, 20], |pid| free.contains(&pid));
            members.iter().map(|entry| entry.pid).collect()
        };
        assert_eq!(pids(&[]), [11, 12, 13, 20, 21]);
        assert_eq!(pids(&[12]), [11, 20, 21], "who left takes along what came of it");
        assert_eq!(pids(&[11]), [11, 12, 13, 20, 21], "but not out of the group, which is signalled as a whole");
        assert_eq!(members(&table, None, vec![20], |_| false).len(), 2);
    }
}
