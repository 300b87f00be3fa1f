//! What a session has to do besides serving calls.
//!
//! Owns the tasks of one session: following the server's messages, fetching lists, saying what has to be said again.
//! Invariant: a list is fetched by one task at a time; one that became stale meanwhile is fetched once more. All tasks
//! end with the session, because dropping [`Work`] ends them.
//! Never: publishes anything; what was fetched goes to the actor.

use super::session::Session;
use super::wire::Broken;
use super::{Upstream, ask, fetch, listen};
use crate::gateway::mcp::abilities::Lane;
use crate::gateway::mcp::catalog::list::{Kind, List};
use crate::gateway::mcp::client::Topic;
use crate::gateway::mcp::json::quote;
use crate::gateway::mcp::level::Level;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// After a list could not be fetched it is tried again: a server that fails at this needs no hurry.
const RETRY: Duration = Duration::from_secs(5);

/// How it is with fetching one list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fetching {
    No,
    Now,
    /// It is fetched now, and has become stale since that began.
    NowAndAgain(Duration),
}

/// What one task came to.
type Done = Option<(Kind, Result<List, Broken>)>;

/// The tasks of one session.
pub(super) struct Work {
    upstream: Arc<Upstream>,
    session: Arc<Session>,
    max_message: usize,
    fetching: [Fetching; 4],
    level: Option<Level>,
    tasks: JoinSet<Done>,
}

impl Work {
    /// Nothing to do yet.
    pub(super) fn new(upstream: Arc<Upstream>, session: Arc<Session>, max_message: usize) -> Self {
        Self { upstream, session, max_message, fetching: [Fetching::No; 4], level: None, tasks: JoinSet::new() }
    }

    /// Begins what every session needs: its messages, its lists, and its clients' subscriptions.
    pub(super) fn begin(&mut self) {
        let (upstream, session) = (Arc::clone(&self.upstream), Arc::clone(&self.session));
        self.spawn(async move { listen::listen(&upstream, &session).await });
        // A server on stdio has one stream for everything.
        if self.session.modern && self.upstream.place.lane != Lane::Shared {
            let (upstream, session) = (Arc::clone(&self.upstream), Arc::clone(&self.session));
            self.spawn(async move { listen::subscribe(&upstream, &session).await });
        }
        for kind in Kind::ALL {
            self.fetch(kind, Duration::ZERO);
        }
        for uri in self.upstream.clients.subscribed(&self.upstream.place) {
            self.say("resources/subscribe", format!(r#"{{"uri":{}}}"#, quote(&uri)));
        }
    }

    /// A list may have changed.
    pub(super) fn stale(&mut self, topic: Topic) {
        for kind in Kind::ALL.into_iter().filter(|kind| kind.topic() == topic) {
            self.fetch(kind, Duration::ZERO);
        }
    }

    /// A list could not be fetched.
    pub(super) fn again(&mut self, kind: Kind) {
        self.fetch(kind, RETRY);
    }

    /// What was fetched. None as long as there is nothing to wait for.
    pub(super) async fn fetched(&mut self) -> Option<(Kind, Result<List, Broken>)> {
        loop {
            if let Ok(Some(done)) = self.tasks.join_next().await? {
                return Some(done);
            }
        }
    }

    /// A list was fetched, or could not be.
    pub(super) fn done(&mut self, kind: Kind) {
        if let Fetching::NowAndAgain(delay) = std::mem::replace(&mut self.fetching[kind.index()], Fetching::No) {
            self.fetch(kind, delay);
        }
    }

    /// Asks for this log level, if the server logs and was not asked for it yet.
    pub(super) fn set_level(&mut self, level: Option<Level>) {
        if let Some(wanted) = level.filter(|_| level != self.level && self.session.about.offers("logging")) {
            self.level = level;
            self.say("logging/setLevel", format!(r#"{{"level":"{}"}}"#, wanted.as_str()));
        }
    }

    /// Has a request of the server answered that did not come on the stream of a call.
    pub(super) fn asked(&mut self, text: String) {
        let (upstream, session) = (Arc::clone(&self.upstream), Arc::clone(&self.session));
        self.spawn(async move { ask::answer(upstream, session, text, None).await });
    }

    /// Sends a request of which only the failure is of interest.
    fn say(&mut self, method: &'static str, params: String) {
        let (upstream, session) = (Arc::clone(&self.upstream), Arc::clone(&self.session));
        self.spawn(async move {
            if let Err(broken) = upstream.ask(&session, method, &params).await {
                tracing::warn!(server = %upstream, method, why = %broken.into_problem().detail, "a request failed");
            }
        });
    }

    fn fetch(&mut self, kind: Kind, delay: Duration) {
        let fetching = &mut self.fetching[kind.index()];
        if *fetching != Fetching::No {
            *fetching = Fetching::NowAndAgain(delay);
            return;
        }
        *fetching = Fetching::Now;
        let (upstream, session, max) = (Arc::clone(&self.upstream), Arc::clone(&self.session), self.max_message);
        self.tasks.spawn(async move {
            tokio::time::sleep(delay).await;
            Some((kind, fetch::fetch(&upstream, &session, kind, max).await))
        });
    }

    fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(async move {
            task.await;
            None
        });
    }
}
