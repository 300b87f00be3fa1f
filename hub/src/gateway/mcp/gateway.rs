//! (docs)

use super::buffers::MessageBudget;
use super::builtin::HubApi;
use super::builtin::news::StatusChanges;
use super::catalog::filter::{Filter, FilterRules};
use super::catalog::naming;
use super::catalog::scope::{Scope, ScopePath};
use super::catalog::server_key::ServerKey;
use super::catalog::view::{ServerEntry, ToolCatalog};
use super::metrics::CallMetrics;
use super::persister::{Persister, PersisterDeps};
use super::protocol::capabilities::ClientCapabilities;
use super::protocol::errors::RpcError;
use super::protocol::list_kind::ListKind;
use super::session::pending_input;
use super::session::store::SessionStore;
use super::status::{ClientStatus, ServerStatus};
use super::upstream::Upstream;
use super::upstream::pool::{Catalogs, ServerCatalog, UpstreamPool};
use super::upstream::recalled::RecalledOffers;
use super::upstream::shared::{UpstreamDeps, random};
use crate::gateway::mcp::session::id::SessionKey;
use crate::journal::Journal;
use crate::link::Links;
use linchpin_shared::problem::{Code, Problem};
use linchpin_shared::settings;
use prometheus_client::registry::Registry;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A hub that has just started knows of no instance for a moment; the first look at the registry takes milliseconds.
const FIRST_LOOK: Duration = Duration::from_millis(500);

/// The MCP gateway of a hub.
#[derive(Debug)]
pub struct Gateway {
    catalogs: watch::Receiver<Arc<Catalogs>>,
    pub(crate) clients: Arc<SessionStore>,
    pub(crate) waiting: pending_input::PendingInputs,
    links: Links,
    pub(crate) calls: CallMetrics,
    pub(crate) wait: Duration,
    list_wait: Duration,
    pub(super) max_message: usize,
    pub(crate) message_timeout: Duration,
    pub(super) buffers: Arc<MessageBudget>,
    /// Clients' own streams that may still be opened.
    streams: Arc<Semaphore>,
    started: Instant,
    pub(crate) stop: CancellationToken,
    rules: Arc<FilterRules>,
    /// Whom the hub's own tools ask.
    pub(super) facts: OnceLock<Weak<dyn HubApi>>,
    /// The choice of an address without a query.
    plain: Arc<Filter>,
}

impl Gateway {
    /// Begins to keep a session with every server of every instance, for as long as there are links. `stop` ends the
    /// agents' own streams; their requests go on, so that a hub can let them end. What the journal recalls is continued.
    #[must_use]
    pub fn start(
        links: &Links,
        settings: &settings::GatewaySettings,
        session_key: SessionKey,
        journal: &Journal,
        stop: CancellationToken,
        tasks: &TaskTracker,
    ) -> Arc<Self> {
        let clients = Arc::new(SessionStore::new(session_key, settings.max_sessions));
        let rules = Arc::new(FilterRules::from(settings));
        let recall = journal.recall().unwrap_or_default();
        clients.recall(&recall.sessions, &rules);
        let recalled = Arc::new(RecalledOffers::new(recall.lists));
        let common = UpstreamDeps {
            calls: CallMetrics::new(),
            clients: Arc::clone(&clients),
            ids: Arc::new(AtomicU64::new(first_id())),
            dirty: Arc::default(),
            recalled: Arc::clone(&recalled),
            max_message: settings.max_message_bytes,
        };
        let calls = common.calls.clone();
        let (pool, catalogs) = UpstreamPool::new(links, common, settings.grace);
        tasks.spawn(pool.run());
        if journal.is_kept() {
            let (clients, rules, catalogs) = (Arc::clone(&clients), Arc::clone(&rules), catalogs.clone());
            let deps = PersisterDeps { clients, rules, catalogs, recalled };
            tasks.spawn(Persister::new(journal.clone(), deps).run());
        }
        Arc::new(Self {
            catalogs,
            clients,
            waiting: pending_input::PendingInputs::default(),
            links: links.clone(),
            calls,
            wait: settings.wait,
            list_wait: settings.list_wait,
            max_message: settings.max_message_bytes,
            message_timeout: settings.message_timeout,
            buffers: MessageBudget::new(settings.max_buffered_bytes),
            streams: Arc::new(Semaphore::new(settings.max_streams.min(Semaphore::MAX_PERMITS))),
            started: Instant::now(),
            stop,
            plain: Arc::new(Filter::of(&rules)),
            rules,
            facts: OnceLock::new(),
        })
    }

    /// Lets the hub's own tools ask this, for as long as somebody else holds it. Only the first one counts.
    pub fn ask_of(&self, facts: &Arc<dyn HubApi>) {
        // A hub has one.
        if self.facts.set(Arc::downgrade(facts)).is_ok() {
            let news = StatusChanges::default().run(Arc::clone(&self.clients), Arc::downgrade(facts));
            let stop = self.stop.clone();
            tokio::spawn(async move { stop.run_until_cancelled(news).await });
        }
    }

    /// Registers the metrics of tool calls.
    pub fn register_metrics(&self, registry: &mut Registry) {
        self.calls.register(registry);
    }

    /// A place for a client's own stream, which lasts for as long as its client and does nothing most of the time. Without
    /// a bound of their own such streams would take the connections that requests need.
    pub(crate) fn stream_place(&self) -> Result<OwnedSemaphorePermit, RpcError> {
        Arc::clone(&self.streams).try_acquire_owned().map_err(|_| {
            let problem = Problem::new(Code::Overloaded, "as many streams of clients are open as may be");
            RpcError::on_the_way(
                problem.next("call without a stream").next("LINCHPIN_GATEWAY_MAX_STREAMS=… linchpin hub"),
            )
        })
    }

    /// What an address shows.
    pub(super) fn scope(&self, part: ScopePath, query: Option<&str>) -> Result<Scope, Problem> {
        let filter = match query {
            None => Arc::clone(&self.plain),
            Some(_) => Arc::new(Filter::read(&self.rules, query)?),
        };
        Ok(Scope { part, filter })
    }

    /// Every server that is known, with the state of its session.
    #[must_use]
    pub fn servers(&self) -> Vec<ServerStatus> {
        self.catalog(ClientCapabilities::NONE).sources().iter().map(ServerStatus::of).collect()
    }

    /// The sessions of agents.
    #[must_use]
    pub fn sessions(&self) -> Vec<ClientStatus> {
        self.clients.all().iter().map(|client| ClientStatus::of(client)).collect()
    }

    /// The board of clients with these abilities as it was published last.
    pub(crate) fn catalog(&self, capabilities: ClientCapabilities) -> Arc<ServerCatalog> {
        let catalogs = self.catalogs.borrow();
        Arc::clone(catalogs.of(capabilities).unwrap_or(catalogs.base()))
    }

    /// The boards, now and whenever they change.
    pub(crate) fn catalogs(&self) -> watch::Receiver<Arc<Catalogs>> {
        self.catalogs.clone()
    }

    /// The board with the lists as they are at this moment, ahead of its publication.
    pub(crate) fn fresh_catalog(&self, capabilities: ClientCapabilities) -> ServerCatalog {
        let refreshed = |source: &ServerEntry<Arc<Upstream>>| ServerEntry {
            lists: source.backend.known().lists.or(&source.lists),
            ..source.clone()
        };
        let catalog = self.catalog(capabilities);
        ToolCatalog::new(catalog.sources().iter().map(refreshed).collect())
            .of_instances(Arc::clone(catalog.instances()))
    }

    /// Waits until a hub that has just started knows its first instances, if there are any of this scope.
    pub(super) async fn meets(&self, scope: &Scope) {
        let deadline = self.first_instances_by(scope);
        let known = |catalogs: &Arc<Catalogs>| catalogs.base().view(scope).backends().next().is_some();
        // Either way what is known then is what there is.
        let _ = timeout_at(deadline, self.catalogs().wait_for(known)).await;
    }

    /// Waits until there are sessions for clients with these abilities, or being begun. It takes no time but for the
    /// first request of the first of them.
    pub(crate) async fn has_session_for(&self, capabilities: ClientCapabilities) {
        if self.catalogs.borrow().of(capabilities).is_none() {
            // If the fleet is that busy, what everybody is shown has to do.
            let _ = timeout(FIRST_LOOK, self.catalogs().wait_for(|catalogs| catalogs.of(capabilities).is_some())).await;
        }
    }

    /// Waits until every server of this scope gave this list, or is known to be down, or took too long.
    pub(crate) async fn settle(&self, capabilities: ClientCapabilities, scope: &Scope, kind: ListKind) {
        self.has_session_for(capabilities).await;
        self.catalog(capabilities).view(scope).backends().for_each(|upstream| upstream.wake_for(kind));
        let mut catalogs = self.catalogs();
        loop {
            catalogs.mark_unchanged();
            let pending = self.pending(&self.catalog(capabilities), scope, kind);
            let Some(deadline) = pending.filter(|deadline| *deadline > Instant::now()) else { return };
            // Whether it changed or the time is over: look again.
            let _ = timeout_at(deadline, catalogs.changed()).await;
        }
    }

    /// Until when this list is worth waiting for, if it is not complete.
    fn pending(&self, catalog: &ServerCatalog, scope: &Scope, kind: ListKind) -> Option<Instant> {
        let view = catalog.view(scope);
        if view.backends().next().is_none() {
            return Some(self.first_instances_by(scope));
        }
        let waited_for = view.backends().filter(|upstream| upstream.is_settling(kind));
        waited_for.map(|upstream| upstream.settles_by(self.list_wait, self.wait)).max()
    }

    /// By when a hub that has just started knows the instances of this scope.
    pub(super) fn first_instances_by(&self, scope: &Scope) -> Instant {
        match scope.part {
            ScopePath::All => self.started + FIRST_LOOK,
            ScopePath::Instance(_) | ScopePath::Server(..) => self.started + self.list_wait,
        }
    }

    /// Waits a moment for what an address shows to exist: agent and instance are often started together.
    pub(crate) async fn appears(&self, scope: &Scope) -> Result<(), Problem> {
        let mut catalogs = self.catalogs();
        let mut links = self.links.watch();
        let deadline = Instant::now() + self.list_wait;
        loop {
            catalogs.mark_unchanged();
            let Some(missing) = self.missing(scope) else { return Ok(()) };
            let changed = async {
                tokio::select! { changed = catalogs.changed() => changed, changed = links.changed() => changed }
            };
            if !matches!(timeout_at(deadline, changed).await, Ok(Ok(()))) {
                return Err(missing);
            }
        }
    }

    /// What of a scope does not exist.
    fn missing(&self, scope: &Scope) -> Option<Problem> {
        let catalog = self.catalog(ClientCapabilities::NONE);
        // What is hidden exists.
        if catalog.view(&scope.part.clone().into()).backends().next().is_some() {
            return None;
        }
        match &scope.part {
            ScopePath::All => None,
            ScopePath::Instance(name) => self.links.get(name).is_none().then(|| self.no_instance(name)),
            ScopePath::Server(name, _) if self.links.get(name).is_none() => Some(self.no_instance(name)),
            ScopePath::Server(name, server) => {
                let view = catalog.view(&ScopePath::Instance(Arc::clone(name)).into());
                let servers: Vec<_> = view.backends().map(|upstream| upstream.server_key.server.to_string()).collect();
                let detail = format!("{name} has no MCP server {server:?}");
                Some(Problem::new(Code::ServerNotFound, detail).seen("servers", servers).next("linchpin status"))
            }
        }
    }

    pub(super) fn no_instance(&self, name: &str) -> Problem {
        let links = self.links.watch();
        let links = links.borrow();
        let near = naming::nearest(name, links.iter().map(crate::link::LinkHandle::name));
        let mut problem = Problem::new(Code::InstanceNotFound, format!("there is no instance {name:?}"));
        if !near.is_empty() {
            problem = problem.seen("near", near);
        }
        problem.next("linchpin status").next(format!("linchpin run --name {name} --mcp -- COMMAND"))
    }

    /// The server of a subscription that nobody has any more.
    pub(crate) fn unwanted(&self, server_key: &ServerKey, uri: &str) -> Option<Arc<Upstream>> {
        if self.clients.subscribed(server_key).contains(uri) {
            return None;
        }
        let catalogs = self.catalogs.borrow();
        let mut upstreams = catalogs.iter().flat_map(|(_, catalog)| catalog.sources()).map(|source| &source.backend);
        upstreams.find(|upstream| upstream.server_key == *server_key).cloned()
    }
}

/// A server may still have the requests of an earlier life of the hub under way, so ids begin elsewhere each time; they
/// stay far below 2^53, the largest integer that every JSON reader keeps.
fn first_id() -> u64 {
    (random() >> 32) << 20
}
