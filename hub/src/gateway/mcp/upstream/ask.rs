//! What a server asks while it works: sampling, elicitation, roots.
//!
//! Owns the way of one such request: to the client whose call caused it, and its answer back. Ids are the hub's on the
//! client's side and the server's on the server's.
//! Invariant: nobody else is ever asked. Where no one client can be told to have caused it, or that client cannot do it,
//! the server is told so at once; and no question outlives its call, its client or its session.
//! Never: answers in a client's place.

use super::http_client::read;
use super::session::UpstreamSession;
use super::{RequestCause, Upstream};
use crate::gateway::mcp::protocol::capabilities::ClientCapabilities;
use crate::gateway::mcp::protocol::envelope::Envelope;
use crate::gateway::mcp::protocol::errors::{RpcError, success};
use crate::gateway::mcp::protocol::json::{Object, Span, quote, splice};
use crate::gateway::mcp::session::server_requests::{ClientReply, ServerRequest};
use linchpin_shared::problem::{Code, Problem};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout, timeout_at};

/// A person may be away for a while; servers that do not want to wait that long cancel.
const LONGEST: Duration = Duration::from_secs(1800);

/// A client that has to be asked on its own stream may take this long to open it again.
const AWAY: Duration = Duration::from_secs(10);

/// Answers a request of a server. `cause` is the call on whose stream it came.
pub(crate) async fn answer(
    upstream: Arc<Upstream>,
    session: Arc<UpstreamSession>,
    text: String,
    cause: Option<RequestCause>,
) {
    let Some((_, Envelope::Request { id, method, params })) = read(text.as_bytes()) else { return };
    let asked = AskedRequest { upstream: &upstream, session: &session, text: &text, id, method, params };
    let Some(reply) = asked.reply(cause).await else { return };
    if let Err(broken) = upstream.notify(&session, reply).await {
        tracing::debug!(server = %upstream, why = %broken.into_problem().detail, "a request was not answered");
    }
}

/// Puts a request that a server's answer has in it to the client of this call, and gives the response.
pub(crate) async fn put(
    upstream: &Upstream,
    session: &UpstreamSession,
    text: &str,
    cause: RequestCause,
) -> Option<String> {
    let Some((_, Envelope::Request { id, method, params })) = read(text.as_bytes()) else { return None };
    Some(AskedRequest { upstream, session, text, id, method, params }.ask(Some(cause)).await)
}

/// A request of a server.
struct AskedRequest<'a> {
    upstream: &'a Upstream,
    session: &'a UpstreamSession,
    text: &'a str,
    id: Span,
    method: String,
    params: Option<Span>,
}

impl AskedRequest<'_> {
    /// What the server is answered; nothing if it gave the request up.
    async fn reply(&self, cause: Option<RequestCause>) -> Option<String> {
        let id = self.id.of(self.text);
        if self.method == "ping" {
            return Some(success(id, "{}"));
        }
        let Ok(mut entry) = self.upstream.asked.begin(id) else {
            return Some(self.refusal(Code::Overloaded, "too many requests of this server wait for an answer"));
        };
        tokio::select! {
            reply = self.ask(cause) => Some(reply),
            _ = entry.cancelled() => None,
        }
    }

    async fn ask(&self, cause: Option<RequestCause>) -> String {
        let lacks = |capabilities: ClientCapabilities| capabilities.lacks(&self.method, self.text, self.params);
        if let Some(what) = lacks(self.upstream.server_key.session_kind.capabilities()) {
            return RpcError::method_not_found(&self.method)
                .because(&format!("no client offers {what}"))
                .response(self.id());
        }
        let cause = match self.task() {
            None => cause.or_else(|| self.upstream.cause()),
            Some(task) => timeout(LONGEST, self.upstream.cause_of_task(&task, cause)).await.ok().flatten(),
        };
        let Some(cause) = cause else {
            return self.refusal(Code::BadRequest, "it cannot be told whose call caused this request");
        };
        if let Some(what) = lacks(cause.client.capabilities) {
            let why = format!("the client whose call caused this request does not offer {what}");
            return RpcError::method_not_found(&self.method).because(&why).response(self.id());
        }
        let Some(question) = cause.client.server_requests.put(self.upstream.next_id(), cause.call) else {
            return self.refusal(Code::Overloaded, "the client has too many requests to answer");
        };
        match timeout(LONGEST, OpenQuestion { asked: self, cause: &cause, question, token: self.token() }.put()).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(why)) => self.refusal(Code::TimedOut, why),
            Err(_elapsed) => self.refusal(Code::TimedOut, "the client did not answer"),
        }
    }

    fn id(&self) -> &str {
        self.id.of(self.text)
    }

    fn refusal(&self, code: Code, why: &str) -> String {
        RpcError::on_the_way(Problem::new(code, format!("{}: {why}", self.method))).response(self.id())
    }

    /// The task, as the server calls it, that needs an answer.
    fn task(&self) -> Option<String> {
        crate::gateway::mcp::protocol::task_fields::related(self.text, self.params?)?.string(self.text)
    }

    /// The token under which the server wants to hear of progress.
    fn token(&self) -> Option<Span> {
        let params = Object::parse(self.text, self.params?).ok()?;
        params.object(self.text, "_meta").ok()??.get("progressToken")
    }
}

/// A question that was put to a client.
struct OpenQuestion<'a> {
    asked: &'a AskedRequest<'a>,
    cause: &'a RequestCause,
    question: ServerRequest,
    token: Option<Span>,
}

impl OpenQuestion<'_> {
    /// Puts it and waits for the answer.
    async fn put(mut self) -> Result<String, &'static str> {
        let own = self.question.id.to_string();
        let mut edits = vec![(self.asked.id, own.as_str().into())];
        edits.extend(self.token.map(|token| (token, own.as_str().into())));
        edits.extend(self.asked.upstream.related_edit(&self.cause.client, self.asked.text, self.asked.params));
        self.send(splice(self.asked.text, &mut edits)).await?;
        loop {
            let said = tokio::select! {
                said = self.question.said() => said,
                () = gone(self.cause) => return Err("the client went away"),
            };
            match said {
                Some(ClientReply::Answer(text)) => {
                    return self.rekeyed(&text).ok_or("the client's answer is no response");
                }
                Some(ClientReply::Progress(text)) => self.progress(&text).await,
                None => return Err("the call that asked is over"),
            }
        }
    }

    async fn send(&self, message: String) -> Result<(), &'static str> {
        if self.cause.streams {
            return self.cause.out.send(message).await.map_err(|_| "the client went away");
        }
        if !self.cause.client.is_listening() {
            return Err("the client reads no stream on which it could be asked");
        }
        self.cause.client.send(&message);
        Ok(())
    }

    /// The client's answer with the server's id.
    fn rekeyed(&self, text: &str) -> Option<String> {
        let Some((text, Envelope::Response { id, result, .. })) = read(text.as_bytes()) else { return None };
        let mut edits = vec![(id, self.asked.id().into())];
        let task =
            result.and_then(|at| crate::gateway::mcp::protocol::task_fields::related(text, at)).zip(self.asked.task());
        edits.extend(task.map(|(at, task)| (at, quote(&task).into())));
        Some(splice(text, &mut edits))
    }

    /// The client's progress, with the server's token.
    async fn progress(&self, text: &str) {
        let (Some(wanted), Some(at)) = (self.token, progress_token(text)) else { return };
        let message = splice(text, &mut [(at, wanted.of(self.asked.text).into())]);
        let notified = self.asked.upstream.notify(self.asked.session, message);
        // A server that does not take it in time misses it.
        let _ = timeout_at(Instant::now() + AWAY, notified).await;
    }
}

/// A client that was not heard out is told that its answer is not wanted any more.
impl Drop for OpenQuestion<'_> {
    fn drop(&mut self) {
        if self.question.close() {
            self.cause.withdraw(self.question.id);
        }
    }
}

impl RequestCause {
    /// Tells the client that the question of this id needs no answer any more.
    pub(super) fn withdraw(&self, id: u64) {
        let cancelled =
            format!(r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{id}}}}}"#);
        if self.streams {
            // A client that does not read misses it, and answers in vain.
            let _ = self.out.try_send(cancelled);
        } else if self.client.is_listening() {
            self.client.send(&cancelled);
        }
    }
}

/// Waits until the client cannot be asked any more.
async fn gone(cause: &RequestCause) {
    if cause.streams {
        return cause.out.closed().await;
    }
    let mut seen = Instant::now();
    while seen.elapsed() < AWAY {
        tokio::time::sleep(AWAY / 10).await;
        if cause.client.is_listening() {
            seen = Instant::now();
        }
    }
}

/// Where the token of a progress notification stands.
pub(crate) fn progress_token(text: &str) -> Option<Span> {
    match read(text.as_bytes())? {
        (text, Envelope::Notification { params: Some(params), .. }) => {
            Object::parse(text, params).ok()?.get("progressToken")
        }
        (_, Envelope::Notification { params: None, .. } | Envelope::Request { .. } | Envelope::Response { .. }) => None,
    }
}
