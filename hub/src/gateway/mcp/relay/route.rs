//! Which backend a request is for.
//!
//! Owns [`Routed`] and the waiting that is part of looking a name up: a hub that has just started does not know its
//! instances yet, an instance that has just come has not given its lists yet, and a list may have changed unannounced.
//! Invariant: where several backends stand together, "unknown" is said only of a name that is in no list that could be
//! got in time. Where there is only one, it is asked itself.

use super::dispatch::RequestHandler;
use crate::gateway::mcp::catalog::list::CallHints;
use crate::gateway::mcp::catalog::naming;
use crate::gateway::mcp::catalog::resolve::Lookup;
use crate::gateway::mcp::protocol::errors::RpcError;
use crate::gateway::mcp::protocol::json::{Span, quote};
use crate::gateway::mcp::protocol::list_kind::ListKind;
use crate::gateway::mcp::upstream::Upstream;
use crate::gateway::mcp::upstream::pool::ServerCatalog;
use futures_util::future::join_all;
use linchpin_shared::problem::{Code, Problem};
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// How long a server that is up may take to list what it has, before what is known counts.
const REFRESH: Duration = Duration::from_secs(1);

/// Where a name leads.
#[derive(Debug, Clone)]
pub(crate) struct Routed {
    /// The backend.
    pub(crate) upstream: Arc<Upstream>,
    /// How it may be called there.
    pub(crate) hints: CallHints,
    /// Its name there.
    pub(crate) name: String,
}

impl Routed {
    /// A name that is in no list, where only one backend can be meant: what it is, is that backend's to say.
    fn unlisted(upstream: &Arc<Upstream>, name: &str) -> Self {
        Self { upstream: Arc::clone(upstream), hints: CallHints::default(), name: name.to_owned() }
    }

    /// The edit that puts the backend's name in the place of the client's, if they differ.
    pub(crate) fn rename(&self, at: Span, name: &str) -> Option<(Span, Cow<'static, str>)> {
        (self.name != name).then(|| (at, Cow::Owned(quote(&self.name))))
    }
}

/// What to do about a lookup.
enum RouteStep {
    Go(Routed),
    /// Wait for lists of these.
    Wait(Vec<Arc<Upstream>>),
    /// Ask these whether they have it now.
    Ask(Vec<Arc<Upstream>>),
    /// Nothing: this rule hides it.
    Refuse(String),
}

impl RequestHandler {
    /// The backend that offers this tool or prompt.
    pub(crate) async fn route(&self, kind: ListKind, name: &str) -> Result<Routed, RpcError> {
        let mut catalogs = self.gateway.catalogs();
        let deadline = Instant::now() + self.gateway.wait;
        let mut asked = false;
        loop {
            catalogs.mark_unchanged();
            let catalog =
                if asked { Arc::new(self.gateway.fresh_catalog(self.client.session_kind())) } else { self.catalog() };
            let view = catalog.view(&self.client.scope);
            let until = match (step(view.resolve(kind, name)), view.single()) {
                (RouteStep::Go(routed), _) => return Ok(routed),
                (RouteStep::Refuse(rule), _) => return Err(hidden(kind, name, &rule)),
                (RouteStep::Wait(_) | RouteStep::Ask(_), Some(only)) => return Ok(Routed::unlisted(only, name)),
                (RouteStep::Wait(upstreams), None) if is_dormant(&upstreams) => {
                    ensure_started(&upstreams, deadline).await?;
                    continue;
                }
                (RouteStep::Wait(_), None) => deadline,
                (RouteStep::Ask(upstreams), None) if upstreams.is_empty() => {
                    self.gateway.first_instances_by(&self.client.scope)
                }
                (RouteStep::Ask(upstreams), None) if !asked => {
                    asked = true;
                    ensure_started(&upstreams, deadline).await?;
                    refresh(&upstreams, kind).await;
                    continue;
                }
                (RouteStep::Ask(_), None) => return Err(self.unknown(&catalog, kind, name)),
            };
            if !matches!(timeout_at(until, catalogs.changed()).await, Ok(Ok(()))) {
                return Err(self.given_up(kind, name).await);
            }
        }
    }

    /// The backend that offers this resource template, or the first that may know it.
    pub(crate) async fn template(&self, template: &str) -> Result<Arc<Upstream>, RpcError> {
        self.settle(ListKind::Templates).await;
        let catalog = self.catalog();
        let view = catalog.view(&self.client.scope);
        let upstream = view.template(template).or_else(|| view.resource(template).into_iter().next());
        upstream.cloned().ok_or_else(|| self.unknown(&catalog, ListKind::Templates, template))
    }

    /// Waiting was in vain: because lists are still missing, or because nobody has the name.
    async fn given_up(&self, kind: ListKind, name: &str) -> RpcError {
        let catalog = self.catalog();
        match step(catalog.view(&self.client.scope).resolve(kind, name)) {
            RouteStep::Wait(upstreams) => self.not_listed(&upstreams).await,
            RouteStep::Refuse(rule) => hidden(kind, name, &rule),
            RouteStep::Go(_) | RouteStep::Ask(_) => self.unknown(&catalog, kind, name),
        }
    }

    /// The lists of these are not known, so nothing can be said about a name.
    async fn not_listed(&self, upstreams: &[Arc<Upstream>]) -> RpcError {
        for upstream in upstreams {
            if let Err(problem) = upstream.ready(0, Instant::now()).await {
                return RpcError::on_the_way(problem);
            }
        }
        let detail = "the server that this name belongs to did not give its lists in time";
        RpcError::on_the_way(Problem::new(Code::ServerUnavailable, detail).next("try again in a moment"))
    }

    /// There is nothing of this name.
    pub(crate) fn unknown(&self, catalog: &ServerCatalog, kind: ListKind, name: &str) -> RpcError {
        let view = catalog.view(&self.client.scope);
        if let Some(instance) = self.client.scope.instance().filter(|_| view.backends().next().is_none()) {
            return RpcError::on_the_way(self.gateway.no_instance(instance));
        }
        if let Some(rule) = view.hidden(name).filter(|_| kind.is_by_uri()) {
            return hidden(kind, name, &rule);
        }
        let what = word(kind);
        let known = view.names(kind);
        let near = naming::nearest(name, known.iter().map(String::as_str));
        let mut detail = format!("no {what} is called {name:?}");
        if let Some(best) = near.first() {
            detail.push_str(&format!("; did you mean {best:?}?"));
        }
        let mut problem = Problem::new(Code::UnknownTool, detail).seen("known", known.len());
        if !near.is_empty() {
            problem = problem.seen("near", near);
        }
        problem = problem.next(format!("ask for {} and use a name from it", kind.method())).next("linchpin tools");
        match kind {
            ListKind::Tools | ListKind::Prompts => RpcError::unknown(problem),
            ListKind::Resources | ListKind::Templates => RpcError::unknown_resource(problem),
        }
    }
}

fn is_dormant(upstreams: &[Arc<Upstream>]) -> bool {
    upstreams.iter().any(|upstream| upstream.is_dormant())
}

/// Waits until those of them that were dormant are there.
async fn ensure_started(upstreams: &[Arc<Upstream>], deadline: Instant) -> Result<(), RpcError> {
    for upstream in upstreams.iter().filter(|upstream| upstream.is_dormant()) {
        upstream.ready(0, deadline).await.map_err(RpcError::on_the_way)?;
    }
    Ok(())
}

/// What a person calls one of these.
const fn word(kind: ListKind) -> &'static str {
    match kind {
        ListKind::Tools => "tool",
        ListKind::Prompts => "prompt",
        ListKind::Resources | ListKind::Templates => "resource",
    }
}

/// A rule hides this, whether it exists or not.
pub(crate) fn hidden(kind: ListKind, name: &str, rule: &str) -> RpcError {
    let detail = format!("the {} {name:?} is hidden: {rule}", word(kind));
    let problem = Problem::new(Code::UnknownTool, detail)
        .next(
            "a person can change what this connection shows: `only`, `except` and `project` of its address, or the \
               flags of linchpin mcp",
        )
        .next("or what every connection shows: linchpin config show --origin");
    if kind.is_by_uri() { RpcError::unknown_resource(problem) } else { RpcError::unknown(problem) }
}

/// Asks these for a list again, those of them that are there.
pub(crate) async fn refresh(upstreams: &[Arc<Upstream>], kind: ListKind) {
    let there = upstreams.iter().filter(|upstream| upstream.session().is_some());
    let deadline = Instant::now() + REFRESH;
    join_all(there.map(|upstream| upstream.refresh(kind, deadline))).await;
}

fn step(lookup: Lookup<'_, Arc<Upstream>>) -> RouteStep {
    let owned = |backends: Vec<&Arc<Upstream>>| backends.into_iter().cloned().collect();
    match lookup {
        Lookup::Found { backend, name, hints } => {
            RouteStep::Go(Routed { upstream: Arc::clone(backend), hints: hints.clone(), name: name.to_owned() })
        }
        Lookup::Unlisted(backends) => RouteStep::Wait(owned(backends)),
        Lookup::Hidden(rule) => RouteStep::Refuse(rule),
        Lookup::Missing(backends) => RouteStep::Ask(owned(backends)),
    }
}
