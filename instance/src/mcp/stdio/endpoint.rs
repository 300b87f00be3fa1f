//! The HTTP endpoint of a stdio server.
//!
//! A request reaches the run that its session id names, or is refused as not executed. A request whose run ends before
//! the response gets an error that says so; it is reported as not executed only if the pipe shows that the server had
//! not read all of it. Messages are never serialized again.

use super::initialize::{self, Outcome};
use super::message::{FirstRequest, JsonId, Message};
use super::message_router::{CallMessage, SendError};
use super::server_run::{PendingCall, ServerRun};
use crate::mcp::request::{ServerName, max_wait, whole_body};
use crate::respond;
use crate::server::state::McpEndpoint;
use crate::supervisor::Process;
use axum::body::Body;
use axum::response::Response;
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use linchpin_shared::json_line::one_line;
use linchpin_shared::problem::{Code, Problem};
use linchpin_shared::protocol::mcp::SESSION;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// The endpoint of one server.
#[derive(Debug)]
pub(crate) struct StdioEndpoint {
    name: ServerName,
    current: watch::Receiver<Option<Arc<ServerRun>>>,
    process: Process,
    max_message: usize,
}

impl McpEndpoint for StdioEndpoint {
    fn handle(&self, request: Request<Body>) -> BoxFuture<'_, Response> {
        async move {
            let (head, body) = request.into_parts();
            let response = match head.method {
                Method::POST => self.post(&head.headers, body).await,
                Method::GET => self.listen(&head.headers),
                _ => Err(self.method_not_allowed(&head.method)),
            };
            response.unwrap_or_else(|refusal| refusal)
        }
        .boxed()
    }
}

impl StdioEndpoint {
    pub(super) const fn new(
        name: ServerName,
        current: watch::Receiver<Option<Arc<ServerRun>>>,
        process: Process,
        max_message: usize,
    ) -> Self {
        Self { name, current, process, max_message }
    }

    async fn post(&self, headers: &HeaderMap, body: Body) -> Result<Response, Response> {
        let body = whole_body(body, self.max_message).await?;
        let Some(message) = Message::parse(&body) else {
            let problem = Problem::new(Code::BadRequest, "the body is not one JSON-RPC message")
                .next("send one JSON object with a method, or with an id and a result or error");
            return Err(respond::problem(&problem));
        };
        let (id, token) = match message {
            Message::Request { id, first: Some(first), token: _ } if needs_no_session(first, headers) => {
                return self.first_request(first, id, body, max_wait(headers)).await;
            }
            Message::Request { id, first: _, token } => (id, token),
            Message::Initialized => {
                let sent = self.run(headers)?.notify_initialized(body).await;
                return sent.map(|()| respond::empty(StatusCode::ACCEPTED)).map_err(|_| self.down());
            }
            Message::Response(_) | Message::Progress(_) | Message::Notification => {
                let sent = self.run(headers)?.notify(body).await;
                return sent.map(|()| respond::empty(StatusCode::ACCEPTED)).map_err(|_| self.down());
            }
        };
        match self.run(headers)?.call(id, token, body).await {
            Ok(call) => self.respond(call).await,
            Err(SendError::Ended) => Err(self.down()),
            Err(SendError::DuplicateId) => {
                let problem = Problem::new(Code::BadRequest, "another request with this id is in flight")
                    .next("give every request an id of its own");
                Err(respond::problem(&problem))
            }
        }
    }

    /// Responds with one JSON message, or with a stream when other messages of the request precede the response.
    async fn respond(&self, mut call: PendingCall) -> Result<Response, Response> {
        match call.next().await {
            Some(CallMessage::Response(message)) => Ok(respond::raw_json(message)),
            None if call.not_executed() => Err(self.down()),
            None => Ok(respond::raw_json(interrupted(&call, &self.name))),
            Some(CallMessage::Progress(first)) => {
                let rest = stream::unfold(Some((call, self.name.clone())), next_event);
                Ok(respond::stream("text/event-stream", stream::iter([event(first)]).chain(rest)))
            }
        }
    }

    /// Responds with the stream of all messages that belong to no request.
    fn listen(&self, headers: &HeaderMap) -> Result<Response, Response> {
        let messages = self.run(headers)?.listen().map_err(|_| self.down())?;
        let events = stream::unfold(messages, async |mut messages: mpsc::Receiver<Bytes>| {
            let message = messages.recv().await?;
            Some((event(message), messages))
        });
        Ok(respond::stream("text/event-stream", events))
    }

    /// Answers the first request of a run, and states the session of that run.
    async fn first_request(
        &self,
        first: FirstRequest,
        id: JsonId,
        body: Bytes,
        max_wait: Duration,
    ) -> Result<Response, Response> {
        let deadline = Instant::now() + max_wait;
        let mut after = 0;
        loop {
            let run = self.next_run(after, deadline).await.ok_or_else(|| self.down())?;
            after = run.number;
            let outcome = match first {
                FirstRequest::Initialize => initialize::initialize(Arc::clone(&run), id.clone(), body.clone()).await,
                FirstRequest::Discover => initialize::discover(&run, id.clone(), body.clone()).await,
            };
            match outcome {
                Outcome::Ready(message) => {
                    let mut response = respond::raw_json(message);
                    // It cannot fail: a session id consists of hexadecimal digits.
                    if let Ok(session) = HeaderValue::from_str(&run.session) {
                        response.headers_mut().insert(SESSION, session);
                    }
                    return Ok(response);
                }
                Outcome::Refused(message) => return Ok(respond::raw_json(message)),
                Outcome::OtherVersion => self.process.restart(),
                Outcome::NotSent => {}
                Outcome::Interrupted(call) => return Ok(respond::raw_json(interrupted(&call, &self.name))),
            }
        }
    }

    /// Waits until the deadline for a run with a higher number than `after`.
    async fn next_run(&self, after: u64, deadline: Instant) -> Option<Arc<ServerRun>> {
        let mut current = self.current.clone();
        let newer = |run: &Option<Arc<ServerRun>>| run.as_ref().is_some_and(|run| run.number > after);
        let found = current.wait_for(newer);
        let run = tokio::time::timeout_at(deadline, found).await.ok()?.ok()?;
        run.clone()
    }

    /// Returns the run that the request's session id names.
    fn run(&self, headers: &HeaderMap) -> Result<Arc<ServerRun>, Response> {
        let Some(session) = headers.get(SESSION) else {
            let problem = Problem::new(Code::BadRequest, format!("the request has no {SESSION} header"))
                .next("send initialize or server/discover first, then the session id of the response");
            return Err(respond::not_executed(&problem));
        };
        let run = self.current.borrow().clone().ok_or_else(|| self.down())?;
        if session.as_bytes() == run.session.as_bytes() {
            return Ok(run);
        }
        let problem = Problem::new(Code::NotFound, "this MCP session has ended: the server was restarted")
            .seen("epoch", run.number)
            .next("initialize again");
        Err(respond::not_executed(&problem))
    }

    fn down(&self) -> Response {
        let ServerName { instance, server } = &self.name;
        let state = self.process.state();
        let mut problem =
            Problem::new(Code::ServerUnavailable, format!("the MCP server {server:?} of {instance} is down"));
        if let Some(end) = state.last_end {
            problem = problem.seen("ended", end);
        }
        if let Some(at) = state.next_start {
            problem = problem.seen("next_start", at.to_string());
        }
        let problem = problem.seen("restarts", state.restarts).next(format!("linchpin logs {instance}"));
        respond::not_executed(&problem)
    }

    fn method_not_allowed(&self, method: &Method) -> Response {
        let problem = Problem::new(Code::MethodNotAllowed, format!("{method} is not allowed here"))
            .seen("why", "a session lasts as long as the server's process runs, so it cannot be deleted")
            .next(format!("linchpin restart {}", self.name.instance));
        respond::problem(&problem)
    }
}

/// Whether a request starts a session, or needs none.
fn needs_no_session(first: FirstRequest, headers: &HeaderMap) -> bool {
    match first {
        FirstRequest::Initialize => true,
        FirstRequest::Discover => !headers.contains_key(SESSION),
    }
}

/// Returns the events that follow the first one. The last of them is the response.
async fn next_event(
    in_flight: Option<(PendingCall, ServerName)>,
) -> Option<(Bytes, Option<(PendingCall, ServerName)>)> {
    let (mut call, name) = in_flight?;
    match call.next().await {
        Some(CallMessage::Progress(message)) => Some((event(message), Some((call, name)))),
        Some(CallMessage::Response(message)) => Some((event(message), None)),
        None => Some((event(interrupted(&call, &name)), None)),
    }
}

/// One message as a server-sent event. A carriage return would end the line.
fn event(message: Bytes) -> Bytes {
    let message = one_line(message);
    let mut event = BytesMut::with_capacity(message.len() + 8);
    event.put_slice(b"data: ");
    event.put(message);
    event.put_slice(b"\n\n");
    event.freeze()
}

/// The JSON-RPC error for a request whose server ended. It may have been executed, so we never repeat it.
fn interrupted(call: &PendingCall, name: &ServerName) -> Bytes {
    let ServerName { instance, server } = name;
    let reason = call.run.end_reason();
    let detail = format!("the MCP server {server:?} of {instance} ended before it answered: {reason}");
    let problem = Problem::new(Code::CallInterrupted, detail)
        .seen("epoch", call.run.number)
        .next("check whether the call took effect before you repeat it")
        .next(format!("linchpin logs {instance}"));
    let error = json!({"code": -32000, "message": problem.detail, "data": problem});
    format!(r#"{{"jsonrpc":"2.0","id":{},"error":{error}}}"#, call.id.as_json()).into()
}
