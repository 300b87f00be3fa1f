//! The door for requests of 2026-07-28.
//!
//! Owns what one of them comes to: a refusal, the hub's own answer, a stream of changes, or a call. There is no session:
//! its header is not looked at and never sent.
//! Invariant: what its client does not wait for any more is given up. Never: asks a client anything on its own.

use super::answer::{self, Under};
use super::{BEFORE_THE_ANSWER, accepts};
use crate::gateway::mcp::Gateway;
use crate::gateway::mcp::abilities::Abilities;
use crate::gateway::mcp::calls::{Call, Caller, release, subscribe};
use crate::gateway::mcp::client::Client;
use crate::gateway::mcp::client::table::{Full, Listening, Table, prints};
use crate::gateway::mcp::errors::{RpcError, success};
use crate::gateway::mcp::modern::listen::Listen;
use crate::gateway::mcp::modern::{self, REMOVED, discover, result};
use crate::gateway::mcp::scope::Scope;
use crate::gateway::mcp::sse;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use linchpin_shared::problem::{Code, Problem};
use std::sync::Arc;
use tokio::sync::mpsc;

/// Answers one request.
pub(super) async fn answer(gateway: Arc<Gateway>, scope: Scope, headers: &HeaderMap, call: Call) -> Response {
    let may_stream = accepts(headers, "text/event-stream");
    match begin(gateway, scope, headers, &call).await {
        Ok(Begun::Answer(response)) => response,
        Ok(Begun::Call(gateway, client, level)) => {
            let (out, messages) = mpsc::channel(BEFORE_THE_ANSWER);
            let caller = Caller { gateway, client, out, streams: false, level };
            let answer = async move { Some(result::finished(caller.answer(&call).await?, &call.method)) };
            Under::way(Box::pin(answer), messages).with_status(result::status).respond(may_stream).await
        }
        Err(error) => {
            let status = if error.is_unknown_method() { 404 } else { error.status() };
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
            answer::json_with(status, error.response(call.id()))
        }
    }
}

/// What was made of a request that is good.
enum Begun {
    /// The hub has answered it.
    Answer(Response),
    /// It is a call of this client, which wants this to be logged.
    Call(Arc<Gateway>, Arc<Client>, Option<crate::gateway::mcp::level::Level>),
}

async fn begin(gateway: Arc<Gateway>, scope: Scope, headers: &HeaderMap, call: &Call) -> Result<Begun, RpcError> {
    let meta = modern::check(headers, &call.text, &call.method, call.params)?;
    if REMOVED.contains(&call.method.as_str()) {
        return Err(RpcError::method_not_found(&call.method));
    }
    if call.method == "server/discover" {
        let found = discover::discover(&gateway, &scope).await?;
        return Ok(Begun::Answer(answer::json_with(StatusCode::OK, success(call.id(), &found))));
    }
    gateway.appears(&scope).await.map_err(RpcError::unknown)?;
    if call.method == "subscriptions/listen" {
        return listen(gateway, scope, call).await.map(Begun::Answer);
    }
    let seen = prints(&gateway.board(Abilities::NONE).view(&scope));
    Ok(Begun::Call(gateway, Arc::new(Client::of_request(scope, seen)), meta.level))
}

/// A stream of changes.
async fn listen(gateway: Arc<Gateway>, scope: Scope, call: &Call) -> Result<Response, RpcError> {
    let wanted = Listen::read(&call.text, call.id, call.params)
        .ok_or_else(|| RpcError::invalid_params("params.notifications must be an object"))?;
    let (uris, acknowledgement) = (wanted.uris.clone(), wanted.acknowledgement());
    let seen = prints(&gateway.board(Abilities::NONE).view(&scope));
    let id = format!("{:x}-{:x}", random()?, random()?);
    let client = Client::of_stream(id, scope, seen, wanted);
    let listening = Table::listening(&gateway.clients, client).map_err(|Full| {
        RpcError::on_the_way(Problem::new(Code::Overloaded, "the hub has too many sessions, all of them in use"))
    })?;
    let reader = listening.client.open_stream(seen);
    let stop = gateway.stop.clone();
    let held = Held { listening, gateway };
    for uri in &uris {
        subscribe(&held.gateway, &held.listening.client, uri).await;
    }
    Ok(answer::stream(sse::encode(&acknowledgement), reader, stop, held))
}

fn random() -> Result<u64, RpcError> {
    getrandom::u64().map_err(|error| {
        RpcError::on_the_way(Problem::new(Code::Internal, format!("the system has no randomness: {error}")))
    })
}

/// What ends with a stream.
struct Held {
    listening: Listening,
    gateway: Arc<Gateway>,
}

impl Drop for Held {
    fn drop(&mut self) {
        let (gateway, client) = (Arc::clone(&self.gateway), Arc::clone(&self.listening.client));
        // Nobody waits for the backends to hear of it.
        tokio::spawn(async move { release(&gateway, &client).await });
    }
}
