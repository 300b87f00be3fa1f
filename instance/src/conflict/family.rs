//! Everybody who belongs to another instance: its process, who keeps or registers it, and all that came of them.
//!
//! Owns the list, by pid and start ticks, so that somebody who was seen once is still known when parents are gone.
//! Invariant: only who descends from the instance's own processes, or carries its mark, is on it; programs that left on
//! purpose ([`DETACHED`]) are not, and neither are we or those that we come from.
//! Never: signals anybody who is not the very process that was listed.

use crate::supervisor::mark::Life;
use crate::supervisor::table::{self, Entry};
use crate::supervisor::{DETACHED, OWNER};
use linchpin_shared::port::{self, Listener};
use linchpin_shared::process::{Identity, Signal, resident_memory};
use linchpin_shared::registry::Entry as Registered;
use std::collections::{BTreeMap, BTreeSet};
use std::io;

/// Set in the environment of an agent by its keeper, and in that of a keeper by the agent that it adopted: who that is. It
/// counts only where it names the parent.
pub(crate) const KEEPER: &str = "LINCHPIN_KEEPER";

/// The processes of another instance.
#[derive(Debug)]
pub(super) struct Crowd {
    /// Those that were named; the others are what came of them. A keeper comes first: it would start an agent again.
    pub(super) heads: Vec<Identity>,
    /// How the mark begins that all carry which this life of it supervises.
    mark: String,
    /// Pid and start ticks of everybody who was seen.
    known: BTreeMap<u32, u64>,
    /// Us, those that we come from, and who is spared.
    ours: Vec<u32>,
}

impl Crowd {
    /// The processes of this instance, as they are now. `holder` is who holds its lease, `spared` a process of it that is
    /// to go on, with all that came of it.
    pub(super) fn gather(other: &Registered, holder: Option<Identity>, spared: Option<&Identity>) -> io::Result<Self> {
        let table = table::read()?;
        let process = &other.record.process;
        let mut heads: Vec<Identity> = keeper(process, &table).into_iter().collect();
        heads.extend([process.clone()].into_iter().chain(holder.filter(|holder| holder != process)));
        heads.retain(|head| Some(head) != spared && head.is_alive());
        let known = heads.iter().map(|head| (head.pid, head.start_ticks)).collect();
        let mut ours = lineage(&table);
        ours.extend(spared.map(|spared| spared.pid));
        let mut crowd = Self { heads, mark: Life::of(other.record.id, process).mark(""), known, ours };
        if spared.is_none() {
            crowd.add_marked(&table);
        }
        crowd.grow(&table);
        Ok(crowd)
    }

    /// Whether we are one of them, or come from one.
    pub(super) fn includes_us(&self) -> bool {
        self.heads.iter().any(|head| self.ours.contains(&head.pid))
    }

    /// Who of them lives, children included that were born meanwhile.
    pub(super) fn living(&mut self) -> io::Result<Vec<Entry>> {
        let table = table::read()?;
        self.grow(&table);
        Ok(self.listed(&table))
    }

    /// The memory of all of them in bytes, and how many they are.
    pub(super) fn memory(&self) -> (u64, usize) {
        let all: Vec<u64> = self.known.keys().filter_map(|pid| resident_memory(*pid)).collect();
        (all.iter().sum(), all.len())
    }

    /// The sockets on which any of them listens.
    pub(super) fn listeners(&self) -> Vec<Listener> {
        let sockets: BTreeSet<u64> = self.known.keys().flat_map(|pid| port::sockets(*pid)).collect();
        let listeners = port::listeners().unwrap_or_default();
        listeners.into_iter().filter(|listener| sockets.contains(&listener.inode)).collect()
    }

    /// Those that carry the mark of the instance, whoever their parents are.
    fn add_marked(&mut self, table: &[Entry]) {
        for entry in table.iter().filter(|entry| !entry.ended && !self.ours.contains(&entry.pid)) {
            let carries = table::variable(entry.pid, OWNER).is_some_and(|owner| owner.starts_with(&self.mark));
            if carries && table::variable(entry.pid, DETACHED).is_none() {
                self.known.insert(entry.pid, entry.start_ticks);
            }
        }
    }

    /// Forgets who ended, adds who came of the others.
    fn grow(&mut self, table: &[Entry]) {
        let living: BTreeMap<u32, u64> =
            table.iter().filter(|entry| !entry.ended).map(|entry| (entry.pid, entry.start_ticks)).collect();
        self.known.retain(|pid, ticks| living.get(pid) == Some(ticks));
        loop {
            let children: Vec<&Entry> = table.iter().filter(|entry| self.is_new_child(entry)).collect();
            if children.is_empty() {
                return;
            }
            self.known.extend(children.iter().map(|child| (child.pid, child.start_ticks)));
        }
    }

    fn is_new_child(&self, entry: &Entry) -> bool {
        let child = self.known.contains_key(&entry.parent) && !self.known.contains_key(&entry.pid);
        child && !entry.ended && !self.ours.contains(&entry.pid) && table::variable(entry.pid, DETACHED).is_none()
    }

    fn listed(&self, table: &[Entry]) -> Vec<Entry> {
        table.iter().filter(|entry| self.known.contains_key(&entry.pid)).copied().collect()
    }
}

/// Signals the very process that was listed; `false` when it is gone.
pub(super) fn signal(entry: &Entry, signal: Signal) -> io::Result<bool> {
    match Identity::of(entry.pid) {
        Ok(identity) if identity.start_ticks == entry.start_ticks => identity.signal(signal),
        Ok(_) => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// The keeper of an agent: its parent, if the agent was told so by it; or the child that it started when that was killed.
fn keeper(agent: &Identity, table: &[Entry]) -> Option<Identity> {
    let told = table::variable(agent.pid, KEEPER)?;
    let parent = table.iter().find(|entry| entry.pid == agent.pid)?.parent;
    if let Some(keeper) = Identity::of(parent).ok().filter(|parent| told == keeper_mark(parent)) {
        return Some(keeper);
    }
    let ours = Some(keeper_mark(agent));
    let adopter = |entry: &&Entry| entry.parent == agent.pid && table::variable(entry.pid, KEEPER) == ours;
    Identity::of(table.iter().find(adopter)?.pid).ok()
}

/// What a keeper says of itself to its agent, in [`KEEPER`].
pub(crate) fn keeper_mark(keeper: &Identity) -> String {
    format!("{}/{}", keeper.pid, keeper.start_ticks)
}

/// This process and those that it comes from.
fn lineage(table: &[Entry]) -> Vec<u32> {
    let mut lineage = vec![std::process::id()];
    while let Some(entry) = table.iter().find(|entry| Some(&entry.pid) == lineage.last()) {
        lineage.push(entry.parent);
    }
    lineage
}
