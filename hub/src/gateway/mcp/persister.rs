//! What the gateway has the journal keep.
//!
//! Owns [`Persister`]: the task that writes sessions and lists down when they changed. Invariant: what is written is
//! always the state of now, one batch at a time; what could not be written is written again, as it is then.
//! Never: makes a request wait.

use super::catalog::filter::FilterRules;
use super::catalog::server_key::ServerKey;
use super::session::store::SessionStore;
use super::upstream::pool::Catalogs;
use super::upstream::recalled::{KeptFingerprints, RecalledOffers};
use crate::journal::{Journal, JournalChange, JournalStatus};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, interval_at};
use uuid::Uuid;

/// How often sessions that are in use are written down as used.
const USE: Duration = Duration::from_secs(600);

/// How soon to try again after a failure of which the journal does not tell the end.
const AGAIN: Duration = Duration::from_secs(1);

/// So many times of that, and lists that never changed are written down as seen too, before they are swept as old.
const LISTS: u32 = 100;

/// What is kept, and who has it.
pub(crate) struct PersisterDeps {
    /// The sessions of agents.
    pub(crate) clients: Arc<SessionStore>,
    /// What the settings choose.
    pub(crate) rules: Arc<FilterRules>,
    /// The servers.
    pub(crate) catalogs: watch::Receiver<Arc<Catalogs>>,
    /// What servers offered in an earlier life of the hub.
    pub(crate) recalled: Arc<RecalledOffers>,
}

/// The task.
pub(crate) struct Persister {
    journal: Journal,
    facts: watch::Receiver<JournalStatus>,
    rooms: PersisterDeps,
    /// Ended sessions that the journal may still have.
    ended: Vec<String>,
    /// What the journal has of each server.
    lists: HashMap<(Uuid, ServerKey), KeptFingerprints>,
    /// Which file was written to last.
    opened: u64,
}

impl Persister {
    /// Keeps these in this journal.
    pub(crate) fn new(journal: Journal, rooms: PersisterDeps) -> Self {
        let facts = journal.status();
        Self { journal, facts, rooms, ended: Vec::new(), lists: HashMap::new(), opened: 0 }
    }

    /// Keeps them until there are no boards any more.
    pub(crate) async fn run(mut self) {
        let bell = self.rooms.clients.bell();
        let mut used = interval_at(Instant::now() + USE, USE);
        let (mut used_at, mut times) = (Instant::now(), 0_u32);
        loop {
            let wait = if self.keep().await { USE } else { AGAIN };
            tokio::select! {
                () = bell.notified() => {}
                changed = self.rooms.catalogs.changed() => if changed.is_err() { return },
                Ok(()) = self.facts.changed() => {}
                () = tokio::time::sleep(wait) => {}
                _ = used.tick() => {
                    self.rooms.clients.note_use(std::mem::replace(&mut used_at, Instant::now()));
                    self.rooms.recalled.forget();
                    times = (times + 1) % LISTS;
                    if times == 0 {
                        self.lists.clear();
                    }
                }
            }
        }
    }

    /// Writes what changed, and says whether the journal has it all now.
    async fn keep(&mut self) -> bool {
        let opened = self.facts.borrow_and_update().opened;
        // It could not be opened at once. The servers have spoken for themselves meanwhile.
        if let Some(recall) = self.journal.recall() {
            self.rooms.clients.recall(&recall.sessions, &self.rooms.rules);
        }
        let changes = self.changes(self.opened != opened);
        if changes.is_empty() {
            self.opened = opened;
            return true;
        }
        let kept = self.journal.commit(changes).await.is_ok();
        // What could not be written counts as saved by now, so everything is written next.
        self.opened = if kept { opened } else { 0 };
        if kept {
            self.ended.clear();
        }
        kept
    }

    /// What the journal has otherwise; with `all`, everything.
    fn changes(&mut self, all: bool) -> Vec<JournalChange> {
        self.ended.extend(self.rooms.clients.unsaved_ends());
        let ended = self.ended.iter().cloned().map(JournalChange::SessionEnded);
        let sessions = self.rooms.clients.unsaved(all).into_iter().map(JournalChange::Session);
        let mut changes: Vec<_> = sessions.chain(ended).collect();
        if all {
            self.lists.clear();
        }
        let catalogs = Arc::clone(&self.rooms.catalogs.borrow_and_update());
        for source in catalogs.iter().flat_map(|(_, catalog)| catalog.sources()) {
            let (id, server_key) = (source.backend.handle().id(), &source.backend.server_key);
            let kept = self.lists.entry((id, server_key.clone())).or_default();
            changes.extend(source.backend.known().news(id, server_key, kept).into_iter().map(JournalChange::List));
        }
        changes
    }
}
