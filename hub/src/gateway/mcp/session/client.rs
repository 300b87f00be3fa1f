//! The sessions of agents.
//!
//! Owns [`Client`], one session: its address, its version, and what must outlast a request: the wanted log level,
//! subscriptions, the requests under way ([`super::in_flight`]) and their [`super::replay`], what servers asked it ([`super::server_requests`]), the messages that wait for its stream ([`super::outbox`]) and which
//! lists it has seen. [`super::store`] owns all of them, [`super::capability_sets`] tells what they can do.
//! Invariant: a client is told of a changed list exactly when the list differs from the one it was told of last, and
//! again when it opens its stream without having fetched that list since.
//! Never: talks to a backend.

use super::in_flight::InFlight;
use super::latest::LatestOnly;
use super::outbox::{Outbox, OutboxReader};
use super::replay::ReplayBuffers;
use super::server_requests::ServerRequests;
use super::subscription::Subscription;
use crate::gateway::mcp::catalog::scope::Scope;
use crate::gateway::mcp::catalog::server_key::ServerKey;
use crate::gateway::mcp::catalog::view::Fingerprints;
use crate::gateway::mcp::protocol::capabilities::ClientCapabilities;
use crate::gateway::mcp::protocol::level::Level;
use crate::gateway::mcp::protocol::list_kind::ListChange;
use crate::gateway::mcp::protocol::version::Version;
use parking_lot::Mutex;
use std::collections::HashSet;
use std::sync::{Arc, OnceLock};
use tokio::sync::Notify;
use tokio::time::Instant;

/// What a client knows of one topic.
#[derive(Debug, Clone, Copy)]
pub(super) struct KnownLists {
    /// The list that it fetched last; none if that was in an earlier life of the hub.
    pub(super) fetched: Option<u64>,
    /// The list that it was told of last.
    pub(crate) notified: u64,
}

/// What a client said when it began its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ClientInfo {
    /// The agreed version.
    pub(crate) version: Version,
    /// What it can do.
    pub(crate) capabilities: ClientCapabilities,
}

/// One session.
#[derive(Debug)]
pub(crate) struct Client {
    /// Its id.
    pub(crate) id: String,
    /// What it sees.
    pub(crate) scope: Scope,
    /// The agreed version.
    pub(crate) version: Version,
    /// What it can do.
    pub(crate) capabilities: ClientCapabilities,
    /// Its requests under way.
    pub(crate) in_flight: InFlight,
    /// What servers asked it.
    pub(crate) server_requests: ServerRequests,
    /// The streams of its requests.
    pub(crate) streams: ReplayBuffers,
    /// The news of its roots that the servers are to hear.
    pub(crate) roots: LatestOnly,
    /// What its stream is for, where that was asked for by one request.
    listen: Option<Subscription>,
    pub(super) outbox: Arc<Outbox>,
    pub(super) memory: Mutex<SessionMemory>,
    /// Rung when something changed that the hub has to know again after its death.
    pub(crate) bell: OnceLock<Arc<Notify>>,
}

#[derive(Debug)]
pub(super) struct SessionMemory {
    pub(crate) level: Option<Level>,
    pub(crate) subscriptions: HashSet<(ServerKey, String)>,
    pub(crate) tasks: super::task_book::TaskBook,
    pub(crate) knowledge: [KnownLists; 3],
    pub(crate) used: Instant,
    /// Whether it showed itself after it began.
    pub(crate) was_used: bool,
    /// The params of its `initialize`.
    pub(crate) initialize: Option<Box<str>>,
    /// Whether the journal has it otherwise.
    pub(super) unsaved: bool,
    /// When it was recalled from an earlier life of the hub.
    pub(super) recalled: Option<Instant>,
}

impl Client {
    /// A session. `fresh` tells whether the client has seen nothing but these lists; a session that is continued from
    /// an earlier life of the hub may have seen others.
    pub(crate) fn new(id: String, scope: Scope, about: ClientInfo, fingerprints: Fingerprints, fresh: bool) -> Self {
        let knowledge = ListChange::ALL.map(|topic| {
            let notified = topic.of(fingerprints);
            KnownLists { fetched: fresh.then_some(notified), notified }
        });
        let memory = SessionMemory {
            level: None,
            subscriptions: HashSet::new(),
            tasks: super::task_book::TaskBook::default(),
            knowledge,
            used: Instant::now(),
            was_used: false,
            initialize: None,
            unsaved: true,
            recalled: None,
        };
        Self {
            streams: ReplayBuffers::of(&id),
            id,
            scope,
            version: about.version,
            capabilities: about.capabilities,
            in_flight: InFlight::default(),
            server_requests: ServerRequests::default(),
            roots: LatestOnly::default(),
            listen: None,
            outbox: Arc::default(),
            memory: Mutex::new(memory),
            bell: OnceLock::new(),
        }
    }

    /// One request of a client, which has no session.
    pub(crate) fn of_request(scope: Scope, capabilities: ClientCapabilities, fingerprints: Fingerprints) -> Self {
        let about = ClientInfo { version: Version::V2026_07_28, capabilities };
        Self::new(String::new(), scope, about, fingerprints, true)
    }

    /// The stream that one request of a client asked for. `id` is known to nobody else.
    pub(crate) fn of_stream(
        id: String,
        scope: Scope,
        capabilities: ClientCapabilities,
        fingerprints: Fingerprints,
        listen: Subscription,
    ) -> Self {
        Self { id, listen: Some(listen), ..Self::of_request(scope, capabilities, fingerprints) }
    }

    /// The set of abilities whose sessions with servers it is served by.
    pub(crate) fn session_kind(&self) -> ClientCapabilities {
        self.capabilities
    }

    /// Whether it has no session.
    pub(crate) fn is_stateless(&self) -> bool {
        self.version == Version::V2026_07_28
    }

    /// Puts a message on the client's stream.
    pub(crate) fn send(&self, message: &str) {
        match &self.listen {
            None => self.outbox.push(message),
            Some(listen) => {
                if let Some(message) = listen.tagged(message) {
                    self.outbox.push(&message);
                }
            }
        }
    }

    /// Puts the news of a list on the client's stream, if it is not there already.
    fn notify(&self, topic: ListChange) {
        match &self.listen {
            None => self.outbox.push_once(topic.message()),
            Some(listen) => {
                if let Some(message) = listen.tagged(topic.message()) {
                    self.outbox.push_once(&message);
                }
            }
        }
    }

    /// Opens the client's stream, in place of an earlier one.
    pub(crate) fn open_stream(&self, fingerprints: Fingerprints) -> OutboxReader {
        self.open_stream_after(fingerprints, u64::MAX)
    }

    /// The same after this event of an earlier one, as far as later ones are kept.
    pub(crate) fn open_stream_after(&self, fingerprints: Fingerprints, after: u64) -> OutboxReader {
        let memory = self.memory.lock();
        for (topic, known) in ListChange::ALL.into_iter().zip(&memory.knowledge) {
            if known.fetched != Some(topic.of(fingerprints)) && !memory.waits_for_lists(known) {
                self.notify(topic);
            }
        }
        drop(memory);
        let prefix = self.listen.is_none().then(|| format!("{}.0", self.streams.life()));
        Outbox::read_as(&self.outbox, prefix, after)
    }

    /// Ends the client's stream for good.
    pub(crate) fn close(&self) {
        self.outbox.close();
    }

    /// The lists are these now.
    pub(crate) fn lists_are(&self, fingerprints: Fingerprints) {
        let mut memory = self.memory.lock();
        for (topic, known) in ListChange::ALL.into_iter().zip(&mut memory.knowledge) {
            if known.notified != topic.of(fingerprints) {
                known.notified = topic.of(fingerprints);
                self.notify(topic);
            }
        }
    }

    /// The client was given a list of this topic as it is in `fingerprints`.
    pub(crate) fn fetched(&self, topic: ListChange, fingerprints: Fingerprints) {
        let fingerprint = topic.of(fingerprints);
        let mut memory = self.memory.lock();
        for (_, known) in ListChange::ALL.into_iter().zip(&mut memory.knowledge).filter(|(each, _)| *each == topic) {
            *known = KnownLists { fetched: Some(fingerprint), notified: fingerprint };
        }
        self.changed(memory);
    }

    /// The log level that the client asked for.
    pub(crate) fn level(&self) -> Option<Level> {
        self.memory.lock().level
    }

    pub(super) fn set_level(&self, level: Level) {
        let mut memory = self.memory.lock();
        memory.level = Some(level);
        self.changed(memory);
    }

    /// Remembers a subscription.
    pub(crate) fn subscribe(&self, server_key: &ServerKey, uri: &str) {
        let mut memory = self.memory.lock();
        memory.subscriptions.insert((server_key.clone(), uri.to_owned()));
        self.changed(memory);
    }

    /// Forgets a subscription.
    pub(crate) fn unsubscribe(&self, server_key: &ServerKey, uri: &str) {
        let mut memory = self.memory.lock();
        memory.subscriptions.remove(&(server_key.clone(), uri.to_owned()));
        self.changed(memory);
    }

    /// The client's subscriptions.
    pub(crate) fn subscriptions(&self) -> Vec<(ServerKey, String)> {
        self.memory.lock().subscriptions.iter().cloned().collect()
    }

    /// Whether an update of this resource concerns the client. A server may tell of a part of what was subscribed to.
    pub(crate) fn is_subscribed(&self, server_key: &ServerKey, uri: &str) -> bool {
        self.memory.lock().subscriptions.iter().any(|(of, wanted)| of == server_key && uri.starts_with(wanted.as_str()))
    }

    /// Whether it sees this session with a server.
    pub(crate) fn sees(&self, server_key: &ServerKey) -> bool {
        server_key.session_kind.serves(self.capabilities) && self.scope.covers(server_key)
    }

    /// Whether it reads its stream.
    pub(crate) fn is_listening(&self) -> bool {
        self.outbox.is_read()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::gateway::mcp::catalog::scope::ScopePath;
    use crate::gateway::mcp::catalog::scope::tests::server_key;

    const A: Fingerprints = Fingerprints { tools: 1, prompts: 2, resources: 3 };
    const B: Fingerprints = Fingerprints { tools: 9, ..A };

    pub(crate) fn client(fresh: bool) -> Client {
        let about = ClientInfo { version: Version::LATEST, capabilities: ClientCapabilities::NONE };
        Client::new(String::from("s"), ScopePath::All.into(), about, A, fresh)
    }

    async fn next(reader: &mut OutboxReader) -> String {
        String::from_utf8(reader.next().await.unwrap().to_vec()).unwrap()
    }

    #[tokio::test]
    async fn a_changed_list_is_told_once() {
        let client = client(true);
        client.lists_are(A);
        client.lists_are(B);
        client.lists_are(B);
        client.send("{\"end\":1}");
        let mut stream = client.open_stream(B);
        assert!(next(&mut stream).await.contains("tools/list_changed"));
        assert!(next(&mut stream).await.contains("end"));
    }

    #[tokio::test]
    async fn it_is_told_again_on_a_new_stream_until_it_fetched() {
        let client = client(true);
        client.lists_are(B);
        let mut first = client.open_stream(B);
        assert!(next(&mut first).await.contains("tools/list_changed"));
        let mut second = client.open_stream(B);
        assert!(next(&mut second).await.contains("tools/list_changed"), "it may have been lost with the first");
        assert_eq!(first.next().await, None, "replaced");
        client.fetched(ListChange::Tools, B);
        client.send("{\"end\":1}");
        let mut third = client.open_stream(B);
        assert!(next(&mut third).await.contains("end"));
    }

    #[tokio::test]
    async fn a_continued_session_may_have_seen_anything() {
        let client = client(false);
        client.lists_are(A);
        let mut stream = client.open_stream(A);
        for topic in ["tools", "prompts", "resources"] {
            assert!(next(&mut stream).await.contains(topic));
        }
    }

    #[test]
    fn a_part_of_a_subscribed_resource_concerns_the_client() {
        let client = client(true);
        let server_key = server_key("a", "s");
        client.subscribe(&server_key, "file:///a");
        assert!(client.is_subscribed(&server_key, "file:///a/b"));
        assert!(!client.is_subscribed(&ServerKey { instance: "b".into(), ..server_key.clone() }, "file:///a"));
        client.unsubscribe(&server_key, "file:///a");
        assert!(!client.is_subscribed(&server_key, "file:///a"));
    }
}
