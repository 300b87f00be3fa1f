//! Streamable HTTP towards agents: the transport rules of MCP 2025-11-25 and its predecessors. [`super::stateless`] has
//! the rules of 2026-07-28, at the same addresses.
//!
//! It serves `/mcp`, `/i/NAME/mcp` and `/i/NAME/SERVER/mcp`: one JSON-RPC message per POST, a stream per GET, and the end of
//! a session per DELETE. The guard checks Host, Origin and the token before. A request that is refused is refused before
//! any of it is executed, with a JSON-RPC error that carries a problem. Apart from `initialize`, the content of messages is
//! not looked at here.

use crate::gateway::mcp::buffers::{BudgetExceeded, BufferPermit, MessageBudget};
use crate::gateway::mcp::catalog::scope::{Scope, ScopePath};
use crate::gateway::mcp::gateway::Gateway;
use crate::gateway::mcp::protocol::envelope::Envelope;
use crate::gateway::mcp::protocol::errors::{RpcError, success};
use crate::gateway::mcp::protocol::json::{Object, Span};
use crate::gateway::mcp::protocol::sse;
use crate::gateway::mcp::protocol::stateless::{VERSION, is as is_stateless};
use crate::gateway::mcp::protocol::version::Version;
use crate::gateway::mcp::relay::call::ClientRequest;
use crate::gateway::mcp::relay::dispatch::{RequestContext, RequestHandler, notify_all, release};
use crate::gateway::mcp::relay::initialize;
use crate::gateway::mcp::session::client::Client;
use crate::gateway::mcp::session::replay::StreamPosition;
use crate::gateway::mcp::session::server_requests::ClientReply;
use crate::gateway::mcp::session::store::{FoundSession, fingerprints};
use crate::http::routes::RouteTable;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderName, HeaderValue};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt;
use linchpin_shared::problem::{Code, Problem};
use linchpin_shared::protocol::mcp;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Messages of a request that wait for its stream, beyond which the backend is held up.
pub(super) const BEFORE_THE_ANSWER: usize = 16;

/// The addresses of the gateway. The guard is put around them by who serves them.
#[must_use]
pub fn routes() -> RouteTable<Arc<Gateway>> {
    let methods = [Method::POST, Method::GET, Method::DELETE];
    RouteTable::new()
        .any("/mcp", &methods, |State(gateway), request| serve(gateway, ScopePath::All, request))
        .any("/i/{name}/mcp", &methods, |State(gateway), Path(name): Path<String>, request| {
            serve(gateway, ScopePath::Instance(name.into()), request)
        })
        .any(
            "/i/{name}/{server}/mcp",
            &methods,
            |State(gateway), Path((name, server)): Path<(String, String)>, request| {
                serve(gateway, ScopePath::Server(name.into(), server.into()), request)
            },
        )
}

/// A message that is refused: the HTTP status, and the error in its body.
type Rejection = (StatusCode, RpcError);

async fn serve(gateway: Arc<Gateway>, part: ScopePath, request: Request) -> Response {
    let (head, body) = request.into_parts();
    if header(&head.headers, &HeaderName::from_static(mcp::VERSION)) == VERSION && head.method != Method::POST {
        return (StatusCode::METHOD_NOT_ALLOWED, [(ALLOW, "POST")]).into_response();
    }
    let scope = match gateway.scope(part, head.uri.query()) {
        Ok(scope) => scope,
        Err(problem) => {
            let refusal = RpcError::on_the_way(problem).response("null");
            return super::response::json_with(StatusCode::BAD_REQUEST, refusal);
        }
    };
    let served = match head.method {
        Method::POST => post(gateway, scope, &head.headers, body).await,
        Method::GET => listen(&gateway, &scope, &head.headers),
        Method::DELETE => end(gateway, &scope, &head.headers),
        _ => return (StatusCode::METHOD_NOT_ALLOWED, [(ALLOW, "GET, POST, DELETE")]).into_response(),
    };
    served.unwrap_or_else(|(status, error)| super::response::json_with(status, error.response("null")))
}

async fn post(gateway: Arc<Gateway>, scope: Scope, headers: &HeaderMap, body: Body) -> Result<Response, Rejection> {
    if !header(headers, &CONTENT_TYPE).to_ascii_lowercase().starts_with("application/json") {
        let problem = Problem::new(Code::BadRequest, "the body of a POST must be application/json");
        return Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, RpcError::on_the_way(problem)));
    }
    let (text, held) = arrives(body, &gateway).await?;
    let envelope = Envelope::parse(&text).map_err(|error| refused(RpcError::from(&error)))?;
    let modern = |params: &Option<Span>| is_stateless(headers, &text, *params);
    match envelope {
        Envelope::Request { id, method, params } if modern(&params) => Ok(super::stateless::answer(
            gateway,
            scope,
            headers,
            ClientRequest { text, id, method, params, _held: Some(held) },
        )
        .await),
        Envelope::Request { id, method, params } if method == "initialize" => {
            Ok(initialize(&gateway, scope, &text, id, params).await)
        }
        // Nothing of this version waits for a notification.
        Envelope::Notification { params, .. } if modern(&params) => Ok(StatusCode::ACCEPTED.into_response()),
        Envelope::Request { .. } | Envelope::Notification { .. } | Envelope::Response { .. } => {
            in_session(gateway, &scope, headers, (text, held), envelope).await
        }
    }
}

/// A message of a client that has a session.
async fn in_session(
    gateway: Arc<Gateway>,
    scope: &Scope,
    headers: &HeaderMap,
    (text, held): (String, BufferPermit),
    envelope: Envelope,
) -> Result<Response, Rejection> {
    let client = client(&gateway, scope, headers)?;
    gateway.has_session_for(client.capabilities).await;
    match envelope {
        Envelope::Request { id, method, params } => {
            let call = ClientRequest { text, id, method, params, _held: Some(held) };
            let id = call.id().to_owned();
            let (out, messages) = mpsc::channel(BEFORE_THE_ANSWER);
            let may_stream = accepts(headers, "text/event-stream");
            let caller = RequestHandler {
                gateway,
                client: Arc::clone(&client),
                out,
                streams: may_stream,
                context: RequestContext::default(),
            };
            let answer = Box::pin(async move { caller.answer(&call).await });
            Ok(super::response::PendingResponse::new(answer, messages).resumable(&client, id).respond(may_stream).await)
        }
        Envelope::Notification { method, params } => {
            notified(&gateway, &client, text, &method, params);
            Ok(StatusCode::ACCEPTED.into_response())
        }
        Envelope::Response { id, .. } => {
            let id = id.of(&text).to_owned();
            client.server_requests.say(&id, ClientReply::Answer(text));
            Ok(StatusCode::ACCEPTED.into_response())
        }
    }
}

async fn initialize(gateway: &Gateway, scope: Scope, text: &str, id: Span, params: Option<Span>) -> Response {
    let id = id.of(text);
    match initialize::begin(gateway, scope, text, params).await {
        Ok((client, result)) => {
            let mut response = super::response::json_with(StatusCode::OK, success(id, &result));
            // An id is made of letters, digits, hyphens, underscores and dots.
            if let Ok(value) = HeaderValue::from_str(&client.id) {
                response.headers_mut().insert(HeaderName::from_static(mcp::SESSION), value);
            }
            response
        }
        Err(error) => super::response::json_with(refused(error.clone()).0, error.response(id)),
    }
}

/// A notification of a client.
fn notified(gateway: &Arc<Gateway>, client: &Arc<Client>, text: String, method: &str, params: Option<Span>) {
    let param = |key: &str| Some(Object::parse(&text, params?).ok()?.get(key)?.of(&text).to_owned());
    match method {
        "notifications/cancelled" => {
            if let Some(request) = param("requestId") {
                client.in_flight.cancel(&request, text);
            }
        }
        "notifications/progress" => {
            if let Some(token) = param("progressToken") {
                client.server_requests.say(&token, ClientReply::Progress(text));
            }
        }
        // Nobody waits for the backends to hear of it.
        "notifications/roots/list_changed" if client.roots.put(text) => {
            drop(tokio::spawn(notify_roots_changed(gateway, client)));
        }
        _ => {}
    }
}

/// Tells the servers the latest news of a client's roots until there are none.
fn notify_roots_changed(gateway: &Arc<Gateway>, client: &Arc<Client>) -> impl Future<Output = ()> + Send + use<> {
    let (gateway, client) = (Arc::clone(gateway), Arc::clone(client));
    async move {
        while let Some(text) = client.roots.take() {
            notify_all(&gateway, &client, &text).await;
        }
    }
}

/// The stream of messages that belong to no request.
fn listen(gateway: &Gateway, scope: &Scope, headers: &HeaderMap) -> Result<Response, Rejection> {
    if !accepts(headers, "text/event-stream") {
        let problem = Problem::new(Code::BadRequest, "a GET must accept text/event-stream")
            .next("to look at the hub in a browser, open its address without a path");
        return Err((StatusCode::NOT_ACCEPTABLE, RpcError::on_the_way(problem)));
    }
    let client = client(gateway, scope, headers)?;
    let place = gateway.stream_place().map_err(refused)?;
    let seen = fingerprints(&gateway.catalog(client.capabilities).view(scope));
    let reader = match client.streams.place(header(headers, &HeaderName::from_static("last-event-id"))) {
        Some(StreamPosition::Of(stream, event)) => match client.streams.resume(stream, event) {
            Some(reader) => return Ok(super::response::resumed(reader)),
            // It is too long ago.
            None => client.open_stream(seen),
        },
        Some(StreamPosition::Lost(request)) => return Ok(super::response::lost(&request)),
        Some(StreamPosition::Own(event)) => client.open_stream_after(seen, event),
        None => client.open_stream(seen),
    };
    Ok(super::response::stream(sse::KEEP_ALIVE, reader, gateway.stop.clone(), place))
}

fn end(gateway: Arc<Gateway>, scope: &Scope, headers: &HeaderMap) -> Result<Response, Rejection> {
    let client = client(&gateway, scope, headers)?;
    gateway.clients.end(&client);
    // Nobody waits for the backends to hear of it.
    tokio::spawn(async move { release(&gateway, &client).await });
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// The session that a request belongs to.
fn client(gateway: &Gateway, scope: &Scope, headers: &HeaderMap) -> Result<Arc<Client>, Rejection> {
    let version = header(headers, &HeaderName::from_static(mcp::VERSION));
    if !version.is_empty() && Version::parse(version).is_none() {
        let known: Vec<_> = Version::ALL.iter().map(|version| version.as_str()).collect();
        let problem = Problem::new(Code::BadRequest, format!("{} {version:?} is not spoken here", mcp::VERSION))
            .seen("spoken", known)
            .next("initialize, and use the version that was agreed on");
        return Err((StatusCode::BAD_REQUEST, RpcError::on_the_way(problem)));
    }
    let id = header(headers, &HeaderName::from_static(mcp::SESSION));
    if id.is_empty() {
        let problem = Problem::new(Code::BadRequest, format!("the request has no {} header", mcp::SESSION))
            .next("initialize first, and send the session id of that answer");
        return Err((StatusCode::BAD_REQUEST, RpcError::on_the_way(problem)));
    }
    let seen = |capabilities| fingerprints(&gateway.catalog(capabilities).view(scope));
    match gateway.clients.find(id, scope, seen) {
        FoundSession::Client(client) => {
            client.touch(Instant::now());
            gateway.clients.keep_set(&client);
            Ok(client)
        }
        FoundSession::Unknown => {
            let problem = Problem::new(Code::NotFound, "there is no such session at this address").next("initialize");
            Err((StatusCode::NOT_FOUND, RpcError::on_the_way(problem)))
        }
        FoundSession::Full => {
            let problem = Problem::new(Code::Overloaded, "the hub has too many sessions, all of them in use");
            Err((StatusCode::SERVICE_UNAVAILABLE, RpcError::on_the_way(problem)))
        }
    }
}

async fn arrives(body: Body, gateway: &Gateway) -> Result<(String, BufferPermit), Rejection> {
    let held = MessageBudget::begin(&gateway.buffers);
    let whole = tokio::time::timeout(gateway.message_timeout, text(body, gateway.max_message, held)).await;
    whole.unwrap_or_else(|_| {
        let detail = format!("the message did not arrive within {} ms", gateway.message_timeout.as_millis());
        let problem = Problem::new(Code::TimedOut, detail).next("LINCHPIN_GATEWAY_MESSAGE_TIMEOUT_MS=… linchpin hub");
        Err((StatusCode::REQUEST_TIMEOUT, RpcError::on_the_way(problem)))
    })
}

async fn text(mut body: Body, limit: usize, mut held: BufferPermit) -> Result<(String, BufferPermit), Rejection> {
    let too_large = || {
        let problem = Problem::new(Code::TooLarge, format!("a message may have at most {limit} bytes"))
            .next("LINCHPIN_GATEWAY_MAX_MESSAGE_BYTES=… linchpin hub");
        refused(RpcError::on_the_way(problem))
    };
    // One that says beforehand that it is too large is not waited for.
    if http_body::Body::size_hint(&body).lower() > limit as u64 {
        return Err(too_large());
    }
    // What is announced is not reserved: it may never come.
    let mut whole = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|error| refused(RpcError::invalid_request(format!("the body broke off: {error}"))))?;
        let Some(data) = frame.data_ref() else { continue };
        if whole.len() + data.len() > limit {
            return Err(too_large());
        }
        held.grow(data.len()).map_err(|BudgetExceeded| refused(no_room(held.most())))?;
        whole.extend_from_slice(data);
    }
    let text = String::from_utf8(whole).map_err(|error| refused(RpcError::not_json(&error)))?;
    Ok((text, held))
}

fn no_room(most: usize) -> RpcError {
    let detail = format!("messages of clients take all {most} bytes that may be taken by them at once");
    RpcError::on_the_way(
        Problem::new(Code::Overloaded, detail)
            .next("try again in a second")
            .next("LINCHPIN_GATEWAY_MAX_BUFFERED_BYTES=… linchpin hub"),
    )
}

fn refused(error: RpcError) -> Rejection {
    (StatusCode::from_u16(error.status()).unwrap_or(StatusCode::BAD_REQUEST), error)
}

fn header<'h>(headers: &'h HeaderMap, name: &HeaderName) -> &'h str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// Whether a client takes this type. One that says nothing takes what comes.
pub(super) fn accepts(headers: &HeaderMap, media_type: &str) -> bool {
    let mut said = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).peekable();
    said.peek().is_none() || said.any(|value| value.contains(media_type) || value.contains("*/*"))
}
