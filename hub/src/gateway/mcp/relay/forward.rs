//! One request, carried to one backend and back.
//!
//! Owns [`Relay`]: the request with its known fields rewritten, the wait for a session, and the rule of what is repeated.
//! Invariant: a request that may have been executed is sent again only if that does no harm, and then once; a request
//! that surely was not executed is sent again until the time to wait is used up. What an older client is asked by a
//! backend without sessions is in [`super::input_rounds`].
//! Never: looks into a result, or holds a large one twice: what came from the backend is edited in place and handed on.

use super::call::{ClientRequest, ParamEdits, RequestReply};
use super::dispatch::{RequestHandler, unless_cancelled};
use crate::gateway::mcp::protocol::envelope::{Envelope, is_own_id};
use crate::gateway::mcp::protocol::errors::RpcError;
use crate::gateway::mcp::protocol::json::{Object, Span, edited, splice};
use crate::gateway::mcp::protocol::notification::Notification;
use crate::gateway::mcp::protocol::param_headers::ParamHeaders;
use crate::gateway::mcp::protocol::translate;
use crate::gateway::mcp::session::in_flight::InFlightEntry;
use crate::gateway::mcp::upstream::body::read_whole;
use crate::gateway::mcp::upstream::http_client::SendError;
use crate::gateway::mcp::upstream::request_headers::{RequestHeaders, RoutingHeaders};
use crate::gateway::mcp::upstream::session::{Dialect, UpstreamSession};
use crate::gateway::mcp::upstream::{RequestCause, Upstream, ask, handshake};
use http::HeaderMap;
use linchpin_shared::problem::Problem;
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// How long telling a backend of a cancellation may take; the client does not wait for it.
const TELL: Duration = Duration::from_secs(5);

/// Requests of a server because of one call that are being answered, `ping` among them.
const MAX_ASKED: usize = 64;

/// One request on its way.
pub(crate) struct Relay<'a> {
    caller: &'a RequestHandler,
    pub(super) call: &'a ClientRequest,
    pub(crate) upstream: &'a Arc<Upstream>,
    edits: ParamEdits<'a>,
    token: Option<Span>,
    about: Option<&'a str>,
    tasks: TaskUse<'a>,
    headers: HeaderMap,
    repeatable: bool,
    patience: Duration,
    /// What the client answered to the server, as members of the params.
    input: String,
}

/// What a request has to do with tasks.
#[derive(Debug, Clone, Copy)]
enum TaskUse<'a> {
    /// Nothing.
    None,
    /// Its result may be one.
    MayBegin,
    /// It is about this one.
    About(&'a str),
}

/// What one attempt came to.
enum Attempt {
    Answered(String),
    Cancelled,
    SendError(SendError),
}

impl<'a> Relay<'a> {
    /// A request to this backend with these edits; `repeatable` if executing it twice does no harm.
    pub(crate) fn new(
        caller: &'a RequestHandler,
        call: &'a ClientRequest,
        upstream: &'a Arc<Upstream>,
        edits: ParamEdits<'a>,
        repeatable: bool,
    ) -> Result<Self, RpcError> {
        let (token, patience) = (call.progress_token()?, caller.gateway.wait);
        let tasks = if caller.may_begin_task(call)? { TaskUse::MayBegin } else { TaskUse::None };
        let headers = caller.context.params.clone();
        let input = String::new();
        Ok(Self { caller, call, upstream, edits, token, about: None, tasks, headers, repeatable, patience, input })
    }

    /// About this task, as the backend calls it.
    pub(crate) fn of_task(self, task: &'a str) -> Self {
        Self { about: Some(task), tasks: TaskUse::About(task), ..self }
    }

    /// Whose result is handed on as it is, also if it is a task.
    pub(crate) fn without_tasks(self) -> Self {
        Self { tasks: TaskUse::None, ..self }
    }

    /// With headers that repeat these arguments, as far as the backend wants any.
    pub(crate) fn repeating(mut self, param_headers: Option<&ParamHeaders>, arguments: &str) -> Self {
        if let Some(param_headers) = param_headers {
            self.headers = param_headers.made(arguments);
        }
        self
    }

    /// With the name or URI that it is about, as the backend knows it.
    pub(crate) fn about(self, name: &'a str) -> Self {
        Self { about: Some(name), ..self }
    }

    /// Does not wait for a backend that is down.
    pub(crate) fn impatient(self) -> Self {
        Self { patience: Duration::ZERO, ..self }
    }

    /// Carries it.
    pub(crate) async fn run(mut self, entry: &mut InFlightEntry) -> Result<RequestReply, RpcError> {
        let (mut lost, mut rounds) = (0, 0);
        loop {
            let begun = Instant::now();
            let session = tokio::select! {
                session = self.upstream.ready(lost, begun + self.patience) => session.map_err(RpcError::on_the_way)?,
                _ = entry.cancelled() => return Ok(RequestReply::Cancelled),
            };
            self.patience = self.patience.saturating_sub(begun.elapsed());
            if let Some(reply) = self.is_subscription(&session) {
                return reply;
            }
            match self.attempt(&session, entry).await {
                Attempt::Answered(response) => match self.wants(&session, &response) {
                    None => return Ok(RequestReply::Response(response)),
                    Some(wants) => {
                        rounds += 1;
                        let input = unless_cancelled(entry, self.input(&session, wants, rounds)).await?;
                        let Some(input) = input else { return Ok(RequestReply::Cancelled) };
                        self.input = input;
                    }
                },
                Attempt::Cancelled => return Ok(RequestReply::Cancelled),
                Attempt::SendError(SendError::NotExecuted(_) | SendError::SessionLost(_)) => lost = session.number,
                Attempt::SendError(SendError::Interrupted(_)) if self.repeatable => self.repeatable = false,
                Attempt::SendError(SendError::Interrupted(problem) | SendError::Refused(problem)) => {
                    return Err(RpcError::on_the_way(problem));
                }
            }
        }
    }

    async fn attempt(&self, session: &Arc<UpstreamSession>, entry: &mut InFlightEntry) -> Attempt {
        let id = self.upstream.next_id();
        let _under_way = self.upstream.under_way(self.cause(id));
        let mut given_up = GiveUpOnDrop::of(self, session, id);
        let mut exchange = std::pin::pin!(self.exchange(session, id));
        tokio::select! {
            done = &mut exchange => {
                given_up.notified = true;
                done.map_or_else(Attempt::SendError, Attempt::Answered)
            }
            notification = entry.cancelled() => {
                given_up.notified = true;
                self.cancel(session, id, &notification).await;
                Attempt::Cancelled
            }
        }
    }

    /// Sends the request and hands on its messages until the response, which it gives with the client's id.
    async fn exchange(&self, session: &Arc<UpstreamSession>, id: u64) -> Result<String, SendError> {
        let own = id.to_string();
        // What the server asks is open as long as the request that made it ask.
        let mut asked = JoinSet::new();
        let mut nonsense = None;
        let routing = RoutingHeaders::of(&self.call.method, self.about).with(&self.headers);
        let modern = self.goes_as_it_is(session) || session.dialect == Dialect::Stateless;
        let mark = if modern { RequestHeaders::Stateless(session, &routing) } else { RequestHeaders::Session(session) };
        let mut answering = self.upstream.call(mark, self.message(session, &own)).await?;
        while let Some(message) = answering.next().await? {
            match read_whole(message) {
                Ok((text, Envelope::Response { id: answered, error, result })) => {
                    if !is_own_id(answered.of(&text), &own) && answered.of(&text) != "null" {
                        tracing::debug!(server = %self.upstream, "a response to another request was left out");
                        continue;
                    }
                    if let Some(problem) = self.interrupted(&text, error) {
                        return Err(SendError::Interrupted(problem));
                    }
                    return Ok(self.answered(text, answered, result, id));
                }
                Ok((text, Envelope::Notification { method, params })) => {
                    self.pass(&text, params, Notification::read(&text, &method, params), &own).await;
                }
                Ok((text, Envelope::Request { .. })) => {
                    let (upstream, session) = (Arc::clone(self.upstream), Arc::clone(session));
                    while asked.try_join_next().is_some() {}
                    // Who asks more at once than it could be answered is not answered.
                    if asked.len() < MAX_ASKED {
                        asked.spawn(ask::answer(upstream, session, text, Some(self.cause(id))));
                    }
                }
                Err(why) => nonsense = Some(why),
            }
        }
        Err(answering.interrupted(nonsense.as_deref().unwrap_or("it ended without a response")))
    }

    /// The response to request `call` as its client sees it.
    fn answered(&self, text: String, answered: Span, result: Option<Span>, call: u64) -> String {
        let mut edits = vec![(answered, Cow::Borrowed(self.call.id()))];
        let RequestHandler { gateway, client, .. } = self.caller;
        let (key, server_key) = (gateway.clients.key(), &self.upstream.server_key);
        let name = |at: Span| at.string(&text).map(|id| (at, Cow::Owned(client.name_of(key, server_key, &id))));
        match (self.tasks, result) {
            (TaskUse::None, _) | (_, None) => {}
            (TaskUse::MayBegin, Some(result)) => {
                if let Some((at, id)) = crate::gateway::mcp::protocol::task_fields::made(&text, result)
                    .and_then(|at| Some((at, at.string(&text)?)))
                {
                    client.began_task(
                        server_key,
                        &id,
                        self.token.map(|token| (call, token.of(&self.call.text).to_owned())),
                    );
                    edits.extend(name(at));
                }
            }
            (TaskUse::About(_), Some(result)) => {
                edits.extend(crate::gateway::mcp::protocol::task_fields::named(&text, result).and_then(name));
                edits.extend(crate::gateway::mcp::protocol::task_fields::related(&text, result).and_then(name));
            }
        }
        edited(text, edits)
    }

    pub(super) fn cause(&self, call: u64) -> RequestCause {
        let RequestHandler { client, out, streams, .. } = self.caller;
        let token = self.token.map(|token| token.of(&self.call.text).to_owned());
        let task = match self.tasks {
            TaskUse::About(task) if self.call.method == "tasks/result" => Some(task.to_owned()),
            TaskUse::About(_) | TaskUse::MayBegin | TaskUse::None => None,
        };
        RequestCause { call, client: Arc::clone(client), out: out.clone(), streams: *streams, token, task }
    }

    /// Whether client and backend both speak 2026-07-28.
    fn goes_as_it_is(&self, session: &UpstreamSession) -> bool {
        self.caller.client.is_stateless() && session.dialect != Dialect::SessionBased
    }

    /// Whether an older client meets a backend that speaks 2026-07-28 only.
    pub(super) fn is_bridged(&self, session: &UpstreamSession) -> bool {
        !self.caller.client.is_stateless() && session.dialect == Dialect::Stateless
    }

    /// The request as the backend sees it.
    fn message(&self, session: &UpstreamSession, id: &str) -> String {
        let mut edits = self.edits.clone();
        edits.push((self.call.id, id.into()));
        edits.extend(self.token.map(|token| (token, id.into())));
        let message = splice(&self.call.text, &mut edits);
        match (self.caller.client.is_stateless(), session.dialect) {
            (true, Dialect::Both | Dialect::Stateless) | (false, Dialect::SessionBased | Dialect::Both) => message,
            (true, Dialect::SessionBased) => translate::plain(message),
            (false, Dialect::Stateless) => {
                translate::modernized(&message, &translate::meta_of(&self.caller.client), &self.input)
            }
        }
    }

    /// A message that came before the response.
    async fn pass(&self, text: &str, params: Option<Span>, notice: Notification, id: &str) {
        let message = match notice {
            Notification::Progress(at) => match self.token {
                Some(token) if is_own_id(at.of(text), id) => {
                    let mut edits = vec![(at, Cow::Borrowed(token.of(&self.call.text)))];
                    edits.extend(self.upstream.related_edit(&self.caller.client, text, params));
                    splice(text, &mut edits)
                }
                Some(_) | None => return,
            },
            Notification::Task(at) => return self.upstream.task_told(text, at),
            Notification::Log(level) => {
                let RequestHandler { gateway, client, context, .. } = self.caller;
                let shown = match client.is_stateless() {
                    true => context.level.is_some_and(|wanted| level >= wanted),
                    false => gateway.clients.shows(client, &self.upstream.server_key, level),
                };
                if !shown {
                    return;
                }
                text.to_owned()
            }
            Notification::Changed(topic) => return self.upstream.changed(topic).await,
            Notification::Updated(uri) => return self.upstream.updated(&uri, text, params),
            Notification::Cancelled(asked) => return self.upstream.asked.cancel(asked.of(text), text.to_owned()),
            Notification::Acknowledged(_) => return,
            Notification::Other => text.to_owned(),
        };
        // Nobody reads any more: the client went away, and so will this request.
        let _ = self.caller.out.send(message).await;
    }

    /// The problem in a response by which the instance says that its server ended before it answered. It matters only
    /// for a request that can be repeated; any other client is given the response as it is.
    fn interrupted(&self, text: &str, error: Option<Span>) -> Option<Problem> {
        handshake::ended(text, error.filter(|_| self.repeatable))
    }

    /// Tells the backend that the client gave the request up.
    async fn cancel(&self, session: &UpstreamSession, id: u64, notification: &str) {
        let Ok(Envelope::Notification { params: Some(params), .. }) = Envelope::parse(notification) else { return };
        let request = Object::parse(notification, params).ok().and_then(|params| params.get("requestId"));
        let Some(request) = request else { return };
        let message = splice(notification, &mut [(request, id.to_string().into())]);
        let notified = tokio::time::timeout(TELL, self.upstream.cancel(session, message)).await;
        if !matches!(notified, Ok(Ok(()))) {
            tracing::debug!(server = %self.upstream, "a cancellation did not reach it");
        }
    }
}

/// Tells the backend of a request that its client, which has no session, does not wait for any more: going away is how
/// such a client cancels.
struct GiveUpOnDrop {
    upstream: Arc<Upstream>,
    session: Arc<UpstreamSession>,
    id: u64,
    notified: bool,
}

impl GiveUpOnDrop {
    fn of(relay: &Relay<'_>, session: &Arc<UpstreamSession>, id: u64) -> Self {
        let notified = !relay.caller.client.is_stateless();
        Self { upstream: Arc::clone(relay.upstream), session: Arc::clone(session), id, notified }
    }
}

impl Drop for GiveUpOnDrop {
    fn drop(&mut self) {
        if self.notified {
            return;
        }
        let (upstream, session, id) = (Arc::clone(&self.upstream), Arc::clone(&self.session), self.id);
        tokio::spawn(async move { upstream.give_up(&session, id).await });
    }
}
