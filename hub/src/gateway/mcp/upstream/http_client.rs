//! Streamable HTTP towards one server of an instance, over the instance's link.
//!
//! Owns [`HttpClient`] (how a message is sent and a stream opened), [`ResponseMessages`] (the messages of one answer) and [`SendError`]
//! (why there are none, and whether the server may have acted). Invariant: only what surely was not executed is called
//! so: the link says nothing left, the instance says so, or the session is unknown to the server.
//! Never: repeats anything.

use super::request_headers::RequestHeaders;
use super::session::{Dialect, UpstreamSession};
use super::{body, loop_guard};
use crate::gateway::mcp::catalog::server_key::ServerKey;
use crate::gateway::mcp::protocol::capabilities::SessionKind;
use crate::gateway::mcp::protocol::envelope::Envelope;
use crate::gateway::mcp::protocol::json::Object;
use crate::gateway::mcp::protocol::sse::Decoder;
use crate::link::{self, Body, BoxError, LinkHandle, ResponseBody};
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use http::response::Parts;
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Full, Limited};
use linchpin_shared::problem::{Code, Problem};
use linchpin_shared::protocol::{mcp, path};
use linchpin_shared::registry::record::Protocol;
use std::time::Duration;

/// An answer that is no MCP message is only read to tell what it says.
const MAX_COMPLAINT: usize = 64 << 10;

/// The error by which a server says that it does not speak this version.
const UNSUPPORTED: i32 = -32022;

/// Why a message did not get an answer.
#[derive(Debug, Clone)]
pub(crate) enum SendError {
    /// The server surely did nothing, and may do it when it is asked again.
    NotExecuted(Problem),
    /// The server does not know the session, so it did nothing.
    SessionLost(Problem),
    /// Whether the server did it is not known.
    Interrupted(Problem),
    /// It was refused, and asking again would not help.
    Refused(Problem),
}

impl SendError {
    /// What to tell.
    pub(crate) fn into_problem(self) -> Problem {
        match self {
            Self::NotExecuted(problem)
            | Self::SessionLost(problem)
            | Self::Interrupted(problem)
            | Self::Refused(problem) => problem,
        }
    }
}

/// The way to one server.
#[derive(Debug)]
pub(crate) struct HttpClient {
    handle: LinkHandle,
    server_key: ServerKey,
    /// Its address on the link to an instance of ours.
    ours: Uri,
    max_message: usize,
    /// The name of this hub.
    hub: String,
}

impl HttpClient {
    /// The way to this server of the instance behind `handle`.
    pub(crate) fn new(handle: LinkHandle, server_key: ServerKey, max_message: usize, hub: String) -> Self {
        // A server's name is made of letters, digits and hyphens, so the path is always one.
        let ours = Uri::try_from(format!("{}{}", path::MCP, server_key.server)).unwrap_or_default();
        Self { handle, server_key, ours, max_message, hub }
    }

    /// Where the server is: with an instance of ours under its name, with a foreign program where its record says.
    fn uri(&self) -> Uri {
        let status = self.handle.status();
        let status = status.borrow();
        match status.record.protocol {
            Protocol::H2c => self.ours.clone(),
            Protocol::Http1 => {
                let path = status.record.server_path(&self.server_key.server);
                path.and_then(|path| path.parse().ok()).unwrap_or_default()
            }
        }
    }

    /// The link.
    pub(crate) fn handle(&self) -> &LinkHandle {
        &self.handle
    }

    /// Sends a message.
    pub(crate) async fn post(&self, mark: RequestHeaders<'_>, message: String) -> Result<ResponseMessages, SendError> {
        let response = self.send(mark, message, None).await?;
        match mark {
            RequestHeaders::Nothing => Ok(self.answering(self.judge(response, false).await?)),
            RequestHeaders::Session(_) => Ok(self.answering(self.judge(response, true).await?)),
            RequestHeaders::Stateless(session, _) => self.judge_modern(response, Some(session)).await,
            RequestHeaders::Opening(_) => self.judge_modern(response, None).await,
        }
    }

    /// Sends what begins a session, for which the instance may wait until its server is up, and gives the session's id.
    pub(crate) async fn open(
        &self,
        mark: RequestHeaders<'_>,
        message: String,
        wait: Duration,
    ) -> Result<(Option<HeaderValue>, ResponseMessages), SendError> {
        let response = self.send(mark, message, Some(wait)).await?;
        let session = response.headers().get(mcp::SESSION).cloned();
        let answering = match mark {
            RequestHeaders::Nothing | RequestHeaders::Session(_) => self.answering(self.judge(response, false).await?),
            RequestHeaders::Stateless(..) | RequestHeaders::Opening(_) => self.judge_modern(response, None).await?,
        };
        Ok((session, answering))
    }

    /// Opens the stream of the server's own messages; none if the server has no such stream.
    pub(crate) async fn listen(&self, session: &UpstreamSession) -> Result<Option<ResponseMessages>, SendError> {
        let mut request = self.request(
            Method::GET,
            RequestHeaders::Session(session),
            Empty::new().map_err(BoxError::from).boxed_unsync(),
        );
        request.headers_mut().insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
        let response = self.handle.listen(request).await.map_err(|error| self.broken(&error))?;
        // A server that gave its session no id cannot mean the session when it finds nothing.
        let nothing = response.status() == StatusCode::NOT_FOUND && session.id.is_none();
        if nothing || response.status() == StatusCode::METHOD_NOT_ALLOWED {
            return Ok(None);
        }
        Ok(Some(self.answering(self.judge(response, true).await?)))
    }

    async fn send(
        &self,
        mark: RequestHeaders<'_>,
        message: String,
        wait: Option<Duration>,
    ) -> Result<Response<ResponseBody>, SendError> {
        // What begins a session may come back: see there.
        let message = if wait.is_some() { loop_guard::marked(message, &self.hub) } else { message };
        let body = Full::new(Bytes::from(message)).map_err(BoxError::from).boxed_unsync();
        let mut request = self.request(Method::POST, mark, body);
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
        if let Some(wait) = wait {
            headers.insert(mcp::WAIT_MS, HeaderValue::from(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)));
        }
        self.handle.request(request).await.map_err(|error| self.broken(&error))
    }

    fn request(&self, method: Method, mark: RequestHeaders<'_>, body: Body) -> Request<Body> {
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = self.uri();
        match mark {
            RequestHeaders::Nothing => {}
            RequestHeaders::Session(session) => session.mark(request.headers_mut()),
            RequestHeaders::Stateless(session, routing) => {
                if self.server_key.session_kind == SessionKind::Shared {
                    session.mark(request.headers_mut());
                }
                routing.write(request.headers_mut());
            }
            RequestHeaders::Opening(routing) => routing.write(request.headers_mut()),
        }
        request
    }

    fn broken(&self, error: &link::SendError) -> SendError {
        let problem = error.problem(&self.server_key.instance);
        match error {
            link::SendError::NotConnected { .. } | link::SendError::NotSent(_) | link::SendError::Gone => {
                SendError::NotExecuted(problem)
            }
            link::SendError::Interrupted(_) => SendError::Interrupted(problem),
            link::SendError::Overloaded { .. } => SendError::Refused(problem),
        }
    }

    /// What an answer means that may not be a success.
    async fn judge(
        &self,
        response: Response<ResponseBody>,
        in_session: bool,
    ) -> Result<Response<ResponseBody>, SendError> {
        if response.status().is_success() {
            return Ok(response);
        }
        let (head, body) = complaint(response).await;
        Err(self.verdict(&head, &body, in_session))
    }

    /// The same in 2026-07-28, where an error has a status of its own, and its body is the answer.
    async fn judge_modern(
        &self,
        response: Response<ResponseBody>,
        session: Option<&UpstreamSession>,
    ) -> Result<ResponseMessages, SendError> {
        if response.status().is_success() {
            return Ok(self.answering(response));
        }
        let only = session.is_some_and(|session| session.dialect == Dialect::Stateless);
        let (head, body) = complaint(response).await;
        let code = error_code(&body);
        // Another server than the one that was asked what it speaks.
        if only && code == Some(UNSUPPORTED) {
            return Err(SendError::SessionLost(self.complaint(head.status, &String::from_utf8_lossy(&body))));
        }
        if read(&body).is_some_and(|(_, envelope)| matches!(envelope, Envelope::Response { .. })) {
            return Ok(self.messages(MessageSource::Read(Some(body))));
        }
        Err(self.verdict(
            &head,
            &body,
            only || (session.is_some() && self.server_key.session_kind == SessionKind::Shared),
        ))
    }

    fn verdict(&self, head: &Parts, body: &[u8], in_session: bool) -> SendError {
        let (status, text) = (head.status, String::from_utf8_lossy(body));
        let not_executed = head.headers.get(mcp::NOT_EXECUTED).is_some_and(|value| value == "1");
        let problem = self.complaint(status, &text);
        // Real servers answer 400 where MCP has 404.
        let lost = status == StatusCode::NOT_FOUND
            || (status == StatusCode::BAD_REQUEST && text.to_ascii_lowercase().contains("session"))
            // It was replaced by one that knows no sessions.
            || error_code(body) == Some(UNSUPPORTED);
        match (lost && in_session, not_executed) {
            (true, _) => SendError::SessionLost(problem),
            (false, true) => SendError::NotExecuted(problem),
            (false, false) => SendError::Refused(problem),
        }
    }

    /// The instance's own words if it is a problem, else the server's.
    fn complaint(&self, status: StatusCode, text: &str) -> Problem {
        if let Some(problem) = serde_json::from_str::<Problem>(text).ok().or_else(|| problem_in(text)) {
            return problem;
        }
        let ServerKey { instance, server, .. } = &self.server_key;
        let said: String = text.chars().take(400).collect();
        Problem::new(Code::ServerUnavailable, format!("the MCP server {server:?} of {instance} answered with {status}"))
            .seen("instance", &**instance)
            .seen("status", status.as_u16())
            .seen("answer", said)
            .next(format!("linchpin logs {instance}"))
    }

    fn answering(&self, response: Response<ResponseBody>) -> ResponseMessages {
        let kind = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let source = if kind.starts_with("text/event-stream") {
            MessageSource::Events(response.into_body(), Decoder::new(self.max_message))
        } else {
            MessageSource::Whole(Some(response.into_body()))
        };
        self.messages(source)
    }

    fn messages(&self, source: MessageSource) -> ResponseMessages {
        ResponseMessages { source, server_key: self.server_key.clone(), max_message: self.max_message }
    }
}

/// The messages of one answer, in order.
#[derive(Debug)]
pub(crate) struct ResponseMessages {
    source: MessageSource,
    server_key: ServerKey,
    max_message: usize,
}

#[derive(Debug)]
enum MessageSource {
    Read(Option<Bytes>),
    Whole(Option<ResponseBody>),
    Events(ResponseBody, Decoder),
}

impl ResponseMessages {
    /// The next message; none when the answer is complete. To be awaited to its end, or dropped.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, SendError> {
        match &mut self.source {
            MessageSource::Read(message) => Ok(message.take()),
            MessageSource::Whole(body) => {
                let Some(body) = body.take() else { return Ok(None) };
                let whole = body::whole(body, self.max_message).await.map_err(|why| self.interrupted(&why))?;
                Ok((!whole.is_empty()).then_some(whole))
            }
            MessageSource::Events(body, decoder) => loop {
                match decoder.next_event() {
                    Ok(Some(event)) => return Ok(Some(event.data)),
                    Ok(None) => {}
                    Err(error) => return Err(self.interrupted(&error.to_string())),
                }
                match body.frame().await.transpose() {
                    Ok(Some(frame)) => decoder.push(frame.data_ref().map_or(&[], |data| data)),
                    Ok(None) => return Ok(None),
                    Err(failure) => return Err(self.interrupted(&failure.to_string())),
                }
            },
        }
    }

    /// It is a stream that stays open, which takes no room from callers.
    pub(crate) fn takes_no_room(&mut self) {
        match &mut self.source {
            MessageSource::Whole(Some(body)) | MessageSource::Events(body, _) => body.release_capacity(),
            MessageSource::Whole(None) | MessageSource::Read(_) => {}
        }
    }

    /// The error of a request whose answer broke off, or ended without a response.
    pub(crate) fn interrupted(&self, why: &str) -> SendError {
        let ServerKey { instance, server, .. } = &self.server_key;
        let detail = format!("the MCP server {server:?} of {instance} did not finish its answer: {why}");
        SendError::Interrupted(
            Problem::new(Code::CallInterrupted, detail)
                .seen("instance", &**instance)
                .next("look whether the call had an effect before you repeat it")
                .next(format!("linchpin explain {instance}")),
        )
    }
}

/// The problem that a hub puts into a JSON-RPC error.
fn problem_in(text: &str) -> Option<Problem> {
    let Ok(Envelope::Response { error: Some(error), .. }) = Envelope::parse(text) else { return None };
    serde_json::from_str(Object::parse(text, error).ok()?.get("data")?.of(text)).ok()
}

/// An answer that is no success, read as far as it is looked at.
async fn complaint(response: Response<ResponseBody>) -> (Parts, Bytes) {
    let (head, body) = response.into_parts();
    let body = Limited::new(body, MAX_COMPLAINT).collect().await;
    (head, body.map(http_body_util::Collected::to_bytes).unwrap_or_default())
}

/// The code of an error that a server answered with.
fn error_code(body: &[u8]) -> Option<i32> {
    let (text, Envelope::Response { error: Some(error), .. }) = read(body)? else { return None };
    Object::parse(text, error).ok()?.get("code")?.of(text).parse().ok()
}

/// The text and kind of a message that a server sent.
pub(crate) fn read(message: &[u8]) -> Option<(&str, Envelope)> {
    let text = std::str::from_utf8(message).ok()?;
    match Envelope::parse(text) {
        Ok(envelope) => Some((text, envelope)),
        Err(error) => {
            tracing::debug!(%error, "a server sent what is no message");
            None
        }
    }
}
