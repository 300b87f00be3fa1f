//! The life of an upstream: when a session is begun, kept and given up.
//!
//! Owns the one session with a server, its lists, and what has to be said again in every session (log level,
//! subscriptions). It is a loop of four phases, one method each: look (is the server there?), start, rest, serve.
//! Invariant: a session is begun at once when its life begins, and after a backoff when it failed or did not last, so
//! neither a caller nor a server that drops every session can make it spin.
//! Never: blocks its inbox. Whatever takes time is a task of the session and ends with it.

use super::availability::{Availability, ServerRun};
use super::handshake::{Handshake, HandshakeError};
use super::http_client::{HttpClient, SendError};
use super::session::{Dialect, UpstreamSession};
use super::shared::UpstreamDeps;
use super::shared::random;
use super::work::SessionWork;
use super::{INBOX, KnownOffer, Upstream, UpstreamInput, UpstreamPhase, UpstreamState, handshake, listen};
use crate::gateway::mcp::catalog::list::List;
use crate::gateway::mcp::catalog::server_key::ServerKey;
use crate::gateway::mcp::protocol::level::Level;
use crate::gateway::mcp::protocol::list_kind::ListKind;
use crate::gateway::mcp::session::in_flight::InFlight;
use crate::gateway::mcp::session::store::{EffectiveLevels, wanted};
use crate::link::LinkHandle;
use jiff::Timestamp;
use linchpin_shared::backoff::{Backoff, BackoffPolicy};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// Between attempts to begin a session with a server that is up but does not take it.
const PACE: BackoffPolicy =
    BackoffPolicy { min: Duration::from_millis(50), max: Duration::from_secs(5), reset_after: Duration::from_secs(10) };

/// The life of an upstream.
pub(crate) struct UpstreamActor {
    upstream: Arc<Upstream>,
    availability: watch::Receiver<Availability>,
    levels: watch::Receiver<EffectiveLevels>,
    inbox: mpsc::Receiver<UpstreamInput>,
    state: watch::Sender<UpstreamState>,
    known: watch::Sender<Arc<KnownOffer>>,
    common: UpstreamDeps,
    pace: Backoff,
    sessions: u64,
    /// With what the next session is begun, and how often in a row the server ended when it was asked.
    opening: Handshake,
    ended: u32,
    /// The life that was over before it answered.
    unanswered: Option<ServerRun>,
}

/// What comes next.
enum NextStep {
    Look,
    Start(ServerRun),
    Rest(Duration),
    Serve(ServerRun, Arc<UpstreamSession>),
}

/// Nobody follows the instance any more.
struct LinkClosed;

impl UpstreamActor {
    /// An upstream for this server of the instance behind `handle`, and what keeps it going.
    pub(crate) fn new(
        handle: LinkHandle,
        server_key: ServerKey,
        availability: watch::Receiver<Availability>,
        common: UpstreamDeps,
    ) -> (Arc<Upstream>, Self) {
        let born = Instant::now();
        let phase = UpstreamPhase::Down { why: String::from("the hub has just heard of it"), likely_permanent: false };
        let (state, state_seen) =
            watch::channel(UpstreamState { phase, since: Timestamp::now(), last_seen: None, down_since: Some(born) });
        let (known, known_seen) = watch::channel(Arc::new(common.recalled.take(handle.id(), &server_key)));
        let (inbox, inputs) = mpsc::channel(INBOX);
        let opening = Handshake::of(known_seen.borrow().about.as_deref());
        let upstream = Arc::new(Upstream {
            wire: HttpClient::new(handle, server_key.clone(), common.max_message, common.clients.key().hub_name()),
            server_key,
            born,
            state: state_seen,
            known: known_seen,
            inbox,
            clients: Arc::clone(&common.clients),
            ids: Arc::clone(&common.ids),
            calls: parking_lot::Mutex::default(),
            asked: InFlight::default(),
            woken: parking_lot::Mutex::default(),
            wanted: listen::WantedChanges::default(),
        });
        let actor = Self {
            upstream: Arc::clone(&upstream),
            availability,
            levels: common.clients.levels(),
            inbox: inputs,
            state,
            known,
            common,
            pace: Backoff::new(PACE),
            sessions: 0,
            opening,
            ended: 0,
            unanswered: None,
        };
        (upstream, actor)
    }

    /// Keeps the upstream going until nobody follows its instance any more.
    pub(crate) async fn run(mut self) {
        let mut next = NextStep::Look;
        loop {
            let step = match next {
                NextStep::Look => self.look().await,
                // It takes a moment and needs much room, which a session that lasts should not hold for days.
                NextStep::Start(life) => Box::pin(self.start(life)).await,
                NextStep::Rest(delay) => self.rest(delay).await,
                NextStep::Serve(life, session) => self.serve(life, session).await,
            };
            match step {
                Ok(step) => next = step,
                Err(LinkClosed) => return,
            }
        }
    }

    /// Waits until the server can be talked to.
    async fn look(&mut self) -> Result<NextStep, LinkClosed> {
        loop {
            let phase = match self.availability.borrow_and_update().clone() {
                Availability::Ready(life) => return Ok(NextStep::Start(life)),
                Availability::Unavailable { why, likely_permanent } => UpstreamPhase::Down { why, likely_permanent },
                Availability::Dormant(start) => UpstreamPhase::Dormant(start),
                Availability::Departed { why } => UpstreamPhase::Left { why },
            };
            self.publish(phase);
            tokio::select! {
                changed = self.availability.changed() => changed.map_err(|_| LinkClosed)?,
                Some(_) = self.inbox.recv() => {}
            }
        }
    }

    /// Begins a session.
    async fn start(&mut self, life: ServerRun) -> Result<NextStep, LinkClosed> {
        self.publish(UpstreamPhase::Starting);
        self.sessions += 1;
        // A new life of the server alone: it ended while it was asked. Otherwise its instance or the link did.
        let ended = self.unanswered.take().is_some_and(|before| {
            (before.generation, before.connection) == (life.generation, life.connection) && before.epoch != life.epoch
        });
        if ended {
            self.ask_otherwise(self.opening.other());
        }
        let upstream = Arc::clone(&self.upstream);
        let mut begun = std::pin::pin!(handshake::begin(&upstream, self.sessions, self.opening));
        loop {
            tokio::select! {
                session = &mut begun => return Ok(match session {
                    Ok(session) => NextStep::Serve(life, Arc::new(session)),
                    Err(not_begun) => self.failed(not_begun),
                }),
                moved = moved_on(&mut self.availability, life) => {
                    self.unanswered = Some(life);
                    return moved.map(|()| NextStep::Look);
                }
                Some(_) = self.inbox.recv() => {}
            }
        }
    }

    /// The server ended when it was asked what begins a session: its next life is asked this first.
    fn ask_otherwise(&mut self, next: Handshake) {
        self.ended += 1;
        // One that was initialized before and ended now may have had reasons of its own, once.
        if self.ended > 1 || self.known.borrow().about.is_none() {
            self.opening = next;
        }
    }

    fn failed(&mut self, HandshakeError { why, next }: HandshakeError) -> NextStep {
        if let Some(next) = next {
            self.ask_otherwise(next);
        }
        let why = why.into_problem().detail;
        tracing::debug!(server = %self.upstream, why, "no session");
        self.publish(UpstreamPhase::Down { why, likely_permanent: true });
        NextStep::Rest(self.pace.next_delay(random()))
    }

    /// Waits before the next attempt, unless the outlook changes before.
    async fn rest(&mut self, delay: Duration) -> Result<NextStep, LinkClosed> {
        let mut over = std::pin::pin!(tokio::time::sleep(delay));
        loop {
            tokio::select! {
                () = &mut over => return Ok(NextStep::Look),
                changed = self.availability.changed() => return changed.map(|()| NextStep::Look).map_err(|_| LinkClosed),
                Some(_) = self.inbox.recv() => {}
            }
        }
    }

    /// Keeps a session for as long as it lasts.
    async fn serve(&mut self, life: ServerRun, session: Arc<UpstreamSession>) -> Result<NextStep, LinkClosed> {
        tracing::debug!(server = %self.upstream, session = session.number, "session begun");
        let begun = Instant::now();
        self.ended = 0;
        self.opening = if session.dialect == Dialect::Stateless { Handshake::Discover } else { Handshake::Initialize };
        self.know(|known| known.about.replace(Arc::clone(&session.about)).is_none());
        self.publish(UpstreamPhase::Ready(Arc::clone(&session)));
        let mut work = SessionWork::new(Arc::clone(&self.upstream), Arc::clone(&session), self.common.max_message);
        work.begin();
        work.set_level(self.wanted());
        loop {
            tokio::select! {
                moved = moved_on(&mut self.availability, life) => {
                    self.pace.healthy_for(begun.elapsed());
                    return moved.map(|()| NextStep::Look);
                }
                Some(input) = self.inbox.recv() => match input {
                    UpstreamInput::Lost(number) if number == session.number => return Ok(self.lost(begun)),
                    UpstreamInput::Lost(_) => {}
                    UpstreamInput::Stale(topic) => work.stale(topic),
                    UpstreamInput::Wanted(topic) => work.wanted(topic),
                    UpstreamInput::Asked(text) => work.asked(text),
                },
                Ok(()) = self.levels.changed() => work.set_level(self.wanted()),
                Some((kind, fetched)) = work.fetched() => self.fetched(kind, fetched, &mut work),
            }
        }
    }

    fn lost(&mut self, begun: Instant) -> NextStep {
        tracing::info!(server = %self.upstream, "its session was lost, another one is begun");
        self.pace.healthy_for(begun.elapsed());
        self.publish(UpstreamPhase::Starting);
        NextStep::Rest(self.pace.immediate_or_delay(random()))
    }

    fn fetched(&mut self, kind: ListKind, fetched: Result<List, SendError>, work: &mut SessionWork) {
        match fetched {
            Ok(list) => {
                work.came(kind);
                self.know(|known| {
                    let differs = known.lists.set(kind, list);
                    known.tried(kind) || differs
                });
            }
            Err(broken) => {
                let why = broken.into_problem().detail;
                // A server that never gives it says so once.
                if work.again(kind) {
                    tracing::warn!(server = %self.upstream, list = kind.method(), why, "a list could not be fetched");
                } else {
                    tracing::debug!(server = %self.upstream, list = kind.method(), why, "a list could not be fetched");
                }
                self.know(|known| known.tried(kind));
            }
        }
        work.done(kind);
    }

    fn wanted(&mut self) -> Option<Level> {
        wanted(&self.levels.borrow_and_update(), &self.upstream.server_key)
    }

    fn publish(&mut self, phase: UpstreamPhase) {
        self.state.send_modify(|state| {
            let now = Timestamp::now();
            (state.down_since, state.last_seen) = match (&state.phase, &phase) {
                (_, UpstreamPhase::Ready(_)) => (None, None),
                (UpstreamPhase::Ready(_), _) => (Some(Instant::now()), Some(now)),
                (_, _) => (state.down_since, state.last_seen),
            };
            if std::mem::discriminant(&state.phase) != std::mem::discriminant(&phase) {
                state.since = now;
            }
            state.phase = phase;
        });
        self.common.dirty.notify_one();
    }

    /// Changes what is known, and has the boards made anew if the change says that they would show it.
    fn know(&mut self, change: impl FnOnce(&mut KnownOffer) -> bool) {
        let mut shows = false;
        self.known.send_modify(|known| shows = change(Arc::make_mut(known)));
        if shows {
            self.common.dirty.notify_one();
        }
    }
}

impl KnownOffer {
    /// A list was asked for once more. Says whether that was the first time, for which callers wait.
    fn tried(&mut self, kind: ListKind) -> bool {
        self.fetches[kind.index()] += 1;
        self.fetches[kind.index()] == 1
    }
}

/// Waits until the outlook is another than this life.
async fn moved_on(availability: &mut watch::Receiver<Availability>, life: ServerRun) -> Result<(), LinkClosed> {
    availability
        .wait_for(|availability| *availability != Availability::Ready(life))
        .await
        .map(|_| ())
        .map_err(|_| LinkClosed)
}
