//! Who is to be named when a port is taken: not only which process, but what of ours it is.
//!
//! Owns [`Culprit`]. A process is ours if it is the hub, the process of a record, or carries the mark that an instance
//! puts on all that it starts ([`OWNER`]), which also tells whether that instance's agent lives.
//! Invariant: what cannot be told is left out; nobody is accused on a guess.
//! Never: signals anybody.

use super::{Holder, holder};
use crate::home::Home;
use crate::problem::Problem;
use crate::process::{Identity, OWNER, variable};
use crate::registry::record::Record;
use crate::registry::{Lease, Registry};
use std::fmt;
use std::io;
use uuid::Uuid;

/// Who has a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Culprit {
    /// The process, as far as it can be seen.
    pub holder: Holder,
    /// What of ours it is.
    pub whose: Whose,
}

/// What of ours a process is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whose {
    /// The hub of this home.
    Hub,
    /// A live instance, or what it runs.
    Instance {
        /// Its name.
        name: String,
        /// The directory of its project.
        project: String,
    },
    /// What an instance that is dead has left.
    Orphan {
        /// The name of the instance, if that is known.
        name: Option<String>,
    },
    /// Nothing of ours.
    Stranger,
}

impl Culprit {
    /// Who listens on this port; `None` when nobody does.
    ///
    /// # Errors
    /// As [`super::listeners`].
    pub fn find(home: &Home, port: u16) -> io::Result<Option<Self>> {
        Ok(holder(port)?.map(|holder| Self::of(home, holder)))
    }

    /// What of ours this holder is.
    #[must_use]
    pub fn of(home: &Home, holder: Holder) -> Self {
        let whose = holder.process.as_ref().map_or(Whose::Stranger, |process| whose(home, process));
        Self { holder, whose }
    }

    /// Adds to a problem who has the port and what to do about that.
    #[must_use]
    pub fn named_in(&self, problem: Problem) -> Problem {
        let Some(process) = &self.holder.process else {
            return problem.seen("held by user", self.holder.uid).next("sudo ss -ltnp    (shows its process)");
        };
        let (pid, problem) = (process.pid, problem.seen("pid", process.pid).seen("command", self.command()));
        match &self.whose {
            Whose::Hub => problem.seen("it is", "the hub").next("linchpin hub stop"),
            Whose::Instance { name, project } => problem
                .seen("instance", name.clone())
                .seen("project", project.clone())
                .next(format!("linchpin stop {name}    (if it is not needed)")),
            Whose::Orphan { name } => problem
                .seen("left by", name.as_deref().map_or("an instance that is dead".to_owned(), str::to_owned))
                .next(format!("kill {pid}    (its instance is dead; starting that again ends it too)")),
            Whose::Stranger => problem.next(format!("stop it if it is yours: kill {pid}")),
        }
    }

    fn command(&self) -> String {
        let executable = || self.holder.process.as_ref().map(|process| process.executable.display().to_string());
        self.holder.command.clone().or_else(executable).unwrap_or_default()
    }
}

fn whose(home: &Home, process: &Identity) -> Whose {
    if Lease::holder(&home.hub_lease()).as_ref() == Some(process) {
        return Whose::Hub;
    }
    let scan = Registry::new(home).scan().unwrap_or_default();
    let records = || scan.entries.iter().map(|entry| &entry.record);
    let instance = |record: &Record| Whose::Instance {
        name: record.name.clone(),
        project: record.project_dir.display().to_string(),
    };
    if let Some(record) = records().find(|record| record.process == *process) {
        return instance(record);
    }
    let Some((id, lives)) = mark(process.pid) else { return Whose::Stranger };
    match records().find(|record| record.id == id) {
        Some(record) if lives => instance(record),
        // Of an instance under another home.
        None if lives => Whose::Stranger,
        Some(_) | None => Whose::Orphan { name: variable(process.pid, "LINCHPIN_INSTANCE") },
    }
}

/// Which instance a process is marked with, and whether the agent that did it runs.
fn mark(pid: u32) -> Option<(Uuid, bool)> {
    let mark = variable(pid, OWNER)?;
    let mut parts = mark.splitn(3, '/');
    let id = parts.next()?.parse().ok()?;
    let (agent, ticks) = parts.next()?.split_once('-')?;
    let (agent, ticks): (u32, u64) = (agent.parse().ok()?, ticks.parse().ok()?);
    Some((id, Identity::of(agent).is_ok_and(|agent| agent.start_ticks == ticks)))
}

/// In one line, as in "port 3000 is taken by …".
impl fmt::Display for Culprit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.holder.process {
            Some(process) => write!(f, "pid {} ({})", process.pid, self.command())?,
            None => write!(f, "a program of user {}", self.holder.uid)?,
        }
        match &self.whose {
            Whose::Hub => f.write_str(", the hub"),
            Whose::Instance { name, project } => write!(f, ", of the instance {name:?} in {project}"),
            Whose::Orphan { name: Some(name) } => write!(f, ", left by the instance {name:?}, which is dead"),
            Whose::Orphan { name: None } => f.write_str(", left by an instance that is dead"),
            Whose::Stranger => Ok(()),
        }
    }
}
