//! Room for sessions, and for what each of them keeps: whose place a newcomer gets when there are as many as may be.
//!
//! Owns the order in which sessions are forgotten, and with it when a client showed itself. Invariant: one that is in use is never forgotten; of the others first
//! those that were never used after they began, then the most silent. Who begins sessions without end so loses its own.
//! Never: ends a session: one that was forgotten is continued when its client speaks again.

use super::client::Client;
use super::store::{SessionStore, StoreFull, StoreState};
use tokio::time::Instant;

/// Of so many sessions one is forgotten at a time, so that the work of looking at all is done rarely.
const SHARE: usize = 64;

/// Subscriptions of one client, and the longest URI of one. All of them are in the journal.
pub(crate) const MAX_SUBSCRIPTIONS: usize = 1024;
const MAX_URI: usize = 8192;

impl Client {
    /// The client shows itself.
    pub(crate) fn touch(&self, now: Instant) {
        let mut memory = self.memory.lock();
        memory.used = now;
        if !std::mem::replace(&mut memory.was_used, true) {
            self.changed(memory);
        }
    }

    /// Whether it showed itself after it began.
    pub(crate) fn was_used(&self) -> bool {
        self.memory.lock().was_used
    }

    /// Since when the client has not shown itself; none while it reads its stream or waits for an answer.
    pub(crate) fn idle_since(&self) -> Option<Instant> {
        let busy = self.outbox.is_read() || self.in_flight.len() > 0;
        (!busy).then(|| self.memory.lock().used)
    }

    /// Whether it may subscribe to this too.
    pub(crate) fn may_subscribe(&self, uri: &str) -> bool {
        uri.len() <= MAX_URI && self.memory.lock().subscriptions.len() < MAX_SUBSCRIPTIONS
    }
}

impl SessionStore {
    /// Makes room for one more.
    pub(crate) fn make_room(&self, inner: &mut StoreState) -> Result<(), StoreFull> {
        if inner.live.len() < self.most {
            return Ok(());
        }
        let forgettable = |client: &Client| Some((client.was_used(), client.idle_since()?, client.id.clone()));
        let mut idle: Vec<_> = inner.live.values().filter_map(|client| forgettable(client)).collect();
        idle.sort_unstable();
        idle.truncate((self.most / SHARE).max(1));
        for (used, _, id) in &idle {
            inner.live.remove(id);
            if *used {
                inner.unsaved_ends.push(id.clone());
            }
        }
        if idle.is_empty() { Err(StoreFull) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::mcp::catalog::scope::{Scope, ScopePath};
    use crate::gateway::mcp::catalog::view::Fingerprints;
    use crate::gateway::mcp::protocol::capabilities::ClientCapabilities;
    use crate::gateway::mcp::protocol::version::Version;
    use crate::gateway::mcp::session::client::ClientInfo;
    use crate::gateway::mcp::session::id::SessionKey;
    use crate::gateway::mcp::session::store::FoundSession;

    #[test]
    fn sessions_that_are_only_begun_displace_each_other_and_are_not_kept() {
        let table = SessionStore::new(SessionKey::from_token("t"), 64);
        let about = ClientInfo { version: Version::LATEST, capabilities: ClientCapabilities::NONE };
        let nothing = Fingerprints { tools: 0, prompts: 0, resources: 0 };
        let everything = || Scope::from(ScopePath::All);
        let begin = |n: u64| {
            let mut random = [0; 16];
            random[..8].copy_from_slice(&n.to_be_bytes());
            table.begin(everything(), about, nothing, random).unwrap()
        };
        let mine = begin(0);
        mine.touch(Instant::now());
        (1..1000).for_each(|n| drop(begin(n)));
        assert_eq!(table.all().len(), 64);
        assert!(table.all().iter().any(|client| client.id == mine.id), "it was used, and they were not");
        let kept: Vec<_> = table.unsaved(true).into_iter().map(|session| session.id).collect();
        assert_eq!((kept, table.unsaved_ends().len()), (vec![mine.id.clone()], 0), "the journal has no other");

        // When all were used, the most silent goes, and leaves the journal too.
        for n in 1000..1064 {
            begin(n).touch(Instant::now());
        }
        assert_eq!(table.unsaved_ends(), std::slice::from_ref(&mine.id));
        assert!(
            matches!(table.find(&mine.id, &everything(), |_| nothing), FoundSession::Client(_)),
            "and may come back"
        );
    }
}
