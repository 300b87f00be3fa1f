//! The one thread that writes the journal.
//!
//! Owns the [`Store`], when it is opened again, and the sweeping. What waits in the queue is written together.
//! Invariant: who waits is answered, written or not; events that are lost are counted, and the next ones that are written
//! come after a mark of the gap. A file that was removed is begun anew; one that is broken is put aside first.
//! Never: ends because of an error, or before it is told to and the file is closed.

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
use tokio::sync::{oneshot, watch};
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

/// Who waits until the journal is closed.
type Closing = oneshot::Sender<()>;

/// What is to be written, and who wants to be told.
type Write = (Vec<Change>, Option<oneshot::Sender<Result<(), Unwritten>>>);

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

    /// Writes until it is told to close, or nobody can hand in anything any more.
    pub(super) fn run(mut self) {
        self.open();
        loop {
            let closing = match self.jobs.recv_timeout(LOOK) {
                Ok(first) => self.together(first),
                Err(RecvTimeoutError::Timeout) => {
                    self.current();
                    self.sweep(Instant::now(), Timestamp::now());
                    None
                }
                Err(RecvTimeoutError::Disconnected) => return,
            };
            if let Some(done) = closing {
                // The last connection takes the log into the file and removes it.
                self.store = None;
                // Who does not wait any more is not told.
                let _ = done.send(());
                return;
            }
        }
    }

    /// Sweeps, if it is time to.
    fn sweep(&mut self, at: Instant, now: Timestamp) {
        let swept = match &self.store {
            Some(store) if at >= self.sweep_at => store.sweep(now - KEPT),
            Some(_) | None => return,
        };
        self.sweep_at = at + if matches!(swept, Ok(true)) { LOOK } else { SWEEP };
        if let Err(trouble) = swept {
            self.failed(&trouble);
        }
    }

    /// Does this job and those that wait behind it, up to one that closes, which is given back.
    fn together(&mut self, first: Job) -> Option<Closing> {
        let (mut writes, mut changes, mut next) = (Vec::new(), 0, Some(first));
        let closing = loop {
            match next {
                Some(Job::Close(done)) => break Some(done),
                Some(Job::Write { changes: these, done }) => {
                    changes += these.len();
                    writes.push((these, done));
                }
                None => break None,
            }
            next = if changes < TOGETHER { self.jobs.try_recv().ok() } else { None };
        };
        if !writes.is_empty() {
            self.write_all(writes);
        }
        closing
    }

    fn write_all(&mut self, writes: Vec<Write>) {
        let written = self.write(&writes);
        for (changes, done) in writes {
            match done {
                // Who does not wait any more is not told.
                Some(done) => drop(done.send(written)),
                None if written.is_err() => {
                    self.missed.fetch_add(u64::try_from(changes.len()).unwrap_or(0), Ordering::Relaxed);
                }
                None => {}
            }
        }
        let missed = self.missed.load(Ordering::Relaxed);
        self.tell(|facts| facts.missed = missed);
    }

    fn write(&mut self, writes: &[Write]) -> Result<(), Unwritten> {
        let missed = self.missed.load(Ordering::Relaxed);
        let gap = (missed > self.marked).then(|| gap(missed - self.marked));
        for _ in 0..TRIES {
            self.current();
            let store = self.store.as_mut().ok_or(Unwritten)?;
            let changes = gap.iter().chain(writes.iter().flat_map(|(changes, _)| changes));
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

#[cfg(test)]
mod tests {
    use super::*;
    use rusqlite::Connection;
    use std::sync::mpsc::sync_channel;

    /// What was written is swept when it is seven days old and not before, in small steps, and never too early.
    #[test]
    fn what_is_old_is_swept_in_small_steps_and_what_is_younger_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.db");
        let (_jobs, queue) = sync_channel(1);
        let mut writer = Writer::new(path.clone(), queue, watch::Sender::default(), Arc::default(), Arc::default());
        writer.open();
        let begun = Timestamp::now();
        let event = |number: i64| {
            // Two events of each hour, the newest of this one.
            let at = begun - SignedDuration::from_hours(number / 2);
            Change::Event(Event { at, topic: String::new(), kind: String::new(), data: serde_json::json!({}) })
        };
        let events: Vec<_> = (0..1200).map(event).collect();
        writer.store.as_mut().unwrap().write(events.iter()).unwrap();
        let left = || -> i64 {
            Connection::open(&path).unwrap().query_row("SELECT count(*) FROM events", [], |row| row.get(0)).unwrap()
        };

        let due = writer.sweep_at;
        writer.sweep(due - LOOK, begun);
        assert_eq!(left(), 1200, "it is not time yet");
        // One millisecond later, so that those of exactly seven days are old.
        let now = begun + SignedDuration::from_millis(1);
        writer.sweep(due, now);
        assert_eq!((left(), writer.sweep_at), (700, due + LOOK), "there is more, and it comes soon");
        writer.sweep(due + LOOK, now);
        assert_eq!((left(), writer.sweep_at), (336, due + LOOK + SWEEP), "two for each hour of a week stay");
        writer.sweep(due + LOOK + SWEEP, begun + SignedDuration::from_hours(24 * 8));
        assert_eq!(left(), 0);
    }
}
