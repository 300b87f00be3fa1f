//! What a session has to do besides serving calls.
//!
//! Owns the tasks of one session: following the server's messages, fetching lists, saying what has to be said again.
//! Invariant: a list is fetched by one task at a time; one that became stale meanwhile is fetched once more. However often
//! a server announces, asks or fails, what it causes here is bounded. All tasks end with the session, because dropping
//! [`SessionWork`] ends them.
//! Never: publishes anything; what was fetched goes to the actor.

use super::http_client::SendError;
use super::session::{Dialect, UpstreamSession};
use super::{Upstream, ask, fetch, listen};
use crate::gateway::mcp::catalog::list::List;
use crate::gateway::mcp::protocol::capabilities::SessionKind;
use crate::gateway::mcp::protocol::json::quote;
use crate::gateway::mcp::protocol::level::Level;
use crate::gateway::mcp::protocol::list_kind::ListChange;
use crate::gateway::mcp::protocol::list_kind::ListKind;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

/// After a list could not be fetched it is tried again: a server that fails at this needs no hurry, and ever less.
const RETRY: Duration = Duration::from_secs(5);

/// After a list came, an announcement that it changed waits so long, and twice as long after each failure: a server that
/// announces all the time is asked ten times a second at most.
const PAUSE: Duration = Duration::from_millis(100);

/// So often these double.
const MAX_DOUBLINGS: u32 = 6;

/// Requests of the server, outside of any call, that are being answered.
const MAX_ASKED: usize = 64;

/// How long the server may take for what it is told besides.
const TASK_NOTIFICATION: Duration = Duration::from_secs(30);

/// How it is with fetching one list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FetchState {
    No,
    Now,
    /// It is fetched now, and has become stale since that began.
    NowAndAgain(Duration),
}

/// What one task came to.
enum WorkDone {
    List(ListKind, Result<List, SendError>),
    /// The log level was told, or could not be.
    Level,
    /// A request of the server was answered.
    Asked,
    Other,
}

/// How it went with fetching one list.
#[derive(Debug, Clone, Copy, Default)]
struct PastFetches {
    failures: u32,
    ended: Option<Instant>,
}

impl PastFetches {
    fn doubled(self, delay: Duration) -> Duration {
        delay * 2_u32.pow(self.failures.min(MAX_DOUBLINGS))
    }

    /// How long an announcement has to wait.
    fn pause(self) -> Duration {
        self.ended.map_or(Duration::ZERO, |ended| self.doubled(PAUSE).saturating_sub(ended.elapsed()))
    }
}

/// The tasks of one session.
pub(super) struct SessionWork {
    upstream: Arc<Upstream>,
    session: Arc<UpstreamSession>,
    max_message: usize,
    fetching: [FetchState; 4],
    past: [PastFetches; 4],
    /// When the fetch of each list is due that waits.
    due: [watch::Sender<Instant>; 4],
    asked: usize,
    /// What the server was told, what it is to be told, and whether it is being told.
    level: Option<Level>,
    wanted: Option<Level>,
    telling: bool,
    tasks: JoinSet<WorkDone>,
}

impl SessionWork {
    /// Nothing to do yet.
    pub(super) fn new(upstream: Arc<Upstream>, session: Arc<UpstreamSession>, max_message: usize) -> Self {
        Self {
            upstream,
            session,
            max_message,
            fetching: [FetchState::No; 4],
            past: [PastFetches::default(); 4],
            due: std::array::from_fn(|_| watch::Sender::new(Instant::now())),
            asked: 0,
            level: None,
            wanted: None,
            telling: false,
            tasks: JoinSet::new(),
        }
    }

    /// Begins what every session needs: its messages, its lists, and its clients' subscriptions.
    pub(super) fn begin(&mut self) {
        let modern = self.session.dialect == Dialect::Stateless;
        // Of a server on stdio, its instance gives everything that it says.
        if !modern || self.upstream.server_key.session_kind == SessionKind::Shared {
            let (upstream, session) = (Arc::clone(&self.upstream), Arc::clone(&self.session));
            self.spawn(async move { listen::listen(&upstream, &session).await });
        }
        if self.session.dialect != Dialect::SessionBased {
            self.spawn(listen::subscribe(Arc::clone(&self.upstream), Arc::clone(&self.session)));
        }
        for kind in ListKind::ALL {
            self.fetch(kind, Duration::ZERO);
        }
        if modern {
            return;
        }
        let (upstream, session) = (Arc::clone(&self.upstream), Arc::clone(&self.session));
        // One after the other: there may be more than requests under way to an instance.
        self.spawn(async move {
            for uri in upstream.clients.subscribed(&upstream.server_key) {
                say(&upstream, &session, "resources/subscribe", &format!(r#"{{"uri":{}}}"#, quote(&uri))).await;
            }
        });
    }

    /// The server announces that a list changed.
    pub(super) fn stale(&mut self, topic: ListChange) {
        for kind in ListKind::ALL.into_iter().filter(|kind| kind.topic() == topic) {
            self.fetch(kind, self.past[kind.index()].pause());
        }
    }

    /// A client wants to know whether a list changed.
    pub(super) fn wanted(&mut self, topic: ListChange) {
        for kind in ListKind::ALL.into_iter().filter(|kind| kind.topic() == topic) {
            self.fetch(kind, Duration::ZERO);
        }
    }

    /// A list could not be fetched. Whether that is news.
    pub(super) fn again(&mut self, kind: ListKind) -> bool {
        let past = &mut self.past[kind.index()];
        let delay = past.doubled(RETRY);
        past.failures = past.failures.saturating_add(1);
        let news = past.failures == 1;
        self.fetch(kind, delay);
        news
    }

    /// A list came.
    pub(super) fn came(&mut self, kind: ListKind) {
        self.past[kind.index()].failures = 0;
    }

    /// What was fetched. None as long as there is nothing to wait for.
    pub(super) async fn fetched(&mut self) -> Option<(ListKind, Result<List, SendError>)> {
        loop {
            match self.tasks.join_next().await? {
                Ok(WorkDone::List(kind, fetched)) => return Some((kind, fetched)),
                Ok(WorkDone::Level) => {
                    self.telling = false;
                    self.tell_level();
                }
                Ok(WorkDone::Asked) => self.asked -= 1,
                Ok(WorkDone::Other) | Err(_) => {}
            }
        }
    }

    /// A list was fetched, or could not be.
    pub(super) fn done(&mut self, kind: ListKind) {
        self.past[kind.index()].ended = Some(Instant::now());
        if let FetchState::NowAndAgain(delay) = std::mem::replace(&mut self.fetching[kind.index()], FetchState::No) {
            self.fetch(kind, delay.max(self.past[kind.index()].pause()));
        }
    }

    /// Asks for this log level, if the server logs and was not asked for it yet.
    pub(super) fn set_level(&mut self, level: Option<Level>) {
        // In 2026-07-28 each request says its own.
        let asks = self.session.dialect != Dialect::Stateless && self.session.about.offers("logging");
        self.wanted = level.filter(|_| asks);
        self.tell_level();
    }

    /// One at a time, however often clients change what they want.
    fn tell_level(&mut self) {
        let Some(wanted) = self.wanted.filter(|_| !self.telling && self.wanted != self.level) else { return };
        (self.level, self.telling) = (self.wanted, true);
        let (upstream, session) = (Arc::clone(&self.upstream), Arc::clone(&self.session));
        self.tasks.spawn(async move {
            say(&upstream, &session, "logging/setLevel", &format!(r#"{{"level":"{}"}}"#, wanted.as_str())).await;
            WorkDone::Level
        });
    }

    /// Has a request of the server answered that did not come on the stream of a call. Who asks more at once than it could
    /// be answered is not answered.
    pub(super) fn asked(&mut self, text: String) {
        if self.asked >= MAX_ASKED {
            return;
        }
        self.asked += 1;
        let (upstream, session) = (Arc::clone(&self.upstream), Arc::clone(&self.session));
        self.tasks.spawn(async move {
            ask::answer(upstream, session, text, None).await;
            WorkDone::Asked
        });
    }

    fn fetch(&mut self, kind: ListKind, delay: Duration) {
        let (fetching, due) = (&mut self.fetching[kind.index()], &self.due[kind.index()]);
        let (now, at) = (Instant::now(), Instant::now() + delay);
        if *fetching != FetchState::No {
            let waits = due.send_if_modified(|due| *due > now && at < std::mem::replace(due, at.min(*due)));
            if !waits && *due.borrow() <= now {
                *fetching = FetchState::NowAndAgain(delay);
            }
            return;
        }
        *fetching = FetchState::Now;
        due.send_replace(at);
        let (mut due, max) = (due.subscribe(), self.max_message);
        let (upstream, session) = (Arc::clone(&self.upstream), Arc::clone(&self.session));
        self.tasks.spawn(async move {
            is_due(&mut due).await;
            WorkDone::List(kind, fetch::fetch(&upstream, &session, kind, max).await)
        });
    }

    fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(async move {
            task.await;
            WorkDone::Other
        });
    }
}

/// Waits until this time, which may become an earlier one.
async fn is_due(due: &mut watch::Receiver<Instant>) {
    loop {
        let at = *due.borrow_and_update();
        tokio::select! {
            () = tokio::time::sleep_until(at) => return,
            // Its sender is there as long as this task.
            Ok(()) = due.changed() => {}
        }
    }
}

/// Sends a request of which only the failure is of interest.
async fn say(upstream: &Upstream, session: &UpstreamSession, method: &str, params: &str) {
    match timeout(TASK_NOTIFICATION, upstream.ask(session, method, params)).await {
        Ok(Ok(_)) => {}
        Ok(Err(broken)) => {
            tracing::warn!(server = %upstream, method, why = %broken.into_problem().detail, "a request failed");
        }
        Err(_elapsed) => tracing::warn!(server = %upstream, method, "a request was not answered"),
    }
}
