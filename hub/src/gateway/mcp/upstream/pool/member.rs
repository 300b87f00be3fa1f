//! One instance: its link and vitals turned into an outlook for each of its servers.
//!
//! Owns [`Member`], [`Served`] and the task behind them, which begins an upstream for each server, and for each set of
//! abilities where a server has a session for each, and keeps their outlook up to date.
//! Invariant: an upstream is kept while its instance is away, with all it knows; only the instance itself, once it is
//! connected, can say that a server is no more. Never: outlives its link.

use crate::gateway::mcp::catalog::server_key::Place;
use crate::gateway::mcp::protocol::capabilities::{Abilities, Lane};
use crate::gateway::mcp::session::capability_sets::Sets;
use crate::gateway::mcp::upstream::Upstream;
use crate::gateway::mcp::upstream::actor::Actor;
use crate::gateway::mcp::upstream::availability::{Outlook, Sight};
use crate::gateway::mcp::upstream::shared::Common;
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
pub(crate) struct Served(Vec<Arc<Upstream>>);

impl Served {
    /// The session of clients without abilities, which there always is.
    pub(crate) fn base(&self) -> &Arc<Upstream> {
        &self.0[0]
    }

    /// The session of clients that can do this, or else the one that there always is.
    pub(crate) fn of(&self, abilities: Abilities) -> &Arc<Upstream> {
        self.0.iter().find(|upstream| upstream.place.lane.serves(abilities)).unwrap_or(self.base())
    }

    /// Whether there is a session of clients that can do this, or one is being begun.
    pub(crate) fn has(&self, abilities: Abilities) -> bool {
        self.0.iter().any(|upstream| upstream.place.lane.serves(abilities))
    }

    fn is(&self, other: &Self) -> bool {
        self.0.len() == other.0.len() && self.0.iter().zip(&other.0).all(|(a, b)| Arc::ptr_eq(a, b))
    }
}

/// An instance's servers, in order.
type Upstreams = Arc<Vec<Served>>;

/// One instance. Dropping it ends all that follows it.
pub(crate) struct Member {
    handle: LinkHandle,
    upstreams: watch::Receiver<Upstreams>,
    _task: AbortOnDropHandle<()>,
}

impl Member {
    /// Begins to follow an instance.
    pub(crate) fn new(handle: LinkHandle, common: Common) -> Self {
        let (publish, upstreams) = watch::channel(Upstreams::default());
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
    pub(crate) fn servers(&self) -> Upstreams {
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
    sets: watch::Receiver<Sets>,
    common: Common,
    /// What had gone wrong last while the instance was not gone.
    before: Option<Failure>,
    servers: Vec<Server>,
    publish: watch::Sender<Upstreams>,
}

struct Server {
    outlook: watch::Sender<Outlook>,
    /// The first one is there as long as the server.
    lanes: Vec<Running>,
}

struct Running {
    upstream: Arc<Upstream>,
    _task: AbortOnDropHandle<()>,
}

impl Server {
    fn place(&self) -> &Place {
        &self.lanes[0].upstream.place
    }

    fn served(&self) -> Served {
        Served(self.lanes.iter().map(|lane| Arc::clone(&lane.upstream)).collect())
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
        let sight = Sight { status: &status, vitals: vitals.as_deref(), before: before.as_ref() };
        self.keep(&sight);
        for server in &self.servers {
            let outlook = sight.of(&server.place().server);
            server.outlook.send_if_modified(|known| {
                let differs = *known != outlook;
                *known = outlook;
                differs
            });
        }
        self.before = before;
    }

    /// Begins upstreams for servers that are new, and ends those of servers that the instance does not have any more.
    fn keep(&mut self, sight: &Sight<'_>) {
        let sets = Arc::clone(&self.sets.borrow_and_update());
        let mut earlier = std::mem::take(&mut self.servers);
        for (name, transport) in sight.servers() {
            let first = if transport == Transport::Stdio { Lane::Shared } else { Lane::Of(Abilities::NONE) };
            let known = earlier.iter().position(|known| *known.place().server == *name && known.place().lane == first);
            let mut server = known.map(|at| earlier.remove(at)).unwrap_or_else(|| self.begin(&name, first, sight));
            self.keep_lanes(&mut server, &sets);
            self.servers.push(server);
        }
        if sight.vitals.is_none() {
            self.servers.append(&mut earlier);
        }
        let served: Vec<_> = self.servers.iter().map(Server::served).collect();
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

    fn begin(&self, name: &str, lane: Lane, sight: &Sight<'_>) -> Server {
        let mut server = Server { outlook: watch::Sender::new(sight.of(name)), lanes: Vec::new() };
        let project = sight.status.record.project_dir.as_path().into();
        let place = Place { instance: Arc::clone(&self.name), server: name.into(), project, lane };
        server.lanes.push(self.run_lane(place, &server.outlook));
        server
    }

    /// Begins sessions for sets that are new, and ends those of sets that nobody needs any more.
    fn keep_lanes(&self, server: &mut Server, sets: &[Abilities]) {
        if server.place().lane == Lane::Shared {
            return;
        }
        let needed = |set: Abilities| set == Abilities::NONE || sets.contains(&set);
        server.lanes.retain(|lane| needed(lane.upstream.place.lane.abilities()));
        for set in sets {
            if !server.lanes.iter().any(|lane| lane.upstream.place.lane == Lane::Of(*set)) {
                let place = Place { lane: Lane::Of(*set), ..server.place().clone() };
                server.lanes.push(self.run_lane(place, &server.outlook));
            }
        }
    }

    fn run_lane(&self, place: Place, outlook: &watch::Sender<Outlook>) -> Running {
        let (upstream, actor) = Actor::new(self.handle.clone(), place, outlook.subscribe(), self.common.clone());
        Running { upstream, _task: AbortOnDropHandle::new(tokio::spawn(actor.run())) }
    }
}
