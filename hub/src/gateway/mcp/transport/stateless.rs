//! The door for requests of 2026-07-28.
//!
//! Owns what one of them comes to: a refusal, the hub's own answer, a stream of changes, or a call. There is no session:
//! its header is not looked at and never sent.
//! Invariant: what its client does not wait for any more is given up, unless it was told to come back for it.
//! Never: asks a client anything on its own.

use super::http::{BEFORE_THE_ANSWER, accepts};
use super::response;
use super::response::PendingResponse;
use crate::gateway::mcp::catalog::scope::Scope;
use crate::gateway::mcp::gateway::Gateway;
use crate::gateway::mcp::protocol::errors::{RpcError, success};
use crate::gateway::mcp::protocol::json::Object;
use crate::gateway::mcp::protocol::sse;
use crate::gateway::mcp::protocol::stateless::{REMOVED, RequestMeta};
use crate::gateway::mcp::protocol::{result, stateless};
use crate::gateway::mcp::relay::call::ClientRequest;
use crate::gateway::mcp::relay::discover;
use crate::gateway::mcp::relay::dispatch::{RequestContext, RequestHandler, release, subscribe};
use crate::gateway::mcp::relay::follow_tasks::{Following, follow};
use crate::gateway::mcp::session::client::Client;
use crate::gateway::mcp::session::eviction::MAX_SUBSCRIPTIONS;
use crate::gateway::mcp::session::pending_input::PendingInput;
use crate::gateway::mcp::session::store::{ListeningSession, SessionStore, StoreFull, fingerprints};
use crate::gateway::mcp::session::subscription::Subscription;
use crate::gateway::mcp::upstream::loop_guard;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use linchpin_shared::problem::{Code, Problem};
use linchpin_shared::protocol::mcp;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

/// Answers one request.
pub(crate) async fn answer(gateway: Arc<Gateway>, scope: Scope, headers: &HeaderMap, call: ClientRequest) -> Response {
    let may_stream = accepts(headers, "text/event-stream");
    let (id, method) = (call.id().to_owned(), call.method.clone());
    match begin(Arc::clone(&gateway), scope, headers, call).await {
        Ok(StartedRequest::Answer(response)) => response,
        Ok(StartedRequest::ClientRequest(held)) => {
            let (out, messages) = mpsc::channel(BEFORE_THE_ANSWER);
            let answer = async move {
                let name = format!("{:016x}{:016x}", getrandom::u64().ok()?, getrandom::u64().ok()?);
                let state = gateway.clients.key().seal_state(&name);
                held.go_on(&gateway.waiting, (name, state), out, &id, &method).await
            };
            PendingResponse::new(Box::pin(answer), messages).with_status(result::status).respond(may_stream).await
        }
        Err(error) => {
            let status = if error.is_unknown_method() { 404 } else { error.status() };
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
            response::json_with(status, error.response(&id))
        }
    }
}

/// What was made of a request that is good.
enum StartedRequest {
    /// The hub has answered it.
    Answer(Response),
    /// It is a call, or the next step of one.
    ClientRequest(PendingInput),
}

async fn begin(
    gateway: Arc<Gateway>,
    scope: Scope,
    headers: &HeaderMap,
    call: ClientRequest,
) -> Result<StartedRequest, RpcError> {
    let meta = stateless::check(headers, &call.text, &call.method, call.params)?;
    if REMOVED.contains(&call.method.as_str()) {
        return Err(RpcError::method_not_found(&call.method));
    }
    if call.method == "server/discover" {
        loop_guard::refuse(&call.text, call.params, &gateway.clients.key().hub_name())?;
        let found = discover::discover(&gateway, &scope).await?;
        return Ok(StartedRequest::Answer(response::json_with(StatusCode::OK, success(call.id(), &found))));
    }
    gateway.appears(&scope).await.map_err(RpcError::unknown)?;
    let kept = SessionStore::using(&gateway.clients, meta.capabilities);
    gateway.has_session_for(meta.capabilities).await;
    if call.method == "subscriptions/listen" {
        return listen(gateway, scope, &call, meta).await.map(StartedRequest::Answer);
    }
    if let Some(held) = taken_up(&gateway, &scope, &call)? {
        return Ok(StartedRequest::ClientRequest(held));
    }
    let about = about(&scope, &call);
    let seen = fingerprints(&gateway.catalog(meta.capabilities).view(&scope));
    let client = Arc::new(Client::of_request(scope, meta.capabilities, seen));
    let (out, messages) = mpsc::channel(BEFORE_THE_ANSWER);
    let over_stdio = headers.contains_key(mcp::OVER_STDIO);
    let context = RequestContext {
        level: meta.level,
        params: crate::gateway::mcp::protocol::headers::params(headers),
        tasks: meta.tasks,
        over_stdio,
    };
    let caller = RequestHandler { gateway, client: Arc::clone(&client), out, streams: true, context };
    let answer = Box::pin(async move { caller.answer(&call).await });
    Ok(StartedRequest::ClientRequest(PendingInput { answer, messages, client, about, _kept: kept, asked: None }))
}

/// The call that a request goes on with, if its state is ours.
fn taken_up(gateway: &Gateway, scope: &Scope, call: &ClientRequest) -> Result<Option<PendingInput>, RpcError> {
    let said = || Object::parse(&call.text, call.params?).ok()?.get("requestState")?.string(&call.text);
    let Some(state) = said() else { return Ok(None) };
    let Some(name) = gateway.clients.key().open_state(&state) else { return Ok(None) };
    let gone = "the call of this requestState is over: it was given up, taken up already, or of another request";
    let mut held = gateway.waiting.take(name, &about(scope, call)).ok_or_else(|| RpcError::invalid_params(gone))?;
    // Without its answer the question is asked again.
    held.hear(&call.text, call.params);
    Ok(Some(held))
}

/// What a call is about.
fn about(scope: &Scope, call: &ClientRequest) -> String {
    let params = call.params.and_then(|at| Object::parse(&call.text, at).ok());
    let of = |key: &str| params.as_ref().and_then(|params| params.get(key)).map_or("", |at| at.of(&call.text));
    [&scope.to_string(), &*call.method, of("name"), of("uri"), of("arguments")].join("\n")
}

/// A stream of changes.
async fn listen(
    gateway: Arc<Gateway>,
    scope: Scope,
    call: &ClientRequest,
    meta: RequestMeta,
) -> Result<Response, RpcError> {
    let wanted = Subscription::read(&call.text, call.id, call.params)
        .ok_or_else(|| RpcError::invalid_params("params.notifications must be an object"))?;
    if !wanted.tasks.is_empty() && !meta.tasks {
        return Err(RpcError::needs_tasks());
    }
    if wanted.uris.len().max(wanted.tasks.len()) > MAX_SUBSCRIPTIONS {
        return Err(RpcError::invalid_params(format!("more than {MAX_SUBSCRIPTIONS} resources or tasks")));
    }
    let place = gateway.stream_place()?;
    let asked = wanted.clone();
    // What a client saw before the hub was started again is not news.
    gateway.meets(&scope).await;
    let seen = fingerprints(&gateway.catalog(meta.capabilities).view(&scope));
    let id = format!("{:x}-{:x}", random()?, random()?);
    let client = Client::of_stream(id, scope, meta.capabilities, seen, wanted);
    let listening = SessionStore::listening(&gateway.clients, client).map_err(|StoreFull| {
        RpcError::on_the_way(Problem::new(Code::Overloaded, "the hub has too many sessions, all of them in use"))
    })?;
    let reader = listening.client.open_stream(seen);
    let stop = gateway.stop.clone();
    let following = follow(&gateway, &listening.client, &asked.tasks).await;
    let first = asked.acknowledgement(&following.agreed);
    let held = OpenRequest { listening, gateway, _following: following, _place: place };
    for uri in &asked.uris {
        subscribe(&held.gateway, &held.listening.client, uri).await;
    }
    Ok(response::stream(sse::encode(&first), reader, stop, held))
}

fn random() -> Result<u64, RpcError> {
    getrandom::u64().map_err(|error| {
        RpcError::on_the_way(Problem::new(Code::Internal, format!("the system has no randomness: {error}")))
    })
}

/// What ends with a stream.
struct OpenRequest {
    listening: ListeningSession,
    gateway: Arc<Gateway>,
    _following: Following,
    _place: OwnedSemaphorePermit,
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        let (gateway, client) = (Arc::clone(&self.gateway), Arc::clone(&self.listening.client));
        // Nobody waits for the backends to hear of it.
        tokio::spawn(async move { release(&gateway, &client).await });
    }
}
