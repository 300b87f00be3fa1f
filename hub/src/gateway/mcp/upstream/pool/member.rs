//! One instance: its link and vitals turned into an outlook for each of its servers.
//!
//! Owns [`InstanceUpstreams`], [`ServerUpstreams`] and the task behind them, which begins an upstream for each server, and for each set of
//! abilities where a server has a session for each, and keeps their outlook up to date.
//! Invariant: an upstream is kept while its instance is away, with all it knows; only the instance itself, once it is
//! connected, can say that a server is no more. Never: outlives its link.

use crate::gateway::mcp::catalog::server_key::ServerKey;
use crate::gateway::mcp::protocol::capabilities::{ClientCapabilities, SessionKind};
use crate::gateway::mcp::session::capability_sets::CapabilitySets;
use crate::gateway::mcp::upstream::Upstream;
use crate::gateway::mcp::upstream::actor::UpstreamActor;
use crate::gateway::mcp::upstream::availability::{Availability, InstanceView};
use crate::gateway::mcp::upstream::shared::UpstreamDeps;
use crate::link::failure::Failure;
use crate::link::{LinkHandle, LinkState, LinkStatus};
use linchpin_shared::protocol::vitals::{Transport, Vitals};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

/// A server of an instance: the session that everybody shares, or one for each set of abilities.
#[derive(Debug, Clone)]
pub(crate) struct ServerUpstreams(Vec<Arc<Upstream>>);

impl ServerUpstreams {
    /// The session of clients without abilities, which there always is.
    pub(crate) fn base(&self) -> &Arc<Upstream> {
        &self.0[0]
    }

    /// The session of clients that can do this, or else the one that there always is.
    pub(crate) fn of(&self, capabilities: ClientCapabilities) -> &Arc<Upstream> {
        self.0.iter().find(|upstream| upstream.server_key.session_kind.serves(capabilities)).unwrap_or(self.base())
    }

    /// Whether there is a session of clients that can do this, or one is being begun.
    pub(crate) fn has(&self, capabilities: ClientCapabilities) -> bool {
        self.0.iter().any(|upstream| upstream.server_key.session_kind.serves(capabilities))
    }

    fn is(&self, other: &Self) -> bool {
        self.0.len() == other.0.len() && self.0.iter().zip(&other.0).all(|(a, b)| Arc::ptr_eq(a, b))
    }
}

/// An instance's servers, in order.
type InstanceServers = Arc<Vec<ServerUpstreams>>;

/// One instance. Dropping it ends all that follows it.
pub(crate) struct InstanceUpstreams {
    handle: LinkHandle,
    upstreams: watch::Receiver<InstanceServers>,
    _task: AbortOnDropHandle<()>,
}

impl InstanceUpstreams {
    /// Begins to follow an instance.
    pub(crate) fn new(handle: LinkHandle, common: UpstreamDeps) -> Self {
        let (publish, upstreams) = watch::channel(InstanceServers::default());
        let mut follower = Follower {
            name: handle.name().into(),
            status: handle.status(),
            vitals: handle.vitals(),
            sets: common.clients.sets(),
            handle: handle.clone(),
            common,
            before: None,
            servers: Vec::new(),
            publish,
        };
        // What is shown begins with all instances that are known, and not with those whose task ran first.
        follower.look();
        Self { handle, upstreams, _task: AbortOnDropHandle::new(tokio::spawn(follower.run())) }
    }

    /// The instance's id.
    pub(crate) fn id(&self) -> Uuid {
        self.handle.id()
    }

    /// The instance's name.
    pub(crate) fn name(&self) -> &str {
        self.handle.name()
    }

    /// Its project directory.
    pub(crate) fn project(&self) -> PathBuf {
        self.handle.status().borrow().record.project_dir.clone()
    }

    /// Its servers.
    pub(crate) fn servers(&self) -> InstanceServers {
        Arc::clone(&self.upstreams.borrow())
    }

    /// Whether this is the link that is followed. A link that has ended has a successor of the same id.
    pub(crate) fn follows(&self, handle: &LinkHandle) -> bool {
        let same: (Uuid, &str) = (handle.id(), handle.name());
        same == (self.handle.id(), self.handle.name()) && self.handle.status().has_changed().is_ok()
    }
}

struct Follower {
    name: Arc<str>,
    handle: LinkHandle,
    status: watch::Receiver<Arc<LinkStatus>>,
    vitals: watch::Receiver<Option<Arc<Vitals>>>,
    sets: watch::Receiver<CapabilitySets>,
    common: UpstreamDeps,
    /// What had gone wrong last while the instance was not gone.
    before: Option<Failure>,
    servers: Vec<MemberServer>,
    publish: watch::Sender<InstanceServers>,
}

struct MemberServer {
    availability: watch::Sender<Availability>,
    /// The first one is there as long as the server.
    lanes: Vec<RunningUpstream>,
}

struct RunningUpstream {
    upstream: Arc<Upstream>,
    _task: AbortOnDropHandle<()>,
}

impl MemberServer {
    fn server_key(&self) -> &ServerKey {
        &self.lanes[0].upstream.server_key
    }

    fn served(&self) -> ServerUpstreams {
        ServerUpstreams(self.lanes.iter().map(|session_kind| Arc::clone(&session_kind.upstream)).collect())
    }
}

impl Follower {
    async fn run(mut self) {
        loop {
            self.look();
            let changed = tokio::select! {
                changed = self.status.changed() => changed,
                changed = self.vitals.changed() => changed,
                changed = self.sets.changed() => changed,
            };
            if changed.is_err() {
                return;
            }
        }
    }

    fn look(&mut self) {
        let status = Arc::clone(&self.status.borrow_and_update());
        let vitals = self.vitals.borrow_and_update().clone();
        if status.state != LinkState::Gone {
            self.before.clone_from(&status.last_failure);
        }
        let before = self.before.take();
        let sight = InstanceView { status: &status, vitals: vitals.as_deref(), before: before.as_ref() };
        self.keep(&sight);
        for server in &self.servers {
            let availability = sight.of(&server.server_key().server);
            server.availability.send_if_modified(|known| {
                let differs = *known != availability;
                *known = availability;
                differs
            });
        }
        self.before = before;
    }

    /// Begins upstreams for servers that are new, and ends those of servers that the instance does not have any more.
    fn keep(&mut self, sight: &InstanceView<'_>) {
        let sets = Arc::clone(&self.sets.borrow_and_update());
        let mut earlier = std::mem::take(&mut self.servers);
        for (name, transport) in sight.servers() {
            let first = if transport == Transport::Stdio {
                SessionKind::Shared
            } else {
                SessionKind::PerCapabilities(ClientCapabilities::NONE)
            };
            let known = earlier
                .iter()
                .position(|known| *known.server_key().server == *name && known.server_key().session_kind == first);
            let mut server = known.map(|at| earlier.remove(at)).unwrap_or_else(|| self.begin(&name, first, sight));
            self.keep_lanes(&mut server, &sets);
            self.servers.push(server);
        }
        if sight.vitals.is_none() {
            self.servers.append(&mut earlier);
        }
        let served: Vec<_> = self.servers.iter().map(MemberServer::served).collect();
        let changed = self.publish.send_if_modified(|known| {
            let differs = known.len() != served.len() || known.iter().zip(&served).any(|(a, b)| !a.is(b));
            if differs {
                *known = Arc::new(served);
            }
            differs
        });
        if changed {
            self.common.dirty.notify_one();
        }
    }

    fn begin(&self, name: &str, session_kind: SessionKind, sight: &InstanceView<'_>) -> MemberServer {
        let mut server = MemberServer { availability: watch::Sender::new(sight.of(name)), lanes: Vec::new() };
        let project = sight.status.record.project_dir.as_path().into();
        let server_key = ServerKey { instance: Arc::clone(&self.name), server: name.into(), project, session_kind };
        server.lanes.push(self.run_lane(server_key, &server.availability));
        server
    }

    /// Begins sessions for sets that are new, and ends those of sets that nobody needs any more.
    fn keep_lanes(&self, server: &mut MemberServer, sets: &[ClientCapabilities]) {
        if server.server_key().session_kind == SessionKind::Shared {
            return;
        }
        let needed = |set: ClientCapabilities| set == ClientCapabilities::NONE || sets.contains(&set);
        server.lanes.retain(|session_kind| needed(session_kind.upstream.server_key.session_kind.capabilities()));
        for set in sets {
            if !server
                .lanes
                .iter()
                .any(|session_kind| session_kind.upstream.server_key.session_kind == SessionKind::PerCapabilities(*set))
            {
                let server_key =
                    ServerKey { session_kind: SessionKind::PerCapabilities(*set), ..server.server_key().clone() };
                server.lanes.push(self.run_lane(server_key, &server.availability));
            }
        }
    }

    fn run_lane(&self, server_key: ServerKey, availability: &watch::Sender<Availability>) -> RunningUpstream {
        let (upstream, actor) =
            UpstreamActor::new(self.handle.clone(), server_key, availability.subscribe(), self.common.clone());
        RunningUpstream { upstream, _task: AbortOnDropHandle::new(tokio::spawn(actor.run())) }
    }
}
