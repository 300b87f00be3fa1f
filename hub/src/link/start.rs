//! What is declared and need not run: how a link to it has it started.
//!
//! Owns [`Start`], what is known of starting one, and [`Starter`], which whoever starts things implements. A link to what
//! is declared is dormant while nothing of it runs, and becomes what every link is when its instance registers.
//! Invariant: asking for a start costs nothing, returns at once, and is safe to repeat.
//! Never: knows how anything is started, or decides that it should be.

use jiff::Timestamp;
use linchpin_shared::problem::Problem;
use linchpin_shared::registry::record::Record;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use tokio::sync::watch;
use uuid::Uuid;

/// What is known of starting something declared.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// Nobody asked for it.
    Idle,
    /// It is being started.
    Starting,
    /// It could not be started.
    Failed {
        /// Why.
        problem: Arc<Problem>,
        /// Before then, asking again is of no use.
        next_try: Timestamp,
    },
}

impl Start {
    /// Why it could not be started, if that is so.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        match self {
            Self::Idle | Self::Starting => None,
            Self::Failed { problem, .. } => Some(problem.detail.clone()),
        }
    }

    /// For people.
    pub(super) fn why(&self) -> String {
        match self {
            Self::Idle => String::from("it is started on first use"),
            Self::Starting => String::from("it is being started"),
            Self::Failed { problem, .. } => format!("it could not be started: {}", problem.detail),
        }
    }
}

/// Something declared.
#[derive(Debug, Clone, PartialEq)]
pub struct Sleeper {
    /// What its record will be as far as that is known.
    pub record: Arc<Record>,
    /// What is known of starting it.
    pub start: Start,
}

/// Everything declared, by the ids of the instances.
pub type Sleepers = Arc<BTreeMap<Uuid, Sleeper>>;

/// Who starts what is declared.
pub trait Starter: fmt::Debug + Send + Sync {
    /// Everything declared, now and at every change.
    fn sleepers(&self) -> watch::Receiver<Sleepers>;

    /// Has this one started, unless it is being started or failed a moment ago, and says which.
    fn wake(&self, id: Uuid) -> Start;

    /// What the process of the instance of this name wrote last. It reads a file.
    fn last_words(&self, name: &str) -> Option<String>;
}

/// Nothing is declared.
#[derive(Debug)]
pub(super) struct Nobody(pub(super) watch::Sender<Sleepers>);

impl Starter for Nobody {
    fn sleepers(&self) -> watch::Receiver<Sleepers> {
        self.0.subscribe()
    }

    fn wake(&self, _: Uuid) -> Start {
        Start::Idle
    }

    fn last_words(&self, _: &str) -> Option<String> {
        None
    }
}
