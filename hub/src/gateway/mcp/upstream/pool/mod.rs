//! All servers of all instances, and the board that clients are shown.
//!
//! Owns [`UpstreamPool`]: one [`member`] per link, and [`Catalogs`], published whenever something on them changed.
//! Invariant: a board is built in one place from what upstreams publish, so every reader sees one moment; a server
//! that has been down for longer than its grace is on it, but not listed.
//! Never: talks to a server.

mod member;

use super::shared::UpstreamDeps;
use super::{Upstream, UpstreamPhase, UpstreamState};
use crate::gateway::mcp::catalog::view::{InstanceEntry, ServerEntry, ToolCatalog};
use crate::gateway::mcp::protocol::capabilities::ClientCapabilities;
use crate::gateway::mcp::session::capability_sets::CapabilitySets;
use crate::gateway::mcp::session::persisted::SETTLING;
use crate::link::{LinkHandle, Links};
use member::{InstanceUpstreams, ServerUpstreams};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// An instance that left stays listed for this long: most are started again at once, and then nothing changes.
const LEFT_GRACE: Duration = Duration::from_secs(2);

/// How often it is looked which sets of abilities are still in use.
const SWEEP: Duration = Duration::from_secs(60);

/// The fleet rests so many times as long as a board took it, so at worst it takes a fifth of one core.
const REST: u32 = 4;

/// Every server, as it is shown.
pub(crate) type ServerCatalog = ToolCatalog<Arc<Upstream>>;

/// Every server, as it is shown to clients with each set of abilities that is in use.
#[derive(Debug)]
pub(crate) struct Catalogs(Vec<(ClientCapabilities, Arc<ServerCatalog>)>);

impl Catalogs {
    /// What clients without abilities are shown.
    pub(crate) fn base(&self) -> &Arc<ServerCatalog> {
        &self.0[0].1
    }

    /// What clients with these abilities are shown; none for a moment after the first of them came.
    pub(crate) fn of(&self, capabilities: ClientCapabilities) -> Option<&Arc<ServerCatalog>> {
        self.0.iter().find(|(of, _)| *of == capabilities).map(|(_, catalog)| catalog)
    }

    /// All of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (ClientCapabilities, &Arc<ServerCatalog>)> {
        self.0.iter().map(|(of, catalog)| (*of, catalog))
    }
}

/// All servers of all instances.
pub(crate) struct UpstreamPool {
    links: watch::Receiver<Arc<Vec<LinkHandle>>>,
    members: Vec<InstanceUpstreams>,
    common: UpstreamDeps,
    grace: Duration,
    /// From when on clients are told of changed lists.
    likely_permanent: Instant,
    sets: watch::Receiver<CapabilitySets>,
    publish: watch::Sender<Arc<Catalogs>>,
}

impl UpstreamPool {
    /// A fleet of all links, and the board it publishes.
    pub(crate) fn new(links: &Links, common: UpstreamDeps, grace: Duration) -> (Self, watch::Receiver<Arc<Catalogs>>) {
        let nothing = Catalogs(vec![(ClientCapabilities::NONE, Arc::new(ToolCatalog::new(Vec::new())))]);
        let (publish, catalogs) = watch::channel(Arc::new(nothing));
        let sets = common.clients.sets();
        let likely_permanent = Instant::now() + SETTLING;
        (Self { links: links.watch(), members: Vec::new(), common, grace, likely_permanent, sets, publish }, catalogs)
    }

    /// Follows the links until they end.
    pub(crate) async fn run(mut self) {
        let mut sweep = tokio::time::interval(SWEEP);
        loop {
            self.follow_links();
            let began = Instant::now();
            let expires = self.show(began);
            rest(began.elapsed()).await;
            tokio::select! {
                changed = self.links.changed() => if changed.is_err() { return },
                () = self.common.dirty.notified() => {}
                // The sets are the clients' table's, which is ours too.
                _ = self.sets.changed() => {}
                _ = sweep.tick() => self.common.clients.publish_sets(Instant::now()),
                () = until(expires) => {}
            }
        }
    }

    /// Begins to follow links that are new, and lets go of those that are not listed any more.
    fn follow_links(&mut self) {
        let links = Arc::clone(&self.links.borrow_and_update());
        let mut earlier: HashMap<_, _> =
            std::mem::take(&mut self.members).into_iter().map(|member| (member.id(), member)).collect();
        for handle in links.iter() {
            let known = earlier.remove(&handle.id()).filter(|member| member.follows(handle));
            self.members.push(known.unwrap_or_else(|| InstanceUpstreams::new(handle.clone(), self.common.clone())));
        }
        if !earlier.is_empty() {
            let is_listed = |instance: &str| links.iter().any(|handle| handle.name() == instance);
            self.common.calls.retain_instances(is_listed);
        }
    }

    /// Publishes the boards and says when they change by themselves.
    fn show(&mut self, now: Instant) -> Option<Instant> {
        let mut expires: Option<Instant> = None;
        let mut sources: Vec<Vec<_>> = Vec::new();
        let sets = Arc::clone(&self.sets.borrow_and_update());
        // Members begin the sessions of a new set each in its own time, and say so; before that, its clients would be
        // served by sessions in which servers are promised less.
        let begun =
            |set: &ClientCapabilities| self.shown().all(|member| member.servers().iter().all(|it| it.has(*set)));
        let sets: Vec<_> =
            std::iter::once(ClientCapabilities::NONE).chain(sets.iter().copied().filter(begun)).collect();
        sources.resize_with(sets.len(), Vec::new);
        for member in self.shown() {
            let servers = member.servers();
            for served in servers.iter() {
                let (listed, until) = listed(&served.base().state(), self.grace, now);
                expires = expires.into_iter().chain(until).min();
                for (set, sources) in sets.iter().zip(&mut sources) {
                    sources.push(source(served, *set, servers.len() == 1, listed));
                }
            }
        }
        let instances = self.instances();
        let catalog = |sources| Arc::new(ToolCatalog::new(sources).of_instances(Arc::clone(&instances)));
        let catalogs = sets.into_iter().zip(sources.into_iter().map(catalog));
        let catalogs = Arc::new(Catalogs(catalogs.collect()));
        self.publish.send_replace(Arc::clone(&catalogs));
        // A hub that has just started learns of one instance after the other, and nothing of that is news.
        if now < self.likely_permanent {
            return expires.into_iter().chain([self.likely_permanent]).min();
        }
        for (capabilities, catalog) in catalogs.iter() {
            self.common.clients.notify(capabilities, catalog);
        }
        expires
    }

    /// The members but those that have left, or do not run, while another one has their name now.
    fn shown(&self) -> impl Iterator<Item = &InstanceUpstreams> {
        let mut named: HashMap<&str, u8> = HashMap::new();
        for member in &self.members {
            let best = named.entry(member.name()).or_default();
            *best = presence(member).max(*best);
        }
        self.members.iter().filter(move |member| named.get(member.name()) == Some(&presence(member)))
    }

    /// All instances, with servers or without, in order.
    fn instances(&self) -> Arc<Vec<InstanceEntry>> {
        let mut instances: Vec<InstanceEntry> =
            self.members.iter().map(|member| (member.name().into(), member.project().into())).collect();
        instances.sort();
        instances.dedup_by(|a, b| a.0 == b.0);
        Arc::new(instances)
    }
}

/// Whose name it is, if several have it: of who is there, else of who can be started.
fn presence(member: &InstanceUpstreams) -> u8 {
    let of = |phase: &UpstreamPhase| match phase {
        UpstreamPhase::Left { .. } => 0,
        UpstreamPhase::Dormant(_) => 1,
        UpstreamPhase::Starting | UpstreamPhase::Ready(_) | UpstreamPhase::Down { .. } => 2,
    };
    member.servers().iter().map(|served| of(&served.base().state().phase)).max().unwrap_or(0)
}

/// A server as clients with these abilities are shown it: what a session of their own has not listed yet as others see it.
fn source(
    served: &ServerUpstreams,
    capabilities: ClientCapabilities,
    alone: bool,
    listed: bool,
) -> ServerEntry<Arc<Upstream>> {
    let upstream = served.of(capabilities);
    ServerEntry {
        instance: Arc::clone(&upstream.server_key.instance),
        server: Arc::clone(&upstream.server_key.server),
        project: Arc::clone(&upstream.server_key.project),
        alone,
        listed,
        lists: upstream.known().lists.or(&served.base().known().lists),
        backend: Arc::clone(upstream),
    }
}

/// Whether a server's items are listed, and when that ends by itself.
fn listed(state: &UpstreamState, grace: Duration, now: Instant) -> (bool, Option<Instant>) {
    let until = match (&state.phase, state.down_since) {
        (UpstreamPhase::Ready(_) | UpstreamPhase::Dormant(_), _) | (_, None) => return (true, None),
        (UpstreamPhase::Starting | UpstreamPhase::Down { .. }, Some(since)) => since + grace,
        (UpstreamPhase::Left { .. }, Some(since)) => since + grace.min(LEFT_GRACE),
    };
    if now < until { (true, Some(until)) } else { (false, None) }
}

/// What changes while many instances come is shown together: the more a board takes, the longer is the pause after it. A
/// change after a quiet time is shown at once.
async fn rest(took: Duration) {
    // The timer's own step is a millisecond, so pauses that are not worth one are left out.
    if took * REST > Duration::from_millis(1) {
        tokio::time::sleep(took * REST).await;
    }
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;

    #[test]
    fn a_server_that_is_down_is_listed_for_its_grace() {
        let (born, grace) = (Instant::now(), Duration::from_secs(60));
        let state =
            |phase| UpstreamState { phase, since: Timestamp::UNIX_EPOCH, last_seen: None, down_since: Some(born) };
        let down = state(UpstreamPhase::Down { why: String::new(), likely_permanent: true });
        assert_eq!(listed(&down, grace, born), (true, Some(born + grace)));
        assert_eq!(listed(&down, grace, born + grace), (false, None));
        assert_eq!(listed(&state(UpstreamPhase::Starting), grace, born + grace), (false, None));
        let left = state(UpstreamPhase::Left { why: String::new() });
        assert_eq!(listed(&left, grace, born), (true, Some(born + LEFT_GRACE)));
        assert_eq!(listed(&left, grace, born + LEFT_GRACE), (false, None));
    }
}
