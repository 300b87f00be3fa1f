//! How a link has a declared server started.
//!
//! A link to a declared server is dormant while its instance does not run, and behaves like every other link once the
//! instance registers. The link does not know how a server is started, and does not decide that it should be. Asking for
//! a start returns at once and may be repeated.

use jiff::Timestamp;
use linchpin_shared::problem::Problem;
use linchpin_shared::registry::record::Record;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use tokio::sync::watch;
use uuid::Uuid;

/// How far the start of a declared server has got.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LaunchState {
    /// No start was requested since the last one succeeded.
    Idle,
    /// The server is being started.
    Starting,
    /// The last start failed.
    Failed {
        /// The problem that made the start fail.
        problem: Arc<Problem>,
        /// The earliest time of the next start. A request before it does nothing.
        next_try: Timestamp,
    },
}

impl LaunchState {
    /// Why the last start failed, in words.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        match self {
            Self::Idle | Self::Starting => None,
            Self::Failed { problem, .. } => Some(problem.detail.clone()),
        }
    }

    /// The state in words, for the reason of a dormant link.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Idle => String::from("it is started on first use"),
            Self::Starting => String::from("it is being started"),
            Self::Failed { problem, .. } => format!("it could not be started: {}", problem.detail),
        }
    }
}

/// A server in the list of declared servers.
#[derive(Debug, Clone, PartialEq)]
pub struct DeclaredServer {
    /// The record that its instance will have, as far as it is known before the start.
    pub record: Arc<Record>,
    /// How far its start has got.
    pub start: LaunchState,
}

/// All declared servers by the ids of their instances.
pub type DeclaredServers = Arc<BTreeMap<Uuid, DeclaredServer>>;

/// The room that starts declared servers on their first use.
pub trait Launcher: fmt::Debug + Send + Sync {
    /// Watches all declared servers with their launch states.
    fn declared(&self) -> watch::Receiver<DeclaredServers>;

    /// Starts this server, unless it is being started already or its last start failed a moment ago. Returns the
    /// resulting state without waiting for the start.
    fn launch(&self, id: Uuid) -> LaunchState;

    /// Reads the last lines of output of the process of this instance from its log file.
    fn last_output(&self, name: &str) -> Option<String>;
}

/// The launcher of a hub without declared servers.
#[derive(Debug)]
pub(super) struct NoLauncher(pub(super) watch::Sender<DeclaredServers>);

impl Launcher for NoLauncher {
    fn declared(&self) -> watch::Receiver<DeclaredServers> {
        self.0.subscribe()
    }

    fn launch(&self, _: Uuid) -> LaunchState {
        LaunchState::Idle
    }

    fn last_output(&self, _: &str) -> Option<String> {
        None
    }
}
