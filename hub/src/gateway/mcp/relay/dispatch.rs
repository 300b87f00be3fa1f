//! What a client's request comes to.
//!
//! Owns [`RequestHandler`], who answers one client's requests: each method has its own small part, [`super::list`] and [`super::initialize`] for
//! what the hub answers itself, [`super::route`] and [`super::forward`] for what a backend answers, [`super::resources`] for URIs, [`super::tasks`] for tasks.
//! Invariant: a request gets exactly one answer, or none if its client cancelled it; and an error is always an error.
//! Never: holds a lock, or a lookup's borrow, across an await.

pub(crate) use super::resources::{notify_all, release, subscribe};

use super::call::{ClientRequest, RequestReply};
use super::forward::Relay;
use super::route::Routed;
use crate::gateway::mcp::builtin::BuiltinTool;
use crate::gateway::mcp::catalog::list::CallHints;
pub(crate) use crate::gateway::mcp::gateway::Gateway;
use crate::gateway::mcp::protocol::errors::{RpcError, success};
use crate::gateway::mcp::protocol::level::Level;
use crate::gateway::mcp::protocol::list_kind::ListKind;
use crate::gateway::mcp::session::client::Client;
use crate::gateway::mcp::session::in_flight::{InFlightEntry, TooManyInFlight};
use crate::gateway::mcp::upstream::pool::ServerCatalog;
use http::HeaderMap;
use linchpin_shared::problem::{Code, Problem};
use std::future::Future;
use std::sync::Arc;
use tokio::sync::mpsc;

/// What a request of 2026-07-28 says beside its message.
#[derive(Debug, Default)]
pub(crate) struct RequestContext {
    /// From which level on its client wants to see what is logged meanwhile.
    pub(crate) level: Option<Level>,
    /// Its headers that repeat arguments of a tool.
    pub(crate) params: HeaderMap,
    /// Whether its client knows tasks.
    pub(crate) tasks: bool,
    /// Whether it came over stdio, where no headers are.
    pub(crate) over_stdio: bool,
}

/// Answers one client's requests.
#[derive(Debug)]
pub(crate) struct RequestHandler {
    /// The gateway.
    pub(crate) gateway: Arc<Gateway>,
    /// The client.
    pub(crate) client: Arc<Client>,
    /// Where the messages go that belong to the request but are not its answer.
    pub(crate) out: mpsc::Sender<String>,
    /// Whether the client reads what it is asked there.
    pub(crate) streams: bool,
    /// What a request without session says beside its message.
    pub(crate) context: RequestContext,
}

impl RequestHandler {
    /// The board of clients that can do what this one can.
    pub(crate) fn catalog(&self) -> Arc<ServerCatalog> {
        self.gateway.catalog(self.client.session_kind())
    }

    /// Waits for a list of all that the client sees.
    pub(crate) async fn settle(&self, kind: ListKind) {
        self.gateway.settle(self.client.session_kind(), &self.client.scope, kind).await;
    }

    /// The response; none if the client cancelled the request.
    pub(crate) async fn answer(&self, call: &ClientRequest) -> Option<String> {
        let reply = match self.client.in_flight.begin(call.id()) {
            Ok(mut entry) => self.dispatch(call, &mut entry).await,
            Err(TooManyInFlight) => Err(RpcError::on_the_way(
                Problem::new(Code::Overloaded, "this session has too many requests under way")
                    .next("wait for some of them"),
            )),
        };
        match reply {
            Ok(RequestReply::Result(result)) => Some(success(call.id(), &result)),
            Ok(RequestReply::Response(response)) => Some(response),
            Ok(RequestReply::Cancelled) => None,
            Err(error) => Some(error.response(call.id())),
        }
    }

    async fn dispatch(&self, call: &ClientRequest, entry: &mut InFlightEntry) -> Result<RequestReply, RpcError> {
        if let Some(kind) = ListKind::of_method(&call.method) {
            return Ok(unless_cancelled(entry, self.list(call, kind)).await?.unwrap_or(RequestReply::Cancelled));
        }
        match call.method.as_str() {
            "ping" => Ok(RequestReply::nothing()),
            "tools/call" => Box::pin(self.by_name(call, ListKind::Tools, entry)).await,
            "prompts/get" => Box::pin(self.by_name(call, ListKind::Prompts, entry)).await,
            "resources/read" => Box::pin(self.read(call, entry)).await,
            "resources/subscribe" => Box::pin(self.subscribe(call, entry)).await,
            "resources/unsubscribe" => Box::pin(self.unsubscribe(call, entry)).await,
            "completion/complete" => Box::pin(self.complete(call, entry)).await,
            "logging/setLevel" => self.set_level(call),
            "tasks/list" => Box::pin(self.task_list(call, entry)).await,
            "tasks/get" | "tasks/result" | "tasks/update" | "tasks/cancel" => Box::pin(self.task(call, entry)).await,
            _ => Box::pin(self.anything_else(call, entry)).await,
        }
    }

    /// `tools/call` and `prompts/get`: to the backend that offers the name.
    async fn by_name(
        &self,
        call: &ClientRequest,
        kind: ListKind,
        entry: &mut InFlightEntry,
    ) -> Result<RequestReply, RpcError> {
        let (at, name) = call.string("name")?;
        if let Some(own) = BuiltinTool::find(kind, &self.client.scope, &name) {
            return Box::pin(self.own(call, own?, entry)).await;
        }
        let Some(routed) = unless_cancelled(entry, self.route(kind, &name)).await? else {
            return Ok(RequestReply::Cancelled);
        };
        let arguments = call.params()?.and_then(|params| params.get("arguments"));
        self.check_headers(&routed, arguments.map_or("{}", |at| at.of(&call.text)))?;
        let edits = routed.rename(at, &name).into_iter().collect();
        let repeatable = kind == ListKind::Prompts || routed.hints.repeatable;
        let routed = Routed { hints: CallHints { repeatable, ..routed.hints }, ..routed };
        self.called(call, &routed, edits, arguments.map_or("{}", |at| at.of(&call.text)), entry).await
    }

    /// Holds the headers of a request against its arguments. One that comes over stdio has none that could be wrong.
    pub(super) fn check_headers(&self, routed: &Routed, arguments: &str) -> Result<(), RpcError> {
        let param_headers =
            routed.hints.param_headers.as_ref().filter(|_| self.client.is_stateless() && !self.context.over_stdio);
        let Some(param_headers) = param_headers else { return Ok(()) };
        param_headers.check(&self.context.params, arguments).map_err(|why| RpcError::header_mismatch(&why))
    }

    /// `completion/complete`: to the backend that offers what is referred to.
    async fn complete(&self, call: &ClientRequest, entry: &mut InFlightEntry) -> Result<RequestReply, RpcError> {
        let wrong = |what: &str| RpcError::invalid_params(format!("params.ref.{what}"));
        let params = call.params()?.ok_or_else(|| wrong("type is missing"))?;
        let reference =
            params.object(&call.text, "ref").map_err(|error| RpcError::invalid_params(error.to_string()))?;
        let member = |key: &str| {
            let at = reference.as_ref()?.get(key)?;
            Some((at, at.string(&call.text)?))
        };
        match member("type").as_ref().map(|(_, kind)| kind.as_str()) {
            Some("ref/prompt") => {
                let (at, name) = member("name").ok_or_else(|| wrong("name must be a string"))?;
                let routed = unless_cancelled(entry, self.route(ListKind::Prompts, &name)).await?;
                let Some(routed) = routed else { return Ok(RequestReply::Cancelled) };
                let edits = routed.rename(at, &name).into_iter().collect();
                Relay::new(self, call, &routed.upstream, edits, true)?.run(entry).await
            }
            Some("ref/resource") => {
                let (_, uri) = member("uri").ok_or_else(|| wrong("uri must be a string"))?;
                if self.is_own(&uri) {
                    return self.own_completion(call, &uri);
                }
                let upstream = unless_cancelled(entry, self.template(&uri)).await?;
                let Some(upstream) = upstream else { return Ok(RequestReply::Cancelled) };
                Relay::new(self, call, &upstream, Vec::new(), true)?.run(entry).await
            }
            Some(_) | None => Err(wrong("type must be ref/prompt or ref/resource")),
        }
    }

    fn set_level(&self, call: &ClientRequest) -> Result<RequestReply, RpcError> {
        let (_, name) = call.string("level")?;
        let level = Level::parse(&name)
            .ok_or_else(|| RpcError::invalid_params(format!("params.level {name:?} is not a log level")))?;
        self.gateway.clients.set_level(&self.client, level);
        Ok(RequestReply::nothing())
    }

    /// A method that we do not know: to the backend, where there is only one that it can be meant for.
    async fn anything_else(&self, call: &ClientRequest, entry: &mut InFlightEntry) -> Result<RequestReply, RpcError> {
        let likely_permanent = async {
            self.settle(ListKind::Tools).await;
            Ok(())
        };
        let Some(()) = unless_cancelled(entry, likely_permanent).await? else { return Ok(RequestReply::Cancelled) };
        let catalog = self.catalog();
        let single = catalog.view(&self.client.scope).single().cloned();
        let upstream = single.ok_or_else(|| RpcError::method_not_found(&call.method))?;
        Relay::new(self, call, &upstream, Vec::new(), false)?.run(entry).await
    }
}

/// What `work` comes to; none if the client cancels the request before.
pub(crate) async fn unless_cancelled<T>(
    entry: &mut InFlightEntry,
    work: impl Future<Output = Result<T, RpcError>>,
) -> Result<Option<T>, RpcError> {
    tokio::select! {
        done = work => done.map(Some),
        _ = entry.cancelled() => Ok(None),
    }
}
