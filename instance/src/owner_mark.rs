//! The mark that a supervised process passes on, in its environment, to all its descendants.
//!
//! The variable [`OWNER`] names the instance, the process of the agent that started it (pid and start ticks) and the
//! supervised process. So once the agent is dead, however it died, every leftover process can be recognised, even when
//! the record or the home is gone. The marks of two agents never match, and a process without a mark is never taken for
//! one of ours.

use crate::env::{DETACHED, OWNER};
use crate::process_table;
use linchpin_shared::process::Identity;
use std::collections::BTreeSet;
use std::fmt;
use std::io;
use uuid::Uuid;

/// One run of an instance, as the marks of its processes name it: `ID/PID-TICKS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct InstanceRun {
    /// The id of the instance.
    pub(crate) instance: Uuid,
    /// Pid and start ticks of the agent.
    agent: (u32, u64),
}

impl InstanceRun {
    /// The run of which this process is the agent.
    pub(crate) const fn of(instance: Uuid, agent: &Identity) -> Self {
        Self { instance, agent: (agent.pid, agent.start_ticks) }
    }

    /// The mark of one supervised process; with an empty name, the part that all marks of this run start with.
    pub(crate) fn mark(self, process: &str) -> String {
        format!("{self}/{process}")
    }

    /// Reads the mark of a process.
    pub(crate) fn marked_on(pid: u32) -> Option<Self> {
        Self::parse(&process_table::variable(pid, OWNER)?)
    }

    fn parse(mark: &str) -> Option<Self> {
        let mut parts = mark.splitn(3, '/');
        let instance = parts.next()?.parse().ok()?;
        let (pid, ticks) = parts.next()?.split_once('-')?;
        parts.next()?;
        Some(Self { instance, agent: (pid.parse().ok()?, ticks.parse().ok()?) })
    }

    /// Whether the agent still runs. Only processes of this boot carry marks, so pid and start ticks identify it.
    pub(crate) fn has_live_agent(self) -> bool {
        let (pid, ticks) = self.agent;
        match Identity::of(pid) {
            Ok(identity) => identity.start_ticks == ticks,
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        }
    }

    /// All runs of which processes still run, without detached ones.
    pub(crate) fn all_running() -> io::Result<BTreeSet<Self>> {
        let alive = process_table::read()?.into_iter().filter(|entry| !entry.ended).map(|entry| entry.pid);
        Ok(alive.filter_map(|pid| Self::marked_on(pid).filter(|_| !is_detached(pid))).collect())
    }
}

impl fmt::Display for InstanceRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (pid, ticks) = self.agent;
        write!(f, "{}/{pid}-{ticks}", self.instance)
    }
}

/// Whether a process carries a mark that starts with `start`.
pub(crate) fn has_mark(pid: u32, start: &str) -> bool {
    process_table::variable(pid, OWNER).is_some_and(|mark| mark.starts_with(start))
}

/// Whether a process was detached on purpose and belongs to no instance any more.
pub(crate) fn is_detached(pid: u32) -> bool {
    process_table::variable(pid, DETACHED).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_names_instance_and_agent() {
        let me = Identity::current().unwrap();
        let run = InstanceRun::of(Uuid::from_u128(7), &me);
        assert_eq!(InstanceRun::parse(&run.mark("a/b")), Some(run));
        assert!(run.has_live_agent());
        let earlier = Identity { start_ticks: me.start_ticks - 1, ..me };
        assert!(!InstanceRun::of(run.instance, &earlier).has_live_agent(), "the pid belongs to another process now");
        let id = Uuid::nil();
        for malformed in ["", "x/1-2/main", &format!("{id}"), &format!("{id}/main"), &format!("{id}/1-2")] {
            assert_eq!(InstanceRun::parse(malformed), None, "{malformed}");
        }
    }
}
