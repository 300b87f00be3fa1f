//! All processes that belong to another instance: its own, its keeper or registrar, and all their descendants.
//!
//! They are listed by pid and start ticks, so a process that was seen once is still known when its parent has ended.
//! Only descendants of the instance's own processes, and processes with its mark, are members. Detached programs are
//! not, and neither are this process and its ancestors.

use crate::env::{KEEPER, keeper_mark};
use crate::owner_mark::{InstanceRun, has_mark, is_detached};
use crate::process_table::{self, ProcessEntry, ancestry};
use linchpin_shared::port::{self, Listener};
use linchpin_shared::process::{Identity, resident_memory};
use linchpin_shared::registry::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::io;

/// The processes of another instance.
#[derive(Debug)]
pub(super) struct ProcessFamily {
    /// The processes that the record, the lease and the agent's environment name; all others descend from them. A
    /// keeper comes first, because it would restart an agent that ends before it.
    pub(super) roots: Vec<Identity>,
    /// What the mark of every process starts with that this run of the instance supervises.
    mark: String,
    /// Pid and start ticks of all members that were alive when it was last updated.
    members: BTreeMap<u32, u64>,
    /// Pids that are never members: this process, its ancestors, and the process to exclude.
    excluded_pids: Vec<u32>,
}

impl ProcessFamily {
    /// Collects the processes of an instance. `holder` is the process that holds its lease. `excluded` is a process of
    /// the instance that must go on, with all its descendants.
    pub(super) fn collect(other: &Entry, holder: Option<Identity>, excluded: Option<&Identity>) -> io::Result<Self> {
        let table = process_table::read()?;
        let process = &other.record.process;
        let mut roots: Vec<Identity> = keeper(process, &table).into_iter().collect();
        roots.extend([process.clone()].into_iter().chain(holder.filter(|holder| holder != process)));
        roots.retain(|root| Some(root) != excluded && root.is_alive());
        let members = roots.iter().map(|root| (root.pid, root.start_ticks)).collect();
        let mut excluded_pids = ancestry(&table);
        excluded_pids.extend(excluded.map(|excluded| excluded.pid));
        let mark = InstanceRun::of(other.record.id, process).mark("");
        let mut family = Self { roots, mark, members, excluded_pids };
        if excluded.is_none() {
            family.add_marked(&table);
        }
        family.update(&table);
        Ok(family)
    }

    /// Whether this process or one of its ancestors is a root: ending the instance would end this process.
    pub(super) fn includes_this_process(&self) -> bool {
        self.roots.iter().any(|root| self.excluded_pids.contains(&root.pid))
    }

    /// Returns the members that are alive now, including children that were started meanwhile.
    pub(super) fn living(&mut self) -> io::Result<Vec<ProcessEntry>> {
        let table = process_table::read()?;
        self.update(&table);
        Ok(table.iter().filter(|entry| self.members.contains_key(&entry.pid)).copied().collect())
    }

    /// Returns the memory of all members in bytes, and their number.
    pub(super) fn memory(&self) -> (u64, usize) {
        let all: Vec<u64> = self.members.keys().filter_map(|pid| resident_memory(*pid)).collect();
        (all.iter().sum(), all.len())
    }

    /// Returns the sockets on which any member listens.
    pub(super) fn listeners(&self) -> Vec<Listener> {
        let sockets: BTreeSet<u64> = self.members.keys().flat_map(|pid| port::sockets(*pid)).collect();
        let listeners = port::listeners().unwrap_or_default();
        listeners.into_iter().filter(|listener| sockets.contains(&listener.inode)).collect()
    }

    /// Adds the processes that carry the mark of the instance, whatever their parents are.
    fn add_marked(&mut self, table: &[ProcessEntry]) {
        for entry in table.iter().filter(|entry| !entry.ended && !self.excluded_pids.contains(&entry.pid)) {
            if has_mark(entry.pid, &self.mark) && !is_detached(entry.pid) {
                self.members.insert(entry.pid, entry.start_ticks);
            }
        }
    }

    /// Removes members that have ended and adds the descendants of the others.
    fn update(&mut self, table: &[ProcessEntry]) {
        let living: BTreeMap<u32, u64> =
            table.iter().filter(|entry| !entry.ended).map(|entry| (entry.pid, entry.start_ticks)).collect();
        self.members.retain(|pid, ticks| living.get(pid) == Some(ticks));
        loop {
            let children: Vec<&ProcessEntry> = table.iter().filter(|entry| self.is_new_child(entry)).collect();
            if children.is_empty() {
                return;
            }
            self.members.extend(children.iter().map(|child| (child.pid, child.start_ticks)));
        }
    }

    fn is_new_child(&self, entry: &ProcessEntry) -> bool {
        let is_new = self.members.contains_key(&entry.parent) && !self.members.contains_key(&entry.pid);
        is_new && !entry.ended && !self.excluded_pids.contains(&entry.pid) && !is_detached(entry.pid)
    }
}

/// Returns the keeper of an agent: its parent, where the agent's environment names it; or else the child that the agent
/// started when its keeper was killed.
fn keeper(agent: &Identity, table: &[ProcessEntry]) -> Option<Identity> {
    let named = process_table::variable(agent.pid, KEEPER)?;
    let parent = table.iter().find(|entry| entry.pid == agent.pid)?.parent;
    if let Some(keeper) = Identity::of(parent).ok().filter(|parent| named == keeper_mark(parent)) {
        return Some(keeper);
    }
    let by_agent = Some(keeper_mark(agent));
    let adopter =
        |entry: &&ProcessEntry| entry.parent == agent.pid && process_table::variable(entry.pid, KEEPER) == by_agent;
    Identity::of(table.iter().find(adopter)?.pid).ok()
}
