//! All sessions of agents.
//!
//! Owns [`SessionStore`]: which sessions there are, which ids were ended by their clients, what log levels the clients of each
//! scope want. Invariant: an id that this hub or an earlier life of it signed names a session until its client ends it; a
//! session that was forgotten (a restart, too many of them) is continued as soon as its client shows itself.
//! Never: holds its lock across an await.

use super::capability_sets::{CapabilitySets, StatelessRequests};
use super::client::{Client, ClientInfo};
use super::id::SessionKey;
use crate::gateway::mcp::catalog::scope::Scope;
use crate::gateway::mcp::catalog::server_key::ServerKey;
use crate::gateway::mcp::catalog::view::Fingerprints;
use crate::gateway::mcp::catalog::view::{CatalogView, ToolCatalog};
use crate::gateway::mcp::protocol::capabilities::ClientCapabilities;
use crate::gateway::mcp::protocol::level::{EffectiveLevel, Level, shows};
use crate::gateway::mcp::protocol::list_kind::ListKind;
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// How many ended sessions are remembered.
const MAX_ENDED: usize = 4096;

/// What the clients of each scope and each set of abilities want to be logged.
pub(crate) type EffectiveLevels = Arc<HashMap<(Scope, ClientCapabilities), EffectiveLevel>>;

/// All sessions of agents.
#[derive(Debug)]
pub(crate) struct SessionStore {
    pub(crate) key: SessionKey,
    /// So many sessions are remembered.
    pub(crate) most: usize,
    pub(crate) inner: Mutex<StoreState>,
    levels: watch::Sender<EffectiveLevels>,
    pub(crate) sets: watch::Sender<CapabilitySets>,
    pub(crate) requests: StatelessRequests,
    /// Rung when the journal should have a session otherwise.
    pub(crate) bell: Arc<Notify>,
}

#[derive(Debug, Default)]
pub(crate) struct StoreState {
    pub(crate) live: HashMap<String, Arc<Client>>,
    pub(crate) ended: HashSet<String>,
    ended_in_order: VecDeque<String>,
    /// Ended, and still in the journal.
    pub(crate) unsaved_ends: Vec<String>,
}

/// There are too many sessions, and every one of them is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StoreFull;

/// What an id names.
#[derive(Debug)]
pub(crate) enum FoundSession {
    /// A session.
    Client(Arc<Client>),
    /// Nothing: it is forged, or of another address, or was ended.
    Unknown,
    /// A session that there is no room for.
    Full,
}

impl SessionStore {
    /// No sessions, and room for so many.
    pub(crate) fn new(key: SessionKey, most: usize) -> Self {
        let (levels, sets) = (watch::Sender::default(), watch::Sender::default());
        let requests = StatelessRequests::default();
        Self { key, most, inner: Mutex::default(), levels, sets, requests, bell: Arc::default() }
    }

    /// Begins a session of a client that sees these lists.
    pub(crate) fn begin(
        &self,
        scope: Scope,
        about: ClientInfo,
        fingerprints: Fingerprints,
        random: [u8; 16],
    ) -> Result<Arc<Client>, StoreFull> {
        let id = self.key.sign(about.version, about.capabilities, &scope, random);
        self.add(Client::new(id, scope, about, fingerprints, true))
    }

    /// What signs.
    pub(crate) fn key(&self) -> &SessionKey {
        &self.key
    }

    /// The session of this id at this address; what a client with these abilities is shown is asked for when it has to
    /// be continued.
    pub(crate) fn find(
        &self,
        id: &str,
        scope: &Scope,
        fingerprints: impl FnOnce(ClientCapabilities) -> Fingerprints,
    ) -> FoundSession {
        {
            let inner = self.inner.lock();
            if let Some(client) = inner.live.get(id) {
                return if client.scope == *scope {
                    FoundSession::Client(Arc::clone(client))
                } else {
                    FoundSession::Unknown
                };
            }
            if inner.ended.contains(id) {
                return FoundSession::Unknown;
            }
        }
        let Some((version, capabilities)) = self.key.verify(id, scope) else { return FoundSession::Unknown };
        tracing::info!(scope = %scope, "a session of an earlier life is continued");
        let about = ClientInfo { version, capabilities };
        match self.add(Client::new(id.to_owned(), scope.clone(), about, fingerprints(capabilities), false)) {
            Ok(client) => FoundSession::Client(client),
            Err(StoreFull) => FoundSession::Full,
        }
    }

    pub(crate) fn add(&self, client: Client) -> Result<Arc<Client>, StoreFull> {
        let mut inner = self.inner.lock();
        // Two requests of one client may continue it at the same time.
        if let Some(client) = inner.live.get(&client.id) {
            return Ok(Arc::clone(client));
        }
        self.make_room(&mut inner)?;
        let client = Arc::new(client);
        inner.live.insert(client.id.clone(), Arc::clone(&client));
        drop(inner);
        client.ring(&self.bell);
        if self.is_news(&client) {
            self.publish_wishes();
        }
        self.keep_set(&client);
        Ok(client)
    }

    /// Keeps the stream of one request among the sessions for as long as what is given back is held.
    pub(crate) fn listening(table: &Arc<Self>, client: Client) -> Result<ListeningSession, StoreFull> {
        Ok(ListeningSession { client: table.add(client)?, table: Arc::clone(table) })
    }

    /// Ends a session, as its client asked.
    pub(crate) fn end(&self, client: &Client) {
        client.close();
        let mut inner = self.inner.lock();
        inner.live.remove(&client.id);
        if inner.ended.insert(client.id.clone()) {
            inner.unsaved_ends.push(client.id.clone());
            inner.ended_in_order.push_back(client.id.clone());
        }
        if inner.ended_in_order.len() > MAX_ENDED {
            let oldest = inner.ended_in_order.pop_front();
            oldest.map(|id| inner.ended.remove(&id));
        }
        drop(inner);
        self.bell.notify_one();
        self.publish_wishes();
        self.publish_sets(Instant::now());
    }

    /// The sessions that see this server.
    pub(crate) fn covering(&self, server_key: &ServerKey) -> Vec<Arc<Client>> {
        let mut clients = self.all();
        clients.retain(|client| client.sees(server_key));
        clients
    }

    /// Every session.
    pub(crate) fn all(&self) -> Vec<Arc<Client>> {
        self.inner.lock().live.values().cloned().collect()
    }

    /// Tells every client with these abilities whose lists are others on this board.
    pub(crate) fn notify<B>(&self, capabilities: ClientCapabilities, catalog: &ToolCatalog<B>) {
        let mut known: HashMap<Scope, Fingerprints> = HashMap::new();
        for client in self.all().into_iter().filter(|client| client.capabilities == capabilities) {
            let fingerprints =
                *known.entry(client.scope.clone()).or_insert_with(|| fingerprints(&catalog.view(&client.scope)));
            client.lists_are(fingerprints);
        }
    }

    /// Shows a server's log message to every client that wants its level.
    pub(crate) fn log(&self, server_key: &ServerKey, level: Level, text: &str) {
        let upstream = wanted(&self.levels.borrow(), server_key);
        for client in self.covering(server_key) {
            if shows(client.level(), upstream, level) {
                client.send(text);
            }
        }
    }

    /// Whether a client is shown a server's log message that came with its own request.
    pub(crate) fn shows(&self, client: &Client, server_key: &ServerKey, level: Level) -> bool {
        shows(client.level(), wanted(&self.levels.borrow(), server_key), level)
    }

    /// Hands on a message that means something only to who talks to this server alone.
    pub(crate) fn other(&self, server_key: &ServerKey, text: &str) {
        for client in self.covering(server_key) {
            if !client.scope.is_all() {
                client.send(text);
            }
        }
    }

    /// The resources that some client subscribed to at this server.
    pub(crate) fn subscribed(&self, server_key: &ServerKey) -> HashSet<String> {
        let of = |client: &Arc<Client>| client.subscriptions();
        self.all().iter().flat_map(of).filter(|(at, _)| at == server_key).map(|(_, uri)| uri).collect()
    }

    /// Sets what a client wants to be logged.
    pub(crate) fn set_level(&self, client: &Client, level: Level) {
        client.set_level(level);
        self.publish_wishes();
    }

    /// What the clients of each scope want to be logged, now and whenever it changes.
    pub(crate) fn levels(&self) -> watch::Receiver<EffectiveLevels> {
        self.levels.subscribe()
    }

    /// Whether the wishes are others with this client, who has just come.
    fn is_news(&self, client: &Client) -> bool {
        let levels = self.levels.borrow();
        let wish = levels.get(&(client.scope.clone(), client.capabilities));
        wish.is_none_or(|wish| wish.and(client.level()) != *wish)
    }

    pub(crate) fn publish_wishes(&self) {
        let mut levels: HashMap<(Scope, ClientCapabilities), EffectiveLevel> = HashMap::new();
        for client in self.all() {
            let wish = levels.entry((client.scope.clone(), client.capabilities)).or_default();
            *wish = wish.and(client.level());
        }
        self.levels.send_if_modified(|known| {
            let differs = **known != levels;
            if differs {
                *known = Arc::new(levels);
            }
            differs
        });
    }
}

/// The stream of one request.
#[derive(Debug)]
pub(crate) struct ListeningSession {
    /// Who reads it.
    pub(crate) client: Arc<Client>,
    table: Arc<SessionStore>,
}

impl Drop for ListeningSession {
    fn drop(&mut self) {
        self.client.close();
        self.table.inner.lock().live.remove(&self.client.id);
    }
}

/// What to ask this server for.
pub(crate) fn wanted(
    levels: &HashMap<(Scope, ClientCapabilities), EffectiveLevel>,
    server_key: &ServerKey,
) -> Option<Level> {
    let covers = |scope: &Scope, set| server_key.session_kind.serves(set) && scope.covers(server_key);
    let covering = levels.iter().filter(|((scope, set), _)| covers(scope, *set));
    covering.fold(EffectiveLevel::default(), |all, (_, wish)| all.merged(*wish)).upstream()
}

/// The fingerprints of what a view shows.
pub(crate) fn fingerprints<B>(view: &CatalogView<'_, B>) -> Fingerprints {
    let mut resources = DefaultHasher::new();
    (view.fingerprint(ListKind::Resources), view.fingerprint(ListKind::Templates)).hash(&mut resources);
    Fingerprints {
        tools: view.fingerprint(ListKind::Tools),
        prompts: view.fingerprint(ListKind::Prompts),
        resources: resources.finish(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::mcp::catalog::scope::ScopePath;
    use crate::gateway::mcp::catalog::scope::tests::server_key;
    use crate::gateway::mcp::protocol::version::Version;
    use crate::gateway::mcp::session::capability_sets::SET_IDLE;

    const ABOUT: ClientInfo = ClientInfo { version: Version::LATEST, capabilities: ClientCapabilities::NONE };
    const MOST: usize = 500;
    const NOTHING: Fingerprints = Fingerprints { tools: 0, prompts: 0, resources: 0 };

    fn table() -> SessionStore {
        SessionStore::new(SessionKey::from_token("t"), MOST)
    }

    fn begin(table: &SessionStore, scope: Scope, n: u8) -> Arc<Client> {
        table.begin(scope, ABOUT, NOTHING, [n; 16]).unwrap()
    }

    #[test]
    fn a_session_survives_the_hub_but_not_its_own_end() {
        let first = table();
        let id = begin(&first, ScopePath::All.into(), 1).id.clone();
        let second = table();
        let FoundSession::Client(client) = second.find(&id, &ScopePath::All.into(), |_| NOTHING) else {
            panic!("not continued")
        };
        assert_eq!((client.version, second.all().len()), (Version::LATEST, 1));
        assert!(matches!(
            second.find(&id, &ScopePath::Instance("a".into()).into(), |_| NOTHING),
            FoundSession::Unknown
        ));
        second.end(&client);
        assert!(matches!(second.find(&id, &ScopePath::All.into(), |_| NOTHING), FoundSession::Unknown));
        assert!(matches!(
            second.find("1.2025-11-25.AAAA.BBBB", &ScopePath::All.into(), |_| NOTHING),
            FoundSession::Unknown
        ));
    }

    #[test]
    fn the_most_silent_is_forgotten_first_and_may_come_back() {
        let table = table();
        let quiet = begin(&table, ScopePath::All.into(), 1);
        quiet.touch(Instant::now() - std::time::Duration::from_secs(60));
        let busy: Vec<_> = (1..MOST)
            .map(|n| {
                let mut random = [0; 16];
                random[..8].copy_from_slice(&n.to_be_bytes());
                table.begin(ScopePath::All.into(), ABOUT, NOTHING, random).unwrap()
            })
            .map(|client| (client.in_flight.begin("1").unwrap(), client))
            .collect();
        assert_eq!(table.all().len(), MOST);
        let one_more = begin(&table, ScopePath::All.into(), 2);
        assert!(!table.all().iter().any(|client| client.id == quiet.id));
        let entry = one_more.in_flight.begin("1").unwrap();
        assert!(matches!(table.find(&quiet.id, &ScopePath::All.into(), |_| NOTHING), FoundSession::Full));
        drop(entry);
        assert!(matches!(table.find(&quiet.id, &ScopePath::All.into(), |_| NOTHING), FoundSession::Client(_)));
        drop(busy);
    }

    #[test]
    fn the_lowest_level_of_all_who_see_a_server_is_wanted() {
        let table = table();
        let server_key = server_key("a", "s");
        let wanted = || wanted(&table.levels().borrow(), &server_key);
        let (all, one) =
            (begin(&table, ScopePath::All.into(), 1), begin(&table, ScopePath::Instance("a".into()).into(), 2));
        let other = begin(&table, ScopePath::Instance("b".into()).into(), 3);
        assert_eq!(wanted(), None);
        table.set_level(&other, Level::Debug);
        assert_eq!(wanted(), None);
        table.set_level(&all, Level::Error);
        assert_eq!(wanted(), Some(Level::Info), "the other one never asked");
        table.set_level(&one, Level::Warning);
        assert_eq!(wanted(), Some(Level::Warning));
        table.end(&one);
        assert_eq!(wanted(), Some(Level::Error));
    }

    #[test]
    fn sessions_are_kept_for_the_sets_of_clients_in_use() {
        let table = table();
        let about = ClientInfo { capabilities: ClientCapabilities::ALL, ..ABOUT };
        let client = table.begin(ScopePath::All.into(), about, NOTHING, [1; 16]).unwrap();
        begin(&table, ScopePath::All.into(), 2);
        assert_eq!(**table.sets().borrow(), [ClientCapabilities::ALL]);
        let later = Instant::now() + SET_IDLE;
        table.publish_sets(later);
        assert!(table.sets().borrow().is_empty(), "nobody used it for a while");
        client.touch(later);
        table.publish_sets(later);
        assert_eq!(**table.sets().borrow(), [ClientCapabilities::ALL]);
        table.end(&client);
        assert!(table.sets().borrow().is_empty());
    }
}
