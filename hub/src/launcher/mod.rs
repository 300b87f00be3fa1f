//! Servers that are declared, and started on first use.
//!
//! Owns [`OnDemand`]: what the list of declared servers says ([`list`]), what is known of starting each, and the start
//! itself ([`launch`]), which is that of `linchpin run --detach`. What was started is an instance like any other: it
//! outlives the hub, and whoever finds it running needs nothing from here.
//! Invariant: a command is run only if it stands in the list at that moment, and the list is ours and closed to others.
//! However many ask at once, one start is under way for each server; a failed one is not repeated before its time.
//! Never: stops anything, or starts what nobody asked for.

mod launch;
mod list;

use crate::discovery::Discovery;
use crate::link::{Sleepers, Start, Starter};
use jiff::Timestamp;
use linchpin_instance::agent::MAIN;
use linchpin_shared::backoff::{Backoff, Policy};
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

/// Between starts that fail: what is wrong with a command is mended by a person, in seconds at best.
const PACE: Policy =
    Policy { min: Duration::from_secs(1), max: Duration::from_secs(60), reset_after: Duration::from_secs(60) };

/// How many lines of a process's log are told when it cannot be used.
const LAST_LINES: usize = 10;

/// How the hub starts what is declared.
#[derive(Debug, Clone)]
pub struct Means {
    /// Whose hub it is.
    pub home: Home,
    /// This program, as it is started again for a keeper and an agent.
    pub executable: PathBuf,
    /// How many open files a process may ask for that is not the hub.
    pub open_files: Option<u64>,
}

/// What is declared, and the way to have it started.
#[derive(Debug, Clone)]
pub struct OnDemand {
    inner: Arc<Inner>,
    trouble: watch::Receiver<Option<Problem>>,
}

#[derive(Debug)]
struct Inner {
    means: Means,
    discovery: Discovery,
    sleepers: watch::Sender<Sleepers>,
    /// How long to wait after a failure, for those that failed.
    pace: Mutex<BTreeMap<Uuid, Backoff>>,
    cancel: CancellationToken,
    tasks: TaskTracker,
}

impl OnDemand {
    /// Follows the list of this home until cancelled.
    #[must_use]
    pub fn start(means: Means, discovery: &Discovery, cancel: CancellationToken, tasks: &TaskTracker) -> Self {
        let inner = Arc::new(Inner {
            means,
            discovery: discovery.clone(),
            sleepers: watch::Sender::default(),
            pace: Mutex::default(),
            cancel,
            tasks: tasks.clone(),
        });
        let (tell, trouble) = watch::channel(None);
        tasks.spawn(list::follow(Arc::clone(&inner), tell));
        Self { inner, trouble }
    }

    /// Why the list cannot be used, now and whenever that changes. What was known of it stays.
    #[must_use]
    pub fn trouble(&self) -> watch::Receiver<Option<Problem>> {
        self.trouble.clone()
    }
}

impl Starter for OnDemand {
    fn sleepers(&self) -> watch::Receiver<Sleepers> {
        self.inner.sleepers.subscribe()
    }

    fn wake(&self, id: Uuid) -> Start {
        let (mut begins, mut start) = (false, Start::Idle);
        self.inner.sleepers.send_if_modified(|sleepers| {
            let Some(known) = sleepers.get(&id) else { return false };
            begins = match &known.start {
                Start::Idle => true,
                Start::Starting => false,
                Start::Failed { next_try, .. } => Timestamp::now() >= *next_try,
            };
            start = if begins { Start::Starting } else { known.start.clone() };
            begins && set(sleepers, id, Start::Starting)
        });
        if begins {
            let inner = Arc::clone(&self.inner);
            self.inner.tasks.spawn(inner.begin(id));
        }
        start
    }

    fn last_words(&self, name: &str) -> Option<String> {
        let lines = logfile::tail(&self.inner.means.home.process_log(name, MAIN), LAST_LINES).ok()?;
        Some(lines.join("\n")).filter(|text| !text.is_empty())
    }
}

impl Inner {
    /// Starts one, and notes what came of it.
    async fn begin(self: Arc<Self>, id: Uuid) {
        // A hub that ends leaves what it began to itself: the instance registers, and the next hub finds it.
        let Some(begun) = self.cancel.run_until_cancelled(self.launch(id)).await else { return };
        let start = match begun {
            Ok(()) => {
                self.pace.lock().remove(&id);
                Start::Idle
            }
            Err(problem) => {
                tracing::warn!(%problem, "a declared server could not be started");
                Start::Failed { problem: Arc::new(problem), next_try: self.next_try(id) }
            }
        };
        self.sleepers.send_if_modified(|sleepers| set(sleepers, id, start));
    }

    fn next_try(&self, id: Uuid) -> Timestamp {
        let delay = self.pace.lock().entry(id).or_insert_with(|| Backoff::new(PACE)).next_delay(launch::random());
        Timestamp::now().checked_add(delay).unwrap_or(Timestamp::MAX)
    }
}

/// Notes what is known of starting one, if it is still declared.
fn set(sleepers: &mut Sleepers, id: Uuid, start: Start) -> bool {
    let Some(known) = Arc::make_mut(sleepers).get_mut(&id) else { return false };
    known.start = start;
    true
}
