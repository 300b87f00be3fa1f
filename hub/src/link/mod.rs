//! The hub's one persistent connection to each instance.
//!
//! Owns [`Links`]: one actor for each instance that discovery shows, from its first sight until it has been gone for a
//! while. Inside, [`machine`] decides and is pure, [`actor`] acts, [`dial`] connects and proves, [`classify`] names what
//! went wrong, and [`Handle`] is all that callers see.
//! Invariant: while an instance is not proven gone, its link is connected or about to dial; a restarted instance keeps
//! its link, its handle and its history.
//! Never: lets anyone else own connection state, or decides by time that an instance is gone.

mod actor;
mod classify;
mod dial;
mod handle;
mod hearing;
mod http1;
mod lane;
mod limiter;
mod machine;
mod metrics;
mod probe;
mod start;
mod status;
mod vitals;

pub use handle::{Handle, RequestError, ResponseBody};
pub use start::{Sleeper, Sleepers, Start, Starter};
#[cfg(test)]
pub(crate) use status::{BreakerFacts, ConnectionFacts};
pub use status::{State, Status};

use crate::discovery::{Discovery, Found, Snapshot};
use crate::health;
use actor::{Actor, Common, Mail, News, Presence, Published};
use bytes::Bytes;
use limiter::Limiter;
use linchpin_shared::registry::Owner;
use linchpin_shared::registry::record::Record;
use linchpin_shared::{backoff, breaker, settings};
use machine::Machine;
use metrics::{Meter, Metrics};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::{self, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;
use uuid::Uuid;

/// Any error.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of a request to an instance.
pub type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, BoxError>;

/// An instance that was never connected is dialled with this many times the usual first delay: nothing shows yet that
/// anybody of ours is there.
const NEVER_CONNECTED: u32 = 4;

/// Streams of the hub's own on each connection: the vitals, a probe, and those that listen. Of the last there is one for
/// each session with a server; a window is theirs too, so that callers who do not read never hold them up.
const OWN_STREAMS: usize = 16;

/// Checks and questions that wait for one actor, which reads them in every state.
const COMMANDS: usize = 32;

/// All links of a hub.
#[derive(Debug, Clone)]
pub struct Links {
    handles: watch::Receiver<Arc<Vec<Handle>>>,
    metrics: Metrics,
}

impl Links {
    /// Links to every instance that discovery shows, until cancelled.
    #[must_use]
    pub fn start(
        discovery: &Discovery,
        settings: &settings::Link,
        cancel: CancellationToken,
        tasks: &TaskTracker,
    ) -> Self {
        Self::with_declared(discovery, Arc::new(start::Nobody(watch::Sender::default())), settings, cancel, tasks)
    }

    /// The same, and links to what is declared, running or not.
    #[must_use]
    pub fn with_declared(
        discovery: &Discovery,
        starter: Arc<dyn Starter>,
        settings: &settings::Link,
        cancel: CancellationToken,
        tasks: &TaskTracker,
    ) -> Self {
        let nudged = discovery.clone();
        Self::spawn(discovery.snapshot.clone(), Box::new(move || nudged.nudge()), starter, settings, cancel, tasks)
    }

    fn spawn(
        snapshot: watch::Receiver<Arc<Snapshot>>,
        nudge: Box<dyn Fn() + Send + Sync>,
        starter: Arc<dyn Starter>,
        settings: &settings::Link,
        cancel: CancellationToken,
        tasks: &TaskTracker,
    ) -> Self {
        let (publish, handles) = watch::channel(Arc::default());
        let metrics = Metrics::new();
        let common = Common {
            numbers: Numbers::from(settings),
            limiter: Mutex::new(Limiter::new(settings.dials_per_second)),
            metrics: metrics.clone(),
            nudge,
        };
        let keeper = Keeper {
            common: Arc::new(common),
            room: Arc::new(Semaphore::new(settings.in_flight_total)),
            links: BTreeMap::new(),
            actors: JoinSet::new(),
            publish,
            cancel,
            sleepers: starter.sleepers(),
            starter,
        };
        tasks.spawn(keeper.run(snapshot));
        Self { handles, metrics }
    }

    /// The handles of all links, sorted by name; a new list only when the set changes.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Arc<Vec<Handle>>> {
        self.handles.clone()
    }

    /// The link to the instance of this name. Of two, one that is there; else one that can be started.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Handle> {
        let handles = Arc::clone(&self.handles.borrow());
        let named = handles.iter().filter(|handle| handle.name() == name);
        let absence = |state: State| u8::from(state.is_absent()) + u8::from(state == State::Gone);
        named.min_by_key(|handle| absence(handle.inner.status.borrow().state)).cloned()
    }

    /// Lists what is counted about links.
    pub fn register(&self, registry: &mut prometheus_client::registry::Registry) {
        self.metrics.register(registry);
    }

    /// Brings up to date what is only counted when somebody looks.
    pub fn look(&self) {
        let handles = Arc::clone(&self.handles.borrow());
        handles.iter().for_each(Handle::look);
    }

    /// Asks every link to make sure of its instance, see [`Handle::check`].
    pub fn check_all(&self, why: &'static str) {
        let handles = Arc::clone(&self.handles.borrow());
        handles.iter().for_each(|handle| handle.check(why));
    }
}

/// The numbers of all links.
#[derive(Debug, Clone, Copy)]
struct Numbers {
    machine: machine::Params,
    dial: dial::Limits,
    in_flight: usize,
}

impl From<&settings::Link> for Numbers {
    fn from(link: &settings::Link) -> Self {
        let again = backoff::Policy { min: link.backoff_min, max: link.backoff_max, reset_after: link.backoff_reset };
        let first = backoff::Policy { min: (again.min * NEVER_CONNECTED).min(again.max), ..again };
        let breaker = breaker::Policy {
            failures: link.breaker_failures,
            open: link.breaker_open,
            open_max: link.breaker_open_max,
            successes: link.breaker_successes,
        };
        Self {
            machine: machine::Params {
                first,
                again,
                breaker,
                health: health::Policy { base: link.checkup_interval, max: link.checkup_interval_max },
                ping_interval: link.ping_interval,
                // The rest of its time a probe has, so both together are what the settings say.
                ping_grace: link.ping_timeout.saturating_sub(link.suspect_ping_timeout),
                probe_interval: link.suspect_ping_interval,
                probe_timeout: link.suspect_ping_timeout,
                remember_gone: link.remember_gone,
            },
            dial: dial::Limits {
                dial: link.dial_timeout,
                hello: link.hello_timeout,
                ping_interval: link.ping_interval,
                ping_timeout: link.ping_timeout,
                streams: link.in_flight + OWN_STREAMS,
            },
            in_flight: link.in_flight,
        }
    }
}

/// Keeps one actor for each instance.
struct Keeper {
    common: Arc<Common>,
    room: Arc<Semaphore>,
    links: BTreeMap<Uuid, Kept>,
    actors: JoinSet<()>,
    publish: watch::Sender<Arc<Vec<Handle>>>,
    cancel: CancellationToken,
    sleepers: watch::Receiver<Sleepers>,
    starter: Arc<dyn Starter>,
}

struct Kept {
    handle: Handle,
    news: watch::Sender<News>,
    task: task::Id,
}

impl Keeper {
    async fn run(mut self, mut snapshot: watch::Receiver<Arc<Snapshot>>) {
        loop {
            let seen = Arc::clone(&snapshot.borrow_and_update());
            let declared = Arc::clone(&self.sleepers.borrow_and_update());
            self.reconcile(&seen, &declared);
            tokio::select! {
                () = self.cancel.cancelled() => break,
                changed = snapshot.changed() => if changed.is_err() { break },
                // Whoever starts things is ours, so it does not end before us.
                Ok(()) = self.sleepers.changed() => {}
                Some(ended) = self.actors.join_next_with_id() => self.ended(&ended),
            }
        }
        self.links.clear();
        while self.actors.join_next().await.is_some() {}
    }

    /// Tells every actor what the registry shows of its instance, and begins links to instances that are new.
    fn reconcile(&mut self, snapshot: &Snapshot, declared: &Sleepers) {
        let start = |id: &Uuid| declared.get(id).map(|sleeper| sleeper.start.clone());
        for (id, link) in &self.links {
            let news = News { presence: presence(snapshot, id), declared: start(id) };
            link.news.send_if_modified(|known| {
                let changed = *known != news;
                *known = news;
                changed
            });
        }
        let before = self.links.len();
        for (id, found) in &snapshot.instances {
            if found.owner == Owner::Alive && !self.links.contains_key(id) {
                let presence = Presence::Here(Arc::clone(&found.record));
                let link = self.begin(&found.record, News { presence, declared: start(id) });
                self.links.insert(*id, link);
            }
        }
        for (id, sleeper) in declared.iter() {
            if !self.links.contains_key(id) {
                let news = News { presence: Presence::Unregistered, declared: start(id) };
                let link = self.begin(&sleeper.record, news);
                self.links.insert(*id, link);
            }
        }
        if self.links.len() != before {
            self.list();
        }
    }

    fn begin(&mut self, record: &Arc<Record>, news: News) -> Kept {
        let (id, name) = (record.id, record.name.clone());
        let span = tracing::info_span!("link", instance = name);
        let now = actor::moment();
        let (params, first) = (self.common.numbers.machine, Arc::clone(record));
        let machine = match (&news.presence, &news.declared) {
            (Presence::Unregistered, Some(start)) => Machine::dormant(first, start.clone(), params, now),
            (Presence::Here(_) | Presence::Dead | Presence::Unregistered, _) => Machine::new(first, params, now),
        };
        let status = machine.status(now);
        let meter = Meter::new(&self.common.metrics, &name, &status);
        let (status, status_seen) = watch::channel(Arc::new(status));
        let (vitals, vitals_seen) = watch::channel(None);
        let (lane, lane_seen) = watch::channel(None);
        let (news, news_read) = watch::channel(news);
        let (commands, commands_read) = mpsc::channel(COMMANDS);
        let mail = Mail { cancel: self.cancel.clone(), news: news_read, commands: commands_read };
        let actor =
            Actor::new(machine, mail, Published { status, vitals, lane }, Arc::clone(&self.common), Arc::clone(&meter));
        let task = self.actors.spawn(actor.run().instrument(span)).id();
        let in_flight = self.common.numbers.in_flight;
        let room = [Arc::new(Semaphore::new(in_flight)), Arc::clone(&self.room)];
        let inner = handle::Inner {
            id,
            name,
            status: status_seen,
            vitals: vitals_seen,
            lane: lane_seen,
            commands,
            room,
            in_flight,
            meter,
            starter: Arc::clone(&self.starter),
        };
        Kept { handle: Handle { inner: Arc::new(inner) }, news, task }
    }

    /// An actor ended: its instance has been gone for long enough. If it is back, the next look begins a new link.
    fn ended(&mut self, ended: &Result<(task::Id, ()), JoinError>) {
        let task = match ended {
            Ok((task, ())) => *task,
            Err(error) => {
                tracing::error!(%error, "a link failed and is begun anew: a defect of the hub");
                error.id()
            }
        };
        self.links.retain(|_, link| link.task != task);
        self.list();
    }

    fn list(&self) {
        let mut handles: Vec<_> = self.links.values().map(|link| link.handle.clone()).collect();
        handles.sort_by(|a, b| (a.name(), a.id()).cmp(&(b.name(), b.id())));
        self.publish.send_replace(Arc::new(handles));
    }
}

/// What the registry shows of an instance whose link we have.
fn presence(snapshot: &Snapshot, id: &Uuid) -> Presence {
    match snapshot.instances.get(id) {
        Some(Found { record, owner: Owner::Alive }) => Presence::Here(Arc::clone(record)),
        Some(Found { owner: Owner::Dead, .. }) => Presence::Dead,
        None if snapshot.swept.contains_key(id) => Presence::Dead,
        None => Presence::Unregistered,
    }
}

#[cfg(test)]
mod tests;
