//! The one thread that writes the journal.
//!
//! Jobs that wait in the queue are written in one transaction, and every caller that waits gets a result. Lost events are
//! counted, and a mark of the gap is written before the next events. If the file was removed, a new one is created; an
//! unusable file is put aside first. The thread does not end because of an error: it ends when it is told to, after it
//! has closed the file.

use super::store::{JournalError, JournalStore};
use super::{JournalChange, JournalEvent, JournalStatus, NotWritten, Recall, WriterJob, corrupt};
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

/// The interval between two checks of the file while no job arrives, and the pause after a failure.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The largest number of changes in one transaction.
const MAX_BATCH: usize = 512;

/// The number of attempts to write a batch while another process has the database locked. Each attempt waits a quarter of
/// a second.
const ATTEMPTS: u32 = 3;

/// How long everything is kept.
const RETENTION: SignedDuration = SignedDuration::from_hours(7 * 24);

/// The interval between two sweeps of older rows. The first sweep comes a while after the start, when the hub is less
/// busy.
const SWEEP_INTERVAL: Duration = Duration::from_secs(600);

/// The caller that waits until the journal is closed.
type CloseReply = oneshot::Sender<()>;

/// The changes of one job, and the caller that waits for the result.
type PendingWrite = (Vec<JournalChange>, Option<oneshot::Sender<Result<(), NotWritten>>>);

pub(super) struct JournalWriter {
    path: PathBuf,
    jobs: Receiver<WriterJob>,
    status: watch::Sender<JournalStatus>,
    recall: Arc<Mutex<Option<Recall>>>,
    /// The number of lost events. Callers that find the queue full count here as well.
    missed: Arc<AtomicU64>,
    /// How many of the lost events are marked in the journal.
    marked: u64,
    store: Option<JournalStore>,
    retry_at: Instant,
    sweep_at: Instant,
}

impl JournalWriter {
    pub(super) fn new(
        path: PathBuf,
        jobs: Receiver<WriterJob>,
        status: watch::Sender<JournalStatus>,
        recall: Arc<Mutex<Option<Recall>>>,
        missed: Arc<AtomicU64>,
    ) -> Self {
        let now = Instant::now();
        let sweep_at = now + SWEEP_INTERVAL;
        Self { path, jobs, status, recall, missed, marked: 0, store: None, retry_at: now, sweep_at }
    }

    /// Writes until it is told to close the journal, or no handle of the journal is left.
    pub(super) fn run(mut self) {
        self.open();
        loop {
            let closing = match self.jobs.recv_timeout(CHECK_INTERVAL) {
                Ok(first) => self.do_jobs(first),
                Err(RecvTimeoutError::Timeout) => {
                    self.ensure_open();
                    self.sweep(Instant::now(), Timestamp::now());
                    None
                }
                Err(RecvTimeoutError::Disconnected) => return,
            };
            if let Some(reply) = closing {
                // The last connection moves the write-ahead log into the file and removes it.
                self.store = None;
                // The caller may have stopped waiting.
                let _ = reply.send(());
                return;
            }
        }
    }

    /// Removes rows that are older than the retention, if a sweep is due.
    fn sweep(&mut self, at: Instant, now: Timestamp) {
        let swept = match &self.store {
            Some(store) if at >= self.sweep_at => store.sweep(now - RETENTION),
            Some(_) | None => return,
        };
        self.sweep_at = at + if matches!(swept, Ok(true)) { CHECK_INTERVAL } else { SWEEP_INTERVAL };
        if let Err(error) = swept {
            self.handle_error(&error);
        }
    }

    /// Does this job and those that wait behind it, up to one that closes the journal, whose reply is returned.
    fn do_jobs(&mut self, first: WriterJob) -> Option<CloseReply> {
        let (mut writes, mut count, mut next) = (Vec::new(), 0, Some(first));
        let closing = loop {
            match next {
                Some(WriterJob::Close(reply)) => break Some(reply),
                Some(WriterJob::Write { changes, done }) => {
                    count += changes.len();
                    writes.push((changes, done));
                }
                None => break None,
            }
            next = if count < MAX_BATCH { self.jobs.try_recv().ok() } else { None };
        };
        if !writes.is_empty() {
            self.write_all(writes);
        }
        closing
    }

    fn write_all(&mut self, writes: Vec<PendingWrite>) {
        let written = self.write(&writes);
        for (changes, done) in writes {
            match done {
                // The caller may have stopped waiting.
                Some(done) => drop(done.send(written)),
                None if written.is_err() => {
                    self.missed.fetch_add(u64::try_from(changes.len()).unwrap_or(0), Ordering::Relaxed);
                }
                None => {}
            }
        }
        let missed = self.missed.load(Ordering::Relaxed);
        self.update_status(|status| status.missed = missed);
    }

    fn write(&mut self, writes: &[PendingWrite]) -> Result<(), NotWritten> {
        let missed = self.missed.load(Ordering::Relaxed);
        let gap = (missed > self.marked).then(|| gap(missed - self.marked));
        for _ in 0..ATTEMPTS {
            self.ensure_open();
            let store = self.store.as_mut().ok_or(NotWritten)?;
            let changes = gap.iter().chain(writes.iter().flat_map(|(changes, _)| changes));
            match store.write(changes) {
                Ok(()) => {
                    self.marked = missed;
                    self.update_status(|status| status.problem = None);
                    return Ok(());
                }
                Err(error) => self.handle_error(&error),
            }
        }
        Err(NotWritten)
    }

    /// Opens the journal if it is not open, or if the open file is no longer the one at the path.
    fn ensure_open(&mut self) {
        if self.store.as_ref().is_some_and(|store| !store.is_current(&self.path)) {
            tracing::warn!(path = %self.path.display(), "the journal was removed while it was open; creating a new one");
            self.store = None;
            self.retry_at = Instant::now();
        }
        if self.store.is_none() && Instant::now() >= self.retry_at {
            self.open();
        }
    }

    fn open(&mut self) {
        self.retry_at = Instant::now() + CHECK_INTERVAL;
        let opened = JournalStore::open(&self.path).or_else(|error| match self.put_aside(&error) {
            true => JournalStore::open(&self.path),
            false => Err(error),
        });
        match opened {
            Ok((store, recall)) => {
                self.store = Some(store);
                // The content of a file that is opened again is older than what the hub knows.
                if self.status.borrow().opened == 0 {
                    *self.recall.lock() = Some(recall);
                }
                self.update_status(|status| {
                    status.opened += 1;
                    status.problem = None;
                });
            }
            Err(error) => self.report(&error.problem(&self.path)),
        }
    }

    fn handle_error(&mut self, error: &JournalError) {
        match error {
            JournalError::Corrupt(_) | JournalError::Newer(_) => {
                self.store = None;
                self.put_aside(error);
                self.retry_at = Instant::now();
            }
            JournalError::Locked => self.report(&error.problem(&self.path)),
            JournalError::Io(_) => {
                self.store = None;
                self.retry_at = Instant::now() + CHECK_INTERVAL;
                self.report(&error.problem(&self.path));
            }
        }
    }

    /// Puts the file aside if the error shows that it is unusable. Returns whether it was put aside.
    fn put_aside(&self, error: &JournalError) -> bool {
        match error {
            JournalError::Corrupt(_) | JournalError::Newer(_) => {}
            JournalError::Locked | JournalError::Io(_) => return false,
        }
        match corrupt::put_aside(&self.path, error) {
            Ok(problem) => {
                tracing::error!(%problem, "the hub has lost what earlier runs remembered");
                self.update_status(|status| status.corrupt = Some(problem));
                true
            }
            Err(rename) => {
                tracing::warn!(error = %rename, journal = ?error, "cannot put the unusable journal aside");
                false
            }
        }
    }

    /// Publishes a problem, and logs it once.
    fn report(&self, problem: &Problem) {
        let known = self.status.borrow().problem.as_ref().map(|known| known.code);
        if known != Some(problem.code) {
            tracing::warn!(%problem, "the journal cannot be written at present; the hub goes on without it");
            self.update_status(|status| status.problem = Some(problem.clone()));
        }
    }

    fn update_status(&self, change: impl FnOnce(&mut JournalStatus)) {
        self.status.send_if_modified(|status| {
            let before = status.clone();
            change(status);
            *status != before
        });
    }
}

/// The mark that this many events were lost.
fn gap(missed: u64) -> JournalChange {
    JournalChange::Event(JournalEvent {
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

    /// Rows are swept after seven days, not earlier, and in small steps.
    #[test]
    fn old_rows_are_swept_in_small_steps() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.db");
        let (_jobs, queue) = sync_channel(1);
        let mut writer =
            JournalWriter::new(path.clone(), queue, watch::Sender::default(), Arc::default(), Arc::default());
        writer.open();
        let begun = Timestamp::now();
        let event = |number: i64| {
            // There are two events for each hour, and the newest ones belong to the present hour.
            let at = begun - SignedDuration::from_hours(number / 2);
            JournalChange::Event(JournalEvent {
                at,
                topic: String::new(),
                kind: String::new(),
                data: serde_json::json!({}),
            })
        };
        let events: Vec<_> = (0..1200).map(event).collect();
        writer.store.as_mut().unwrap().write(events.iter()).unwrap();
        let left = || -> i64 {
            Connection::open(&path).unwrap().query_row("SELECT count(*) FROM events", [], |row| row.get(0)).unwrap()
        };

        let due = writer.sweep_at;
        writer.sweep(due - CHECK_INTERVAL, begun);
        assert_eq!(left(), 1200, "it is not time yet");
        // One millisecond later, so that events of exactly seven days ago are too old.
        let now = begun + SignedDuration::from_millis(1);
        writer.sweep(due, now);
        assert_eq!((left(), writer.sweep_at), (700, due + CHECK_INTERVAL), "there is more, and it comes soon");
        writer.sweep(due + CHECK_INTERVAL, now);
        assert_eq!(
            (left(), writer.sweep_at),
            (336, due + CHECK_INTERVAL + SWEEP_INTERVAL),
            "two for each hour of a week stay"
        );
        writer.sweep(due + CHECK_INTERVAL + SWEEP_INTERVAL, begun + SignedDuration::from_hours(24 * 8));
        assert_eq!(left(), 0);
    }
}
