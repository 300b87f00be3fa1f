//! One instance: its link and vitals turned into an outlook for each of its servers.
//!
//! Owns [`Member`] and the task behind it, which begins an upstream for each server and keeps its outlook up to date.
//! Invariant: an upstream is kept while its instance is away, with all it knows; only the instance itself, once it is
//! connected, can say that a server is no more. Never: outlives its link.

use crate::gateway::mcp::client::Place;
use crate::gateway::mcp::upstream::Upstream;
use crate::gateway::mcp::upstream::actor::{Actor, Common};
use crate::gateway::mcp::upstream::outlook::{Outlook, Sight};
use crate::link::{Handle, State, Status};
use linchpin_shared::failure::Failure;
use linchpin_shared::protocol::vitals::Vitals;
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

/// An instance's servers, in order.
type Upstreams = Arc<Vec<Arc<Upstream>>>;

/// One instance. Dropping it ends all that follows it.
pub(super) struct Member {
    handle: Handle,
    upstreams: watch::Receiver<Upstreams>,
    _task: AbortOnDropHandle<()>,
}

impl Member {
    /// Begins to follow an instance.
    pub(super) fn new(handle: Handle, common: Common) -> Self {
        let (publish, upstreams) = watch::channel(Upstreams::default());
        let follower = Follower {
            name: handle.name().into(),
            status: handle.status(),
            vitals: handle.vitals(),
            handle: handle.clone(),
            common,
            before: None,
            servers: Vec::new(),
            publish,
        };
        Self { handle, upstreams, _task: AbortOnDropHandle::new(tokio::spawn(follower.run())) }
    }

    /// The instance's name.
    pub(super) fn name(&self) -> &str {
        self.handle.name()
    }

    /// Its servers.
    pub(super) fn upstreams(&self) -> Upstreams {
        Arc::clone(&self.upstreams.borrow())
    }

    /// Whether this is the link that is followed. A link that has ended has a successor of the same id.
    pub(super) fn follows(&self, handle: &Handle) -> bool {
        let same: (Uuid, &str) = (handle.id(), handle.name());
        same == (self.handle.id(), self.handle.name()) && self.handle.status().has_changed().is_ok()
    }
}

struct Follower {
    name: Arc<str>,
    handle: Handle,
    status: watch::Receiver<Arc<Status>>,
    vitals: watch::Receiver<Option<Arc<Vitals>>>,
    common: Common,
    /// What had gone wrong last while the instance was not gone.
    before: Option<Failure>,
    servers: Vec<Server>,
    publish: watch::Sender<Upstreams>,
}

struct Server {
    upstream: Arc<Upstream>,
    outlook: watch::Sender<Outlook>,
    _task: AbortOnDropHandle<()>,
}

impl Follower {
    async fn run(mut self) {
        loop {
            self.look();
            let changed = tokio::select! {
                changed = self.status.changed() => changed,
                changed = self.vitals.changed() => changed,
            };
            if changed.is_err() {
                return;
            }
        }
    }

    fn look(&mut self) {
        let status = Arc::clone(&self.status.borrow_and_update());
        let vitals = self.vitals.borrow_and_update().clone();
        if status.state != State::Gone {
            self.before.clone_from(&status.last_failure);
        }
        let before = self.before.take();
        let sight = Sight { status: &status, vitals: vitals.as_deref(), before: before.as_ref() };
        self.keep(&sight);
        for server in &self.servers {
            let outlook = sight.of(&server.upstream.place.server);
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
        let mut earlier = std::mem::take(&mut self.servers);
        for name in sight.servers() {
            let known = earlier.iter().position(|server| *server.upstream.place.server == *name);
            let server = known.map(|at| earlier.remove(at)).unwrap_or_else(|| self.begin(&name, sight));
            self.servers.push(server);
        }
        if sight.vitals.is_none() {
            self.servers.append(&mut earlier);
        }
        let upstreams: Vec<_> = self.servers.iter().map(|server| Arc::clone(&server.upstream)).collect();
        let changed = self.publish.send_if_modified(|known| {
            let differs =
                known.len() != upstreams.len() || known.iter().zip(&upstreams).any(|(a, b)| !Arc::ptr_eq(a, b));
            if differs {
                *known = Arc::new(upstreams);
            }
            differs
        });
        if changed {
            self.common.dirty.notify_one();
        }
    }

    fn begin(&self, name: &str, sight: &Sight<'_>) -> Server {
        let place = Place { instance: Arc::clone(&self.name), server: name.into() };
        let (outlook, seen) = watch::channel(sight.of(name));
        let (upstream, actor) = Actor::new(self.handle.clone(), place, seen, self.common.clone());
        Server { upstream, outlook, _task: AbortOnDropHandle::new(tokio::spawn(actor.run())) }
    }
}
