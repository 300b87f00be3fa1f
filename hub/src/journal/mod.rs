//! The journal: a SQLite database with what the hub has to remember after it was killed.
//!
//! One thread writes `journal.db`. Other rooms hold a [`Journal`] and pass it [`JournalChange`]s; only callers that ask
//! for it wait for the disk. Events that cannot be written are counted and marked as a gap. A file that cannot be used is
//! kept under another name, and a new one is created.
//!
//! Only the process that holds the hub's lease opens the journal. Routing works without it.

mod change;
mod corrupt;
mod schema;
mod store;
#[cfg(test)]
mod tests;
mod writer;

pub use change::{JournalChange, JournalEvent, SavedList, SavedSession, SavedSubscription, SavedTask};

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

/// The length of the writer's queue. An event has some 300 bytes.
const QUEUE: usize = 1024;

/// How long a hub that starts waits for its earlier state. After that, it goes on without it.
const OPEN_TIMEOUT: Duration = Duration::from_millis(500);

/// How long a hub that stops waits for the last changes to be written.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The pause between two attempts to put the last job into a full queue.
const RETRY_PAUSE: Duration = Duration::from_millis(5);

/// What an earlier run of the hub left in the journal.
#[derive(Debug, Default)]
pub struct Recall {
    /// The sessions of agents, the one that was used last first.
    pub sessions: Vec<SavedSession>,
    /// The lists of MCP servers.
    pub lists: Vec<SavedList>,
}

/// The state of the journal.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct JournalStatus {
    /// How many files were opened so far. When the number grows, the file is another one, and everything that has to be
    /// in it must be written again.
    pub opened: u64,
    /// Why nothing can be written at present.
    pub problem: Option<Problem>,
    /// The last unusable file that this run of the hub put aside.
    pub corrupt: Option<Problem>,
    /// The number of events that were lost.
    pub missed: u64,
}

/// The changes were not written. The [`JournalStatus`] says why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotWritten;

/// A job of the writer thread.
#[derive(Debug)]
enum WriterJob {
    Write {
        changes: Vec<JournalChange>,
        /// Receives the result. Without a receiver, changes that cannot be written are lost and counted.
        done: Option<oneshot::Sender<Result<(), NotWritten>>>,
    },
    /// Closes the file and ends the thread.
    Close(oneshot::Sender<()>),
}

/// The hub's journal. All clones refer to the same file.
#[derive(Debug, Clone)]
pub struct Journal {
    jobs: Option<SyncSender<WriterJob>>,
    status: watch::Receiver<JournalStatus>,
    recall: Arc<Mutex<Option<Recall>>>,
    missed: Arc<AtomicU64>,
}

impl Journal {
    /// Opens the journal of this home, and waits a moment for its content. The caller must hold the hub's lease. Every
    /// error is reported by [`Journal::status`], so that the hub can go on without a journal.
    pub async fn start(home: &Home) -> Self {
        let (jobs, queue) = sync_channel(QUEUE);
        let (publish, mut status) = watch::channel(JournalStatus::default());
        let (recall, missed) = (Arc::default(), Arc::default());
        let writer = writer::JournalWriter::new(path(home), queue, publish, Arc::clone(&recall), Arc::clone(&missed));
        let thread = std::thread::Builder::new().name(String::from("journal")).spawn(move || writer.run());
        if let Err(error) = thread {
            tracing::error!(%error, "cannot start the thread of the journal; this hub leaves nothing to the next one");
            return Self::none();
        }
        let settled = status.wait_for(|status| status.opened > 0 || status.problem.is_some());
        let _ = timeout(OPEN_TIMEOUT, settled).await;
        Self { jobs: Some(jobs), status, recall, missed }
    }

    /// Creates a journal that keeps nothing and recalls nothing.
    #[must_use]
    pub fn none() -> Self {
        let (_, status) = watch::channel(JournalStatus::default());
        Self { jobs: None, status, recall: Arc::default(), missed: Arc::default() }
    }

    /// Whether changes are written anywhere.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.jobs.is_some()
    }

    /// Watches the state of the journal.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<JournalStatus> {
        self.status.clone()
    }

    /// Takes what an earlier run of the hub left. Only the first caller gets it. It may come late, if the file could not
    /// be opened at once.
    #[must_use]
    pub fn recall(&self) -> Option<Recall> {
        self.recall.lock().take()
    }

    /// Writes these changes in one transaction, and waits until the death of the hub can no longer undo them.
    ///
    /// # Errors
    /// Fails if the changes could not be written. Then none of them was written.
    pub async fn commit(&self, changes: Vec<JournalChange>) -> Result<(), NotWritten> {
        let (done, written) = oneshot::channel();
        let jobs = self.jobs.as_ref().ok_or(NotWritten)?;
        jobs.try_send(WriterJob::Write { changes, done: Some(done) }).map_err(|_| NotWritten)?;
        written.await.unwrap_or(Err(NotWritten))
    }

    /// Queues an event without waiting for it. If the queue is full, the event is lost and counted.
    pub fn note(&self, event: JournalEvent) {
        let Some(jobs) = &self.jobs else { return };
        if jobs.try_send(WriterJob::Write { changes: vec![JournalChange::Event(event)], done: None }).is_err() {
            self.missed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Closes the journal for all its clones after the queued jobs, and waits for that for a limited time. After that, the
    /// whole journal is in one file.
    pub async fn close(self) {
        let Some(jobs) = self.jobs else { return };
        let (done, closed) = oneshot::channel();
        let close = async {
            let mut job = WriterJob::Close(done);
            // The queue has space again when the writer has caught up.
            while let Err(TrySendError::Full(returned)) = jobs.try_send(job) {
                job = returned;
                tokio::time::sleep(RETRY_PAUSE).await;
            }
            // A writer that has already ended has closed the file.
            let _ = closed.await;
        };
        let _ = timeout(CLOSE_TIMEOUT, close).await;
    }
}

/// The path of the journal of this home.
#[must_use]
pub fn path(home: &Home) -> PathBuf {
    home.root().join("journal.db")
}

/// The unusable journals that were put aside in this home.
#[cfg(test)]
#[must_use]
fn corrupt_files(home: &Home) -> Vec<PathBuf> {
    corrupt::files(home.root())
}

fn unusable(detail: String, path: &std::path::Path) -> Problem {
    Problem::new(Code::JournalUnusable, detail).seen("path", path.display().to_string())
}
