//! The hub's side of each MCP server: one session, kept or made anew.
//!
//! Owns [`Upstream`], what callers hold of a server. Inside, [`actor`] owns the session and the lists, [`http_client`] speaks
//! Streamable HTTP over the link, [`listen`] follows the server's own messages, [`availability`] tells when a session can be.
//! [`handshake`] finds out what a server speaks, and [`say`] is what the hub says to it; [`dormant`] has what is not
//! running started; [`ask`] carries what a server asks to the client whose call made it ask, [`tasks`] what it says of
//! tasks to the client that has them.
//! Invariant: there is one session per server and lane at a time, and losing it begins exactly one new one, whoever
//! noticed. Ids and progress tokens that a server sees are the hub's own and never used twice.
//! Never: repeats a call, or lets a caller wait without a deadline.

pub(crate) mod about;
pub(crate) mod actor;
pub(crate) mod ask;
pub(crate) mod availability;
pub(crate) mod body;
mod dormant;
mod fetch;
pub(crate) mod handshake;
pub(crate) mod http_client;
mod listen;
pub(crate) mod loop_guard;
pub(crate) mod pool;
pub(crate) mod recalled;
pub(crate) mod request_headers;
mod say;
pub(crate) mod session;
pub(crate) mod shared;
mod tasks;
mod work;

use super::catalog::list::Lists;
use super::catalog::server_key::ServerKey;
use super::protocol::json::{Object, Span};
use super::protocol::list_kind::ListChange;
use super::protocol::list_kind::ListKind;
use super::protocol::notification::Notification;
use super::session::client::Client;
use super::session::in_flight::InFlight;
use super::session::store::SessionStore;
use crate::link::{self, LaunchState, LinkHandle};
use about::ServerInfo;
use dormant::failed_start;
use http_client::HttpClient;
use jiff::Timestamp;
use linchpin_shared::problem::{Code, Problem};
use parking_lot::Mutex;
use session::{Dialect, UpstreamSession};
use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout_at};

/// What the actor is told.
#[derive(Debug)]
pub(crate) enum UpstreamInput {
    /// The session of this number is not known to the server any more.
    Lost(u64),
    /// A list may have changed.
    Stale(ListChange),
    /// A client wants to know whether a list has changed.
    Wanted(ListChange),
    /// The server asked something, and not on the stream of a call.
    Asked(String),
}

/// Inputs that wait for an actor, which takes them in every state.
const INBOX: usize = 64;

/// Whether there is a session.
#[derive(Debug, Clone)]
pub(crate) enum UpstreamPhase {
    /// One is being begun.
    Starting,
    /// There is one.
    Ready(Arc<UpstreamSession>),
    /// There is none.
    Down {
        /// Why, for people.
        why: String,
        /// Whether waiting a moment for it is probably in vain.
        likely_permanent: bool,
    },
    /// Nothing of its instance runs, and it is started on first use.
    Dormant(LaunchState),
    /// The instance left. It may come back: what leaves is often about to be started again.
    Left {
        /// Why, for people.
        why: String,
    },
}

/// The state of an upstream.
#[derive(Debug, Clone)]
pub(crate) struct UpstreamState {
    /// Whether there is a session.
    pub(crate) phase: UpstreamPhase,
    /// Since when it is so.
    pub(crate) since: Timestamp,
    /// When there was a session last, if there is none.
    pub(crate) last_seen: Option<Timestamp>,
    /// Since when there has been no session.
    pub(crate) down_since: Option<Instant>,
}

/// What is known of a server, also while it is down.
#[derive(Debug, Clone, Default)]
pub(crate) struct KnownOffer {
    /// Its lists.
    pub(crate) lists: Lists,
    /// What it said of itself.
    pub(crate) about: Option<Arc<ServerInfo>>,
    /// How often each list was asked for, with or without success.
    fetches: [u64; 4],
}

/// What callers hold of a server.
pub(crate) struct Upstream {
    /// Which server it is.
    pub(crate) server_key: ServerKey,
    /// When the hub first heard of it.
    pub(crate) born: Instant,
    wire: HttpClient,
    state: watch::Receiver<UpstreamState>,
    known: watch::Receiver<Arc<KnownOffer>>,
    inbox: mpsc::Sender<UpstreamInput>,
    clients: Arc<SessionStore>,
    ids: Arc<AtomicU64>,
    /// The clients' requests under way.
    calls: Mutex<HashMap<u64, RequestCause>>,
    /// What the server asked clients.
    pub(crate) asked: InFlight,
    /// When it was woken last, and what had become of starting it before.
    woken: Mutex<Option<(Instant, LaunchState)>>,
    /// What a server without sessions is to tell.
    wanted: listen::WantedChanges,
}

/// A client's request under way: whoever caused what the server says or asks meanwhile.
#[derive(Debug, Clone)]
pub(crate) struct RequestCause {
    /// Its id, as the server knows it.
    pub(crate) call: u64,
    /// The client.
    pub(crate) client: Arc<Client>,
    /// Where the messages of the request go.
    pub(crate) out: mpsc::Sender<String>,
    /// Whether the client reads them there.
    pub(crate) streams: bool,
    /// The token under which it wants to hear of progress.
    pub(crate) token: Option<String>,
    /// The task whose result it waits for.
    pub(crate) task: Option<String>,
}

impl Upstream {
    /// The link to the instance.
    pub(crate) fn handle(&self) -> &LinkHandle {
        self.wire.handle()
    }

    /// Its state now.
    pub(crate) fn state(&self) -> UpstreamState {
        self.state.borrow().clone()
    }

    /// What is known of it now.
    pub(crate) fn known(&self) -> Arc<KnownOffer> {
        Arc::clone(&self.known.borrow())
    }

    /// The session, if there is one now.
    pub(crate) fn session(&self) -> Option<Arc<UpstreamSession>> {
        session_of(&self.state.borrow().phase, 0)
    }

    /// Waits for a session later than number `lost`, which is hereby reported lost, until `deadline`.
    pub(crate) async fn ready(&self, lost: u64, deadline: Instant) -> Result<Arc<UpstreamSession>, Problem> {
        if let Some(session) = session_of(&self.state.borrow().phase, lost) {
            return Ok(session);
        }
        let begun = Instant::now();
        if lost > 0 {
            self.put(UpstreamInput::Lost(lost)).await;
        }
        let mut earlier = self.ensure_started(deadline)?;
        let mut state = self.state.clone();
        loop {
            let news = |state: &UpstreamState| match &state.phase {
                UpstreamPhase::Ready(session) => session.number > lost,
                UpstreamPhase::Dormant(start) => earlier.as_ref() != Some(start),
                UpstreamPhase::Starting | UpstreamPhase::Down { .. } | UpstreamPhase::Left { .. } => false,
            };
            let phase = match timeout_at(deadline, state.wait_for(news)).await {
                Ok(Ok(state)) => Some(state.phase.clone()),
                Ok(Err(_)) | Err(_) => None,
            };
            let Some(phase) = phase else { return Err(self.unavailable(begun.elapsed()).await) };
            earlier = match phase {
                UpstreamPhase::Ready(session) => return Ok(session),
                UpstreamPhase::Dormant(LaunchState::Failed { problem, next_try }) => {
                    return Err(failed_start(&problem, next_try));
                }
                UpstreamPhase::Dormant(LaunchState::Idle) => self.ensure_started(deadline)?,
                UpstreamPhase::Dormant(start @ LaunchState::Starting) => Some(start),
                UpstreamPhase::Starting | UpstreamPhase::Down { .. } | UpstreamPhase::Left { .. } => earlier,
            };
        }
    }

    /// Asks for a list again and waits until that was tried, at most until `deadline`.
    pub(crate) async fn refresh(&self, kind: ListKind, deadline: Instant) {
        let mut known = self.known.clone();
        let before = known.borrow_and_update().fetches[kind.index()];
        self.put(UpstreamInput::Wanted(kind.topic())).await;
        // Whether it worked shows in the list.
        let _ = timeout_at(deadline, known.wait_for(|known| known.fetches[kind.index()] > before)).await;
    }

    /// An id that no server saw before.
    pub(crate) fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }

    /// Notes that request `id` is under way. Progress of it, whose token is the same, and questions because of it may
    /// also come from elsewhere than its own stream.
    pub(crate) fn under_way(&self, cause: RequestCause) -> ExpectedUse<'_> {
        let id = cause.call;
        self.calls.lock().insert(id, cause);
        ExpectedUse { upstream: self, id }
    }

    /// The request that made the server ask something, if that can be told: all that are under way are one client's.
    /// What a client can do says nothing about whose call it was.
    fn cause(&self) -> Option<RequestCause> {
        let calls = self.calls.lock();
        let (_, latest) = calls.iter().max_by_key(|(id, _)| **id)?;
        let one = calls.values().all(|cause| Arc::ptr_eq(&cause.client, &latest.client));
        one.then(|| latest.clone())
    }

    /// A notification that belongs to no request of a client.
    async fn hear(&self, text: &str, method: &str, params: Option<Span>) {
        match Notification::read(text, method, params) {
            Notification::Changed(topic) => self.changed(topic).await,
            Notification::Updated(uri) => self.updated(&uri, text, params),
            Notification::Progress(token) => self.progress(text, params, token),
            Notification::Task(id) => self.task_told(text, id),
            Notification::Log(level) => self.clients.log(&self.server_key, level, text),
            Notification::Acknowledged(id) => self.wanted.acknowledge(id.of(text)),
            Notification::Cancelled(id) => {
                self.wanted.end(id.of(text));
                self.asked.cancel(id.of(text), text.to_owned());
            }
            Notification::Other => self.clients.other(&self.server_key, text),
        }
    }

    /// A list may have changed.
    pub(crate) async fn changed(&self, topic: ListChange) {
        self.put(UpstreamInput::Stale(topic)).await;
    }

    /// A resource changed: whoever subscribed to it is told. A server that speaks both may tell of it in both ways, so
    /// each client hears it in the way of its own version.
    pub(crate) fn updated(&self, uri: &str, text: &str, params: Option<Span>) {
        let plain = super::protocol::notification::untagged(text, params);
        let tagged = matches!(plain, Cow::Owned(_));
        let twice = self.session().is_some_and(|session| session.dialect == Dialect::Both);
        for client in self.clients.covering(&self.server_key) {
            if client.is_subscribed(&self.server_key, uri) && (!twice || client.is_stateless() == tagged) {
                client.send(&plain);
            }
        }
    }

    fn progress(&self, text: &str, params: Option<Span>, token: Span) {
        // A peer that keeps every number as a float writes 7.0 for 7.
        let Some(id) = token.of(text).parse::<f64>().ok().filter(|id| *id >= 0.0 && id.fract() == 0.0) else { return };
        let cause = self.calls.lock().get(&(id as u64)).map(|cause| (cause.token.clone(), cause.out.clone()));
        let Some((wanted, out)) = cause else { return self.task_progress(text, params, token, id as u64) };
        let Some(wanted) = wanted else { return };
        let message = super::protocol::json::splice(text, &mut [(token, wanted.into())]);
        if out.try_send(message).is_err() {
            tracing::debug!(server = %self, "progress dropped: its reader does not read");
        }
    }

    async fn put(&self, input: UpstreamInput) {
        if self.inbox.send(input).await.is_err() {
            tracing::debug!(server = %self, "its instance is not followed any more");
        }
    }

    /// Why there is no session, for whoever waited for one.
    fn without_session(&self, waited: Duration) -> Problem {
        let ServerKey { instance, .. } = &self.server_key;
        let state = self.state();
        let why = match &state.phase {
            UpstreamPhase::Starting => "its MCP session is being started",
            UpstreamPhase::Ready(_) => "its MCP session was lost several times in a row",
            UpstreamPhase::Down { why, .. } | UpstreamPhase::Left { why } => why,
            UpstreamPhase::Dormant(_) => "it is being started",
        };
        let link = self.handle().status();
        let link = link.borrow();
        let code = match link.state {
            link::LinkState::Active | link::LinkState::Suspect | link::LinkState::Draining => Code::ServerUnavailable,
            link::LinkState::Discovered
            | link::LinkState::Connecting
            | link::LinkState::Retrying
            | link::LinkState::Tripped
            | link::LinkState::Unresponsive
            | link::LinkState::Dormant
            | link::LinkState::Gone => Code::InstanceUnavailable,
        };
        let mut problem = Problem::new(code, format!("{self} cannot be called now: {why}"))
            .seen("instance", &**instance)
            .seen("waited_ms", u64::try_from(waited.as_millis()).unwrap_or(u64::MAX));
        if let Some(at) = state.last_seen {
            problem = problem.seen("last_seen", at.to_string());
        }
        if let Some(failure) = &link.last_failure {
            problem = problem.seen("last_failure", failure.to_string());
        }
        if let Some(at) = link.next_try {
            problem = problem.seen("next_try", at.to_string());
        }
        problem
            .next("try again in a moment: the hub keeps trying by itself")
            .next(format!("linchpin explain {instance}"))
            .next(format!("linchpin logs {instance}"))
    }
}

/// While it is held, a request is under way. What the server asked because of it ends with it.
#[derive(Debug)]
pub(crate) struct ExpectedUse<'u> {
    upstream: &'u Upstream,
    id: u64,
}

impl Drop for ExpectedUse<'_> {
    fn drop(&mut self) {
        let Some(cause) = self.upstream.calls.lock().remove(&self.id) else { return };
        for question in cause.client.server_requests.end(self.id) {
            cause.withdraw(question);
        }
    }
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the MCP server {:?} of {}", &*self.server_key.server, self.server_key.instance)
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream").field("place", &self.server_key).finish_non_exhaustive()
    }
}

fn session_of(phase: &UpstreamPhase, after: u64) -> Option<Arc<UpstreamSession>> {
    match phase {
        UpstreamPhase::Ready(session) if session.number > after => Some(Arc::clone(session)),
        UpstreamPhase::Ready(_)
        | UpstreamPhase::Starting
        | UpstreamPhase::Down { .. }
        | UpstreamPhase::Dormant(_)
        | UpstreamPhase::Left { .. } => None,
    }
}

/// A server's own error, as a problem.
fn server_error(upstream: &Upstream, text: &str, error: Option<Span>) -> Problem {
    let message = || Object::parse(text, error?).ok()?.get("message")?.string(text);
    let message = message().unwrap_or_else(|| String::from("no reason given"));
    Problem::new(Code::ServerUnavailable, format!("{upstream} refused: {message}"))
}
