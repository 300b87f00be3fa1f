//! The mark that a supervised process hands on, in its environment, to all that come of it.
//!
//! Owns its two variables. [`OWNER`] says whose a process is: the instance, the very process of the agent that started it
//! (pid and start ticks), and the name of the supervised process. So after the agent's death, however that came, it can
//! be proven of each process that it is a leftover, also under a home or in a life of which nothing else is known.
//! Invariant: the mark of one agent is never that of another. Never: takes a process without a mark for ours.

pub use linchpin_shared::process::OWNER;

use super::table;
use linchpin_shared::process::Identity;
use std::collections::BTreeSet;
use std::fmt;
use std::io;
use uuid::Uuid;

/// Set in the environment of a program that shall outlive who started it: the hub, and the keeper of an instance.
pub const DETACHED: &str = "LINCHPIN_DETACHED";

/// One life of an instance, as its marks name it: `ID/PID-TICKS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Life {
    /// The instance.
    pub(crate) instance: Uuid,
    /// The agent.
    agent: (u32, u64),
}

impl Life {
    /// The life that this agent is.
    pub(crate) const fn of(instance: Uuid, agent: &Identity) -> Self {
        Self { instance, agent: (agent.pid, agent.start_ticks) }
    }

    /// The mark of one of its processes.
    pub(crate) fn mark(self, process: &str) -> String {
        format!("{self}/{process}")
    }

    /// The life that a process of this boot belongs to, by its mark.
    pub(super) fn marked_on(pid: u32) -> Option<Self> {
        Self::parse(&table::variable(pid, OWNER)?)
    }

    fn parse(mark: &str) -> Option<Self> {
        let mut parts = mark.splitn(3, '/');
        let instance = parts.next()?.parse().ok()?;
        let (pid, ticks) = parts.next()?.split_once('-')?;
        parts.next()?;
        Some(Self { instance, agent: (pid.parse().ok()?, ticks.parse().ok()?) })
    }

    /// Whether the agent runs. Marks are on processes of this boot only, so pid and ticks name it.
    pub(super) fn is_lived(self) -> bool {
        let (pid, ticks) = self.agent;
        match Identity::of(pid) {
            Ok(identity) => identity.start_ticks == ticks,
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        }
    }
}

impl fmt::Display for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (pid, ticks) = self.agent;
        write!(f, "{}/{pid}-{ticks}", self.instance)
    }
}

/// The lives of which processes run that did not leave on purpose.
pub(crate) fn lives() -> io::Result<BTreeSet<Life>> {
    let alive = table::read()?.into_iter().filter(|entry| !entry.ended).map(|entry| entry.pid);
    Ok(alive.filter_map(|pid| Life::marked_on(pid).filter(|_| !left_on_purpose(pid))).collect())
}

/// Whether this process left on purpose.
pub(super) fn left_on_purpose(pid: u32) -> bool {
    table::variable(pid, DETACHED).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_names_instance_and_agent() {
        let me = Identity::current().unwrap();
        let life = Life::of(Uuid::from_u128(7), &me);
        assert_eq!(Life::parse(&life.mark("a/b")), Some(life));
        assert!(life.is_lived());
        let earlier = Identity { start_ticks: me.start_ticks - 1, ..me };
        assert!(!Life::of(life.instance, &earlier).is_lived(), "the pid is another's now");
        let id = Uuid::nil();
        for strange in ["", "x/1-2/main", &format!("{id}"), &format!("{id}/main"), &format!("{id}/1-2")] {
            assert_eq!(Life::parse(strange), None, "{strange}");
        }
    }
}
