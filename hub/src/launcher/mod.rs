//! Starts declared servers when they are first used.
//!
//! [`DeclaredLauncher`] follows the list of declared servers ([`list`]), knows the state of each start, and starts a
//! server in the same way as `linchpin run --detach` ([`launch`]). A started server is an instance like any other one:
//! it outlives the hub, and from then on nothing here concerns it. A command is run only if it is in the list at that
//! moment, and only if the list belongs to the user and is private. However many callers ask at once, there is one
//! start for each server; a failed start is not repeated before its backoff has passed. Nothing is stopped here, and
//! nothing is started unless it is asked for.

mod launch;
mod list;

use crate::discovery::Discovery;
use crate::link::{DeclaredServers, LaunchState, Launcher};
use jiff::Timestamp;
use linchpin_instance::agent::MAIN;
use linchpin_shared::backoff::{Backoff, BackoffPolicy};
use linchpin_shared::home::Home;
use linchpin_shared::logfile;
use linchpin_shared::problem::Problem;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

/// The backoff between failed starts. A person has to correct a wrong command, which takes seconds at least.
const BACKOFF: BackoffPolicy =
    BackoffPolicy { min: Duration::from_secs(1), max: Duration::from_secs(60), reset_after: Duration::from_secs(60) };

/// How many lines of a process's log are reported if the process cannot be used.
const LAST_LINES: usize = 10;

/// What the hub needs to start instances.
#[derive(Debug, Clone)]
pub struct LaunchEnv {
    /// The home of the hub.
    pub home: Home,
    /// The path of this program, which also runs as a keeper and as an agent.
    pub executable: PathBuf,
    /// The limit of open files for processes other than the hub.
    pub open_files: Option<u64>,
}

/// Knows the declared servers and starts them.
#[derive(Debug, Clone)]
pub struct DeclaredLauncher {
    state: Arc<LauncherState>,
    list_problem: watch::Receiver<Option<Problem>>,
}

#[derive(Debug)]
struct LauncherState {
    env: LaunchEnv,
    discovery: Discovery,
    sleepers: watch::Sender<DeclaredServers>,
    /// The backoff of each server whose last start failed.
    backoffs: Mutex<BTreeMap<Uuid, Backoff>>,
    cancel: CancellationToken,
    tasks: TaskTracker,
}

impl DeclaredLauncher {
    /// Follows the list of this home until it is cancelled.
    #[must_use]
    pub fn start(env: LaunchEnv, discovery: &Discovery, cancel: CancellationToken, tasks: &TaskTracker) -> Self {
        let state = Arc::new(LauncherState {
            env,
            discovery: discovery.clone(),
            sleepers: watch::Sender::default(),
            backoffs: Mutex::default(),
            cancel,
            tasks: tasks.clone(),
        });
        let (problems, list_problem) = watch::channel(None);
        tasks.spawn(list::follow(Arc::clone(&state), problems));
        Self { state, list_problem }
    }

    /// Returns why the list cannot be used, now and whenever that changes. Until it can be used again, what was known
    /// of it stays in force.
    #[must_use]
    pub fn list_problem(&self) -> watch::Receiver<Option<Problem>> {
        self.list_problem.clone()
    }
}

impl Launcher for DeclaredLauncher {
    fn declared(&self) -> watch::Receiver<DeclaredServers> {
        self.state.sleepers.subscribe()
    }

    fn launch(&self, id: Uuid) -> LaunchState {
        let (mut starts, mut start) = (false, LaunchState::Idle);
        self.state.sleepers.send_if_modified(|sleepers| {
            let Some(known) = sleepers.get(&id) else { return false };
            starts = match &known.start {
                LaunchState::Idle => true,
                LaunchState::Starting => false,
                LaunchState::Failed { next_try, .. } => Timestamp::now() >= *next_try,
            };
            start = if starts { LaunchState::Starting } else { known.start.clone() };
            starts && set(sleepers, id, LaunchState::Starting)
        });
        if starts {
            let state = Arc::clone(&self.state);
            self.state.tasks.spawn(state.launch_once(id));
        }
        start
    }

    fn last_output(&self, name: &str) -> Option<String> {
        let lines = logfile::tail(&self.state.env.home.process_log(name, MAIN), LAST_LINES).ok()?;
        Some(lines.join("\n")).filter(|text| !text.is_empty())
    }
}

impl LauncherState {
    /// Starts a server and records the outcome.
    async fn launch_once(self: Arc<Self>, id: Uuid) {
        // A hub that ends does not cancel the start: the instance registers, and the next hub finds it.
        let Some(launched) = self.cancel.run_until_cancelled(self.launch(id)).await else { return };
        let start = match launched {
            Ok(()) => {
                self.backoffs.lock().remove(&id);
                LaunchState::Idle
            }
            Err(problem) => {
                tracing::warn!(%problem, "a declared server could not be started");
                LaunchState::Failed { problem: Arc::new(problem), next_try: self.next_try(id) }
            }
        };
        self.sleepers.send_if_modified(|sleepers| set(sleepers, id, start));
    }

    fn next_try(&self, id: Uuid) -> Timestamp {
        let delay =
            self.backoffs.lock().entry(id).or_insert_with(|| Backoff::new(BACKOFF)).next_delay(launch::random());
        Timestamp::now().checked_add(delay).unwrap_or(Timestamp::MAX)
    }
}

/// Records the state of a start, if the server is still declared.
fn set(sleepers: &mut DeclaredServers, id: Uuid, start: LaunchState) -> bool {
    let Some(known) = Arc::make_mut(sleepers).get_mut(&id) else { return false };
    known.start = start;
    true
}
