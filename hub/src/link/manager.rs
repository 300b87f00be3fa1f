//! The task that keeps one actor for each instance and each declared server.

use super::actor::{LinkActor, Publishers};
use super::common::{LinkCommon, context_now};
use super::handle::{LinkHandle, LinkShared};
use super::inbox::{Inbox, Observed};
use super::launcher::{DeclaredServers, LaunchState, Launcher};
use super::machine::{Input, Machine};
use super::metrics::LinkMeter;
use crate::discovery::{Found, Snapshot};
use linchpin_shared::registry::Owner;
use linchpin_shared::registry::record::Record;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::{self, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// How many messages of callers may wait for one actor, which reads them in every stage.
const MESSAGES: usize = 32;

pub(super) struct LinkManager {
    common: Arc<LinkCommon>,
    /// The capacity for requests over all links.
    total_capacity: Arc<Semaphore>,
    links: BTreeMap<Uuid, ManagedLink>,
    actors: JoinSet<()>,
    publish: watch::Sender<Arc<Vec<LinkHandle>>>,
    cancel: CancellationToken,
    declared: watch::Receiver<DeclaredServers>,
    launcher: Arc<dyn Launcher>,
}

struct ManagedLink {
    handle: LinkHandle,
    observed: watch::Sender<Observed>,
    task: task::Id,
}

impl LinkManager {
    pub(super) fn new(
        common: LinkCommon,
        total_capacity: usize,
        publish: watch::Sender<Arc<Vec<LinkHandle>>>,
        cancel: CancellationToken,
        launcher: Arc<dyn Launcher>,
    ) -> Self {
        Self {
            common: Arc::new(common),
            total_capacity: Arc::new(Semaphore::new(total_capacity)),
            links: BTreeMap::new(),
            actors: JoinSet::new(),
            publish,
            cancel,
            declared: launcher.declared(),
            launcher,
        }
    }

    /// Follows the registry and the list of declared servers until the hub ends.
    pub(super) async fn run(mut self, mut snapshot: watch::Receiver<Arc<Snapshot>>) {
        loop {
            let found = Arc::clone(&snapshot.borrow_and_update());
            let declared = Arc::clone(&self.declared.borrow_and_update());
            self.reconcile(&found, &declared);
            tokio::select! {
                () = self.cancel.cancelled() => break,
                changed = snapshot.changed() => if changed.is_err() { break },
                // The manager holds the launcher, so the sender does not end before the manager.
                Ok(()) = self.declared.changed() => {}
                Some(result) = self.actors.join_next_with_id() => self.remove(&result),
            }
        }
        self.links.clear();
        while self.actors.join_next().await.is_some() {}
    }

    /// Gives every actor what was observed about its instance, and starts actors for new instances.
    fn reconcile(&mut self, snapshot: &Snapshot, declared: &DeclaredServers) {
        let launch = |id: &Uuid| Input::Declared(declared.get(id).map(|server| server.start.clone()));
        for (id, link) in &self.links {
            let observed = [launch(id), presence(snapshot, id)];
            link.observed.send_if_modified(|known| {
                let changed = *known != observed;
                *known = observed;
                changed
            });
        }
        let before = self.links.len();
        for (id, found) in &snapshot.instances {
            if found.owner == Owner::Alive && !self.links.contains_key(id) {
                let machine = Machine::new(Arc::clone(&found.record), self.common.config.machine, context_now());
                let observed = [launch(id), Input::Registered(Arc::clone(&found.record))];
                let link = self.start_link(machine, observed);
                self.links.insert(*id, link);
            }
        }
        for (id, server) in declared.iter() {
            if !self.links.contains_key(id) {
                let machine = self.dormant(&server.record, server.start.clone());
                let link = self.start_link(machine, [launch(id), Input::Unregistered]);
                self.links.insert(*id, link);
            }
        }
        if self.links.len() != before {
            self.publish_handles();
        }
    }

    fn dormant(&self, record: &Arc<Record>, launch: LaunchState) -> Machine {
        Machine::dormant(Arc::clone(record), launch, self.common.config.machine, context_now())
    }

    fn start_link(&mut self, machine: Machine, observed: Observed) -> ManagedLink {
        let (id, name) = (machine.record().id, machine.record().name.clone());
        let status = machine.status(context_now());
        let meter = LinkMeter::new(&self.common.metrics, &name, &status);
        let (status, status_reader) = watch::channel(Arc::new(status));
        let (vitals, vitals_reader) = watch::channel(None);
        let (sender, sender_reader) = watch::channel(None);
        let (observed, observed_reader) = watch::channel(observed);
        let (messages, messages_reader) = mpsc::channel(MESSAGES);
        let inbox = Inbox { cancel: self.cancel.clone(), observed: observed_reader, messages: messages_reader };
        let publishers = Publishers { status, vitals, sender };
        let actor = LinkActor::new(machine, inbox, publishers, Arc::clone(&self.common), Arc::clone(&meter));
        let task = self.actors.spawn(actor.run()).id();
        let in_flight = self.common.config.in_flight;
        let inner = LinkShared {
            id,
            name,
            status: status_reader,
            vitals: vitals_reader,
            sender: sender_reader,
            messages,
            capacity: [Arc::new(Semaphore::new(in_flight)), Arc::clone(&self.total_capacity)],
            in_flight,
            meter,
            launcher: Arc::clone(&self.launcher),
        };
        ManagedLink { handle: LinkHandle { inner: Arc::new(inner) }, observed, task }
    }

    /// Removes the link of an actor that ended. An instance that is back by now gets a new link in the next round.
    fn remove(&mut self, result: &Result<(task::Id, ()), JoinError>) {
        let task = match result {
            Ok((task, ())) => *task,
            Err(error) => {
                tracing::error!(%error, "link task failed because of a defect; the link is started again");
                error.id()
            }
        };
        self.links.retain(|_, link| link.task != task);
        self.publish_handles();
    }

    fn publish_handles(&self) {
        let mut handles: Vec<_> = self.links.values().map(|link| link.handle.clone()).collect();
        handles.sort_by(|a, b| (a.name(), a.id()).cmp(&(b.name(), b.id())));
        self.publish.send_replace(Arc::new(handles));
    }
}

/// What the registry shows of an instance that has a link.
fn presence(snapshot: &Snapshot, id: &Uuid) -> Input {
    match snapshot.instances.get(id) {
        Some(Found { record, owner: Owner::Alive }) => Input::Registered(Arc::clone(record)),
        Some(Found { owner: Owner::Dead, .. }) => Input::OwnerDead,
        None if snapshot.swept.contains_key(id) => Input::OwnerDead,
        None => Input::Unregistered,
    }
}
