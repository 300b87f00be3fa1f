//! What the gateway has the journal keep.
//!
//! Owns [`Keeper`]: the task that writes sessions and lists down when they changed. Invariant: what is written is
//! always the state of now, one batch at a time; what could not be written is written again, as it is then.
//! Never: makes a request wait.

use super::choice::Rules;
use super::client::table::Table;
use super::fleet::Boards;
use crate::journal::{Change, Facts, Journal};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, interval};

/// How often sessions that are in use are written down as used.
const USE: Duration = Duration::from_secs(600);

/// How soon to try again after a failure of which the journal does not tell the end.
const AGAIN: Duration = Duration::from_secs(1);

/// The task.
pub(super) struct Keeper {
    journal: Journal,
    facts: watch::Receiver<Facts>,
    clients: Arc<Table>,
    rules: Arc<Rules>,
    boards: watch::Receiver<Arc<Boards>>,
    /// Ended sessions that the journal may still have.
    ended: Vec<String>,
    /// Which file was written to last.
    opened: u64,
}

impl Keeper {
    /// Keeps these in this journal.
    pub(super) fn new(
        journal: Journal,
        clients: Arc<Table>,
        rules: Arc<Rules>,
        boards: watch::Receiver<Arc<Boards>>,
    ) -> Self {
        let facts = journal.facts();
        Self { journal, facts, clients, rules, boards, ended: Vec::new(), opened: 0 }
    }

    /// Keeps them until there are no boards any more.
    pub(super) async fn run(mut self) {
        let bell = self.clients.bell();
        let mut used = interval(USE);
        let mut used_at = Instant::now();
        loop {
            let wait = if self.keep().await { USE } else { AGAIN };
            tokio::select! {
                () = bell.notified() => {}
                changed = self.boards.changed() => if changed.is_err() { return },
                Ok(()) = self.facts.changed() => {}
                () = tokio::time::sleep(wait) => {}
                _ = used.tick() => {
                    self.clients.note_use(std::mem::replace(&mut used_at, Instant::now()));
                }
            }
        }
    }

    /// Writes what changed, and says whether the journal has it all now.
    async fn keep(&mut self) -> bool {
        let opened = self.facts.borrow_and_update().opened;
        // It could not be opened at once, or another file was begun.
        if let Some(recall) = self.journal.recall() {
            self.clients.recall(&recall.sessions, &self.rules);
        }
        let all = self.opened != opened;
        self.ended.extend(self.clients.unsaved_ends());
        let ended = self.ended.iter().cloned().map(Change::SessionEnded);
        let changes: Vec<_> = self.clients.unsaved(all).into_iter().map(Change::Session).chain(ended).collect();
        if changes.is_empty() {
            self.opened = opened;
            return true;
        }
        let kept = self.journal.commit(changes).await.is_ok();
        // What could not be written is not marked as unsaved any more.
        self.opened = if kept { opened } else { 0 };
        if kept {
            self.ended.clear();
        }
        kept
    }
}
