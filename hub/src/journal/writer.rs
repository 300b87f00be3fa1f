//! The one thread that writes the journal.
//!
//! Owns the [`Store`], when it is opened again, and the sweeping. What waits in the queue is written together.
//! Invariant: who waits is answered, written or not; events that are lost are counted, and the next ones that are written
//! come after a mark of the gap. A file that was removed is begun anew; one that is broken is put aside first.
//! Never: ends because of an error.

use super::store::{Store, Trouble};
use super::{Change, Event, Facts, Job, Recall, Unwritten, aside};
use jiff::{SignedDuration, Timestamp};
use linchpin_shared::problem::Problem;
use parking_lot::Mutex;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// How often to look at the file when there is nothing to write, and how soon to try again after a failure.
const LOOK: Duration = Duration::from_secs(1);

/// The most changes that are written together.
const TOGETHER: usize = 512;

/// How often a batch is tried while another process has the database; each try waits a quarter of a second.
const TRIES: u32 = 3;

/// How long everything is kept.
const KEPT: SignedDuration = SignedDuration::from_hours(7 * 24);

/// How often it is looked for what is older. The first time is a while after the start, which has better to do.
const SWEEP: Duration = Duration::from_secs(600);

/// The thread's state.
pub(super) struct Writer {
    path: PathBuf,
    jobs: Receiver<Job>,
    facts: watch::Sender<Facts>,
    recall: Arc<Mutex<Option<Recall>>>,
    /// Events lost, counted also by those who could not hand theirs in.
    missed: Arc<AtomicU64>,
    /// How many of them are marked in the journal.
    marked: u64,
    store: Option<Store>,
    retry_at: Instant,
    sweep_at: Instant,
}

impl Writer {
    pub(super) fn new(
        path: PathBuf,
        jobs: Receiver<Job>,
        facts: watch::Sender<Facts>,
        recall: Arc<Mutex<Option<Recall>>>,
        missed: Arc<AtomicU64>,
    ) -> Self {
        let now = Instant::now();
        Self { path, jobs, facts, recall, missed, marked: 0, store: None, retry_at: now, sweep_at: now + SWEEP }
    }

    /// Writes until nobody can hand in anything any more.
    pub(super) fn run(mut self) {
        self.open();
        loop {
            match self.jobs.recv_timeout(LOOK) {
                Ok(first) => self.together(first),
                Err(RecvTimeoutError::Timeout) => self.rest(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// There was nothing to write for a while.
    fn rest(&mut self) {
        self.current();
        let swept = match &self.store {
            Some(store) if Instant::now() >= self.sweep_at => store.sweep(Timestamp::now() - KEPT),
            Some(_) | None => return,
        };
        self.sweep_at = Instant::now() + if matches!(swept, Ok(true)) { LOOK } else { SWEEP };
        if let Err(trouble) = swept {
            self.failed(&trouble);
        }
    }

    /// Writes this job and those that wait behind it.
    fn together(&mut self, first: Job) {
        let mut jobs = vec![first];
        let mut changes = jobs[0].changes.len();
        while changes < TOGETHER
            && let Ok(job) = self.jobs.try_recv()
        {
            changes += job.changes.len();
            jobs.push(job);
        }
        let written = self.write(&jobs);
        for job in jobs {
            match job.done {
                // Who does not wait any more is not told.
                Some(done) => drop(done.send(written)),
                None if written.is_err() => {
                    self.missed.fetch_add(u64::try_from(job.changes.len()).unwrap_or(0), Ordering::Relaxed);
                }
                None => {}
            }
        }
        let missed = self.missed.load(Ordering::Relaxed);
        self.tell(|facts| facts.missed = missed);
    }

    fn write(&mut self, jobs: &[Job]) -> Result<(), Unwritten> {
        let missed = self.missed.load(Ordering::Relaxed);
        let gap = (missed > self.marked).then(|| gap(missed - self.marked));
        for _ in 0..TRIES {
            self.current();
            let store = self.store.as_mut().ok_or(Unwritten)?;
            let changes = gap.iter().chain(jobs.iter().flat_map(|job| &job.changes));
            match store.write(changes) {
                Ok(()) => {
                    self.marked = missed;
                    self.tell(|facts| facts.problem = None);
                    return Ok(());
                }
                Err(trouble) => self.failed(&trouble),
            }
        }
        Err(Unwritten)
    }

    /// Sees to it that the journal is open and that of the path, if it can be.
    fn current(&mut self) {
        if self.store.as_ref().is_some_and(|store| !store.is_current(&self.path)) {
            tracing::warn!(path = %self.path.display(), "the journal was removed while it was open; it is begun anew");
            self.store = None;
            self.retry_at = Instant::now();
        }
        if self.store.is_none() && Instant::now() >= self.retry_at {
            self.open();
        }
    }

    fn open(&mut self) {
        self.retry_at = Instant::now() + LOOK;
        let opened = Store::open(&self.path).or_else(|trouble| match self.put_aside(&trouble) {
            true => Store::open(&self.path),
            false => Err(trouble),
        });
        match opened {
            Ok((store, recall)) => {
                self.store = Some(store);
                // What is in a file that is opened again is older than what everybody knows.
                if self.facts.borrow().opened == 0 {
                    *self.recall.lock() = Some(recall);
                }
                self.tell(|facts| {
                    facts.opened += 1;
                    facts.problem = None;
                });
            }
            Err(trouble) => self.problem(&trouble.problem(&self.path)),
        }
    }

    /// The store failed.
    fn failed(&mut self, trouble: &Trouble) {
        match trouble {
            Trouble::Broken(_) | Trouble::Newer(_) => {
                self.store = None;
                self.put_aside(trouble);
                self.retry_at = Instant::now();
            }
            Trouble::Locked => self.problem(&trouble.problem(&self.path)),
            Trouble::Failing(_) => {
                self.store = None;
                self.retry_at = Instant::now() + LOOK;
                self.problem(&trouble.problem(&self.path));
            }
        }
    }

    /// Puts the file aside, where that is what the trouble asks for.
    fn put_aside(&self, trouble: &Trouble) -> bool {
        match trouble {
            Trouble::Broken(_) | Trouble::Newer(_) => {}
            Trouble::Locked | Trouble::Failing(_) => return false,
        }
        match aside::put(&self.path, trouble) {
            Ok(problem) => {
                tracing::error!(%problem, "the hub remembers less of its earlier lives");
                self.tell(|facts| facts.aside = Some(problem));
                true
            }
            Err(error) => {
                tracing::warn!(%error, ?trouble, "the journal cannot be used, nor put aside");
                false
            }
        }
    }

    /// Says what is wrong, once.
    fn problem(&self, problem: &Problem) {
        let known = self.facts.borrow().problem.as_ref().map(|known| known.code);
        if known != Some(problem.code) {
            tracing::warn!(%problem, "nothing is journalled until this ends; everything else goes on");
            self.tell(|facts| facts.problem = Some(problem.clone()));
        }
    }

    fn tell(&self, change: impl FnOnce(&mut Facts)) {
        self.facts.send_if_modified(|facts| {
            let before = facts.clone();
            change(facts);
            *facts != before
        });
    }
}

/// The mark of events that were lost before it.
fn gap(missed: u64) -> Change {
    Change::Event(Event {
        at: Timestamp::now(),
        topic: String::from("journal"),
        kind: String::from("gap"),
        data: serde_json::json!({ "missed": missed }),
    })
}
