//! All servers of all instances, and the board that clients are shown.
//!
//! Owns [`Fleet`]: one [`member`] per link, and the [`Board`] that is published whenever something on it changed.
//! Invariant: the board is built in one place from what upstreams publish, so every reader sees one moment; a server
//! that has been down for longer than its grace is on it, but not listed.
//! Never: talks to a server.

mod member;

use super::catalog::view::{Board, Source};
use super::upstream::actor::Common;
use super::upstream::{Phase, State, Upstream};
use crate::link::{Handle, Links};
use member::Member;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// An instance that left stays listed for this long: most are started again at once, and then nothing changes.
const LEFT_GRACE: Duration = Duration::from_secs(2);

/// Every server, as it is shown.
pub(crate) type Servers = Board<Arc<Upstream>>;

/// All servers of all instances.
pub(crate) struct Fleet {
    links: watch::Receiver<Arc<Vec<Handle>>>,
    members: Vec<Member>,
    common: Common,
    grace: Duration,
    publish: watch::Sender<Arc<Servers>>,
}

impl Fleet {
    /// A fleet of all links, and the board it publishes.
    pub(crate) fn new(links: &Links, common: Common, grace: Duration) -> (Self, watch::Receiver<Arc<Servers>>) {
        let (publish, board) = watch::channel(Arc::new(Board::new(Vec::new())));
        (Self { links: links.watch(), members: Vec::new(), common, grace, publish }, board)
    }

    /// Follows the links until they end.
    pub(crate) async fn run(mut self) {
        loop {
            self.follow_links();
            let expires = self.show(Instant::now());
            tokio::select! {
                changed = self.links.changed() => if changed.is_err() { return },
                () = self.common.dirty.notified() => {}
                () = until(expires) => {}
            }
        }
    }

    /// Begins to follow links that are new, and lets go of those that are not listed any more.
    fn follow_links(&mut self) {
        let links = Arc::clone(&self.links.borrow_and_update());
        let mut earlier = std::mem::take(&mut self.members);
        for handle in links.iter() {
            let known = earlier.iter().position(|member| member.follows(handle)).map(|at| earlier.swap_remove(at));
            self.members.push(known.unwrap_or_else(|| Member::new(handle.clone(), self.common.clone())));
        }
    }

    /// Publishes the board and says when it changes by itself.
    fn show(&self, now: Instant) -> Option<Instant> {
        let mut expires: Option<Instant> = None;
        let mut sources = Vec::new();
        for member in self.members.iter().filter(|member| !self.has_successor(member)) {
            let upstreams = member.upstreams();
            for upstream in upstreams.iter() {
                let (listed, until) = listed(&upstream.state(), self.grace, now);
                expires = expires.into_iter().chain(until).min();
                sources.push(source(upstream, upstreams.len() == 1, listed));
            }
        }
        let board = Arc::new(Board::new(sources));
        self.publish.send_replace(Arc::clone(&board));
        self.common.clients.tell(&board);
        expires
    }

    /// Whether an instance has left and another one has its name now.
    fn has_successor(&self, member: &Member) -> bool {
        let left = |member: &Member| {
            member.upstreams().iter().all(|upstream| matches!(upstream.state().phase, Phase::Left { .. }))
        };
        let mut named = self.members.iter().filter(|other| other.name() == member.name());
        left(member) && named.any(|other| !left(other))
    }
}

fn source(upstream: &Arc<Upstream>, alone: bool, listed: bool) -> Source<Arc<Upstream>> {
    Source {
        instance: Arc::clone(&upstream.place.instance),
        server: Arc::clone(&upstream.place.server),
        alone,
        listed,
        lists: upstream.known().lists.clone(),
        backend: Arc::clone(upstream),
    }
}

/// Whether a server's items are listed, and when that ends by itself.
fn listed(state: &State, grace: Duration, now: Instant) -> (bool, Option<Instant>) {
    let until = match (&state.phase, state.down_since) {
        (Phase::Ready(_), _) | (_, None) => return (true, None),
        (Phase::Starting | Phase::Down { .. }, Some(since)) => since + grace,
        (Phase::Left { .. }, Some(since)) => since + grace.min(LEFT_GRACE),
    };
    if now < until { (true, Some(until)) } else { (false, None) }
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
        let state = |phase| State { phase, since: Timestamp::UNIX_EPOCH, last_seen: None, down_since: Some(born) };
        let down = state(Phase::Down { why: String::new(), settled: true });
        assert_eq!(listed(&down, grace, born), (true, Some(born + grace)));
        assert_eq!(listed(&down, grace, born + grace), (false, None));
        assert_eq!(listed(&state(Phase::Starting), grace, born + grace), (false, None));
        let left = state(Phase::Left { why: String::new() });
        assert_eq!(listed(&left, grace, born), (true, Some(born + LEFT_GRACE)));
        assert_eq!(listed(&left, grace, born + LEFT_GRACE), (false, None));
    }
}
