//! For which abilities sessions with servers are needed.
//!
//! Owns the rule: a set of abilities is in use for as long as a client with a session, a stream or a request of that set
//! is there, and for a while after the last of them showed itself. A client of 2026-07-28 has no session, so [`CapabilityUse`] stands
//! for each of its requests, also for one that waits for its answers.
//! Invariant: the sets are bounded, and those used last stay. Never: says what a server is promised.

use super::client::Client;
use super::store::SessionStore;
use crate::gateway::mcp::protocol::capabilities::ClientCapabilities;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// How many sets of abilities have sessions of their own; agents of one person differ in three or four.
const MAX_SETS: usize = 16;

/// For this long sessions with servers are kept for a set whose clients are all silent.
pub(crate) const SET_IDLE: Duration = Duration::from_secs(600);

/// The sets of abilities, other than none, that clients in use have.
pub(crate) type CapabilitySets = Arc<Vec<ClientCapabilities>>;

/// Requests of clients without sessions: how many of each set are under way, and when the last one was.
#[derive(Debug, Default)]
pub(crate) struct StatelessRequests(Mutex<HashMap<ClientCapabilities, (usize, Instant)>>);

impl StatelessRequests {
    /// When each set was used last. Those that were not for long are forgotten.
    fn used(&self, now: Instant) -> Vec<(ClientCapabilities, Instant)> {
        let mut table = self.0.lock();
        table.retain(|_, (count, last)| *count > 0 || now.duration_since(*last) < SET_IDLE);
        table.iter().map(|(set, (count, last))| (*set, if *count > 0 { now } else { *last })).collect()
    }
}

/// While it is held, the set of a request is in use.
#[derive(Debug)]
pub(crate) struct CapabilityUse {
    table: Arc<SessionStore>,
    set: ClientCapabilities,
}

impl Drop for CapabilityUse {
    fn drop(&mut self) {
        if let Some((count, last)) = self.table.requests.0.lock().get_mut(&self.set) {
            (*count, *last) = (count.saturating_sub(1), Instant::now());
        }
    }
}

impl SessionStore {
    /// A request of a client without a session that can do this is under way, so its set needs sessions.
    pub(crate) fn using(table: &Arc<Self>, set: ClientCapabilities) -> CapabilityUse {
        let now = Instant::now();
        let mut requests = table.requests.0.lock();
        requests.entry(set).or_insert((0, now)).0 += 1;
        drop(requests);
        table.keep(set);
        CapabilityUse { table: Arc::clone(table), set }
    }

    /// The sets of abilities for which sessions with servers are needed, now and whenever they change.
    pub(crate) fn sets(&self) -> watch::Receiver<CapabilitySets> {
        self.sets.subscribe()
    }

    /// A client is in use, so its set needs sessions. To be called before it is served.
    pub(crate) fn keep_set(&self, client: &Client) {
        self.keep(client.capabilities);
    }

    fn keep(&self, set: ClientCapabilities) {
        if set != ClientCapabilities::NONE && !self.sets.borrow().contains(&set) {
            self.publish_sets(Instant::now());
        }
    }

    /// Works out which sets are needed now.
    pub(crate) fn publish_sets(&self, now: Instant) {
        let mut last: HashMap<ClientCapabilities, Instant> = HashMap::new();
        for client in self.all().into_iter().filter(|client| client.capabilities != ClientCapabilities::NONE) {
            let used = client.idle_since().unwrap_or(now);
            let known = last.entry(client.capabilities).or_insert(used);
            *known = used.max(*known);
        }
        for (set, used) in self.requests.used(now).into_iter().filter(|(set, _)| *set != ClientCapabilities::NONE) {
            let known = last.entry(set).or_insert(used);
            *known = used.max(*known);
        }
        let mut sets: Vec<_> = last.into_iter().filter(|(_, used)| now.duration_since(*used) < SET_IDLE).collect();
        sets.sort_by_key(|(set, used)| (std::cmp::Reverse(*used), *set));
        sets.truncate(MAX_SETS);
        let mut sets: Vec<_> = sets.into_iter().map(|(set, _)| set).collect();
        sets.sort_unstable();
        self.sets.send_if_modified(|known| {
            let differs = **known != sets;
            if differs {
                *known = Arc::new(sets);
            }
            differs
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::mcp::session::id::SessionKey;

    #[test]
    fn a_request_keeps_its_set_for_as_long_as_it_takes_and_a_while_longer() {
        let table = Arc::new(SessionStore::new(SessionKey::from_token("t"), 8));
        let (one, two) = (
            SessionStore::using(&table, ClientCapabilities::ALL),
            SessionStore::using(&table, ClientCapabilities::ALL),
        );
        let _plain = SessionStore::using(&table, ClientCapabilities::NONE);
        assert_eq!(**table.sets().borrow(), [ClientCapabilities::ALL], "the empty one has its sessions always");
        drop(one);
        let much_later = Instant::now() + SET_IDLE * 3;
        table.publish_sets(much_later);
        assert_eq!(**table.sets().borrow(), [ClientCapabilities::ALL], "one is still under way");
        drop(two);
        table.publish_sets(Instant::now());
        assert_eq!(**table.sets().borrow(), [ClientCapabilities::ALL]);
        table.publish_sets(much_later);
        assert!(table.sets().borrow().is_empty());
    }
}
