//! The journal (DESIGN 4.12): what the hub has to know again after it was killed.
//!
//! Owns `journal.db`: [`schema`] (its form), [`store`] (the open file), [`aside`] (what becomes of a file that cannot be
//! used) and [`writer`] (the one thread that writes it). Others hold a [`Journal`] and hand it [`Change`]s.
//! Invariant: nobody waits for the disk who did not ask to be told; what cannot be written is counted and marked as a
//! gap. A file that cannot be used is kept under another name, and a new one is begun.
//! Never: opened by a process that does not hold the hub's lease, or needed for routing.

mod aside;
mod change;
mod schema;
mod store;
#[cfg(test)]
mod tests;
mod writer;

pub use change::{Change, Event, List, SavedTask, Session, Subscription};

use linchpin_shared::home::Home;
use linchpin_shared::problem::{Code, Problem};
use parking_lot::Mutex;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

/// Jobs that wait for the writer; an event is some 300 bytes.
const QUEUE: usize = 1024;

/// A hub that starts waits so long for what its earlier life left; without it, it goes on.
const OPENING: Duration = Duration::from_millis(500);

/// A hub that stops waits so long for the last changes.
const CLOSING: Duration = Duration::from_secs(2);

/// How soon it tries again to hand its last job in.
const PAUSE: Duration = Duration::from_millis(5);

/// What an earlier life of the hub left.
#[derive(Debug, Default)]
pub struct Recall {
    /// The sessions of agents, the one that was used last first.
    pub sessions: Vec<Session>,
    /// The lists of MCP servers.
    pub lists: Vec<List>,
}

/// How it is with the journal.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Facts {
    /// How many files were opened so far. When it grows, whoever keeps something there has to write all of it again.
    pub opened: u64,
    /// Why nothing can be written now.
    pub problem: Option<Problem>,
    /// What was put aside last in this life of the hub.
    pub aside: Option<Problem>,
    /// How many events were lost.
    pub missed: u64,
}

/// It was not written, and the journal's [`Facts`] say why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unwritten;

/// What the writer is asked to do.
#[derive(Debug)]
enum Job {
    /// To write.
    Write {
        changes: Vec<Change>,
        /// Who wants to be told; without one, what cannot be written is lost and counted.
        done: Option<oneshot::Sender<Result<(), Unwritten>>>,
    },
    /// To close the file and end, and to say so.
    Close(oneshot::Sender<()>),
}

/// The hub's journal. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Journal {
    jobs: Option<SyncSender<Job>>,
    facts: watch::Receiver<Facts>,
    recall: Arc<Mutex<Option<Recall>>>,
    missed: Arc<AtomicU64>,
}

impl Journal {
    /// Opens the journal of this home, whose hub's lease the caller holds, and waits a moment for what is in it. Whatever
    /// is wrong with it, the hub goes on: see [`Journal::facts`].
    pub async fn start(home: &Home) -> Self {
        let (jobs, queue) = sync_channel(QUEUE);
        let (publish, mut facts) = watch::channel(Facts::default());
        let (recall, missed) = (Arc::default(), Arc::default());
        let writer = writer::Writer::new(path(home), queue, publish, Arc::clone(&recall), Arc::clone(&missed));
        let begun = std::thread::Builder::new().name(String::from("journal")).spawn(move || writer.run());
        if let Err(error) = begun {
            tracing::error!(%error, "no thread for the journal: this hub remembers nothing for its next life");
            return Self::none();
        }
        let known = facts.wait_for(|facts| facts.opened > 0 || facts.problem.is_some());
        let _ = timeout(OPENING, known).await;
        Self { jobs: Some(jobs), facts, recall, missed }
    }

    /// No journal: nothing is kept, and nothing is known of earlier lives.
    #[must_use]
    pub fn none() -> Self {
        let (_, facts) = watch::channel(Facts::default());
        Self { jobs: None, facts, recall: Arc::default(), missed: Arc::default() }
    }

    /// Whether there is one.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.jobs.is_some()
    }

    /// How it is, now and whenever that changes.
    #[must_use]
    pub fn facts(&self) -> watch::Receiver<Facts> {
        self.facts.clone()
    }

    /// What an earlier life left, to who asks first; it may come late, when the file could not be opened at once.
    #[must_use]
    pub fn recall(&self) -> Option<Recall> {
        self.recall.lock().take()
    }

    /// Writes these changes together, and waits until a death of the hub cannot undo them.
    ///
    /// # Errors
    /// When they could not be written; they are then not written at all.
    pub async fn commit(&self, changes: Vec<Change>) -> Result<(), Unwritten> {
        let (done, told) = oneshot::channel();
        let jobs = self.jobs.as_ref().ok_or(Unwritten)?;
        jobs.try_send(Job::Write { changes, done: Some(done) }).map_err(|_| Unwritten)?;
        told.await.unwrap_or(Err(Unwritten))
    }

    /// Has an event written, some time. One that there is no room for is counted.
    pub fn note(&self, event: Event) {
        let Some(jobs) = &self.jobs else { return };
        if jobs.try_send(Job::Write { changes: vec![Change::Event(event)], done: None }).is_err() {
            self.missed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Closes the journal for all who hold it, once what was handed in so far is written or lost; waits for that, for a
    /// moment at most. Everything is in the one file then.
    pub async fn close(self) {
        let Some(jobs) = self.jobs else { return };
        let (done, told) = oneshot::channel();
        let closed = async {
            let mut job = Job::Close(done);
            // A writer that is behind makes room in its own time.
            while let Err(TrySendError::Full(again)) = jobs.try_send(job) {
                job = again;
                tokio::time::sleep(PAUSE).await;
            }
            // A writer that has ended has closed it.
            let _ = told.await;
        };
        let _ = timeout(CLOSING, closed).await;
    }
}

/// Where the journal of a home is.
#[must_use]
pub fn path(home: &Home) -> PathBuf {
    home.root().join("journal.db")
}

/// The files that were put aside in this home.
#[cfg(test)]
fn put_aside(home: &Home) -> Vec<PathBuf> {
    aside::files(home.root())
}

/// The problem of a journal that cannot be used.
fn unusable(detail: String, path: &std::path::Path) -> Problem {
    Problem::new(Code::JournalUnusable, detail).seen("path", path.display().to_string())
}
