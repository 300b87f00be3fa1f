//! One request, carried to one backend and back.
//!
//! Owns [`Relay`]: the request with its known fields rewritten, the wait for a session, and the rule of what is repeated.
//! Invariant: a request that may have been executed is sent again only if that does no harm, and then once; a request
//! that surely was not executed is sent again until the time to wait is used up. What an older client is asked by a
//! backend without sessions is in [`super::input_rounds`].
//! Never: looks into a result, or holds a large one twice: what came from the backend is edited in place and handed on.

use super::call::{Call, Edits, Reply};
use super::dispatch::{Caller, unless_cancelled};
use crate::gateway::mcp::protocol::envelope::{Envelope, is_own_id};
use crate::gateway::mcp::protocol::errors::RpcError;
use crate::gateway::mcp::protocol::json::{Object, Span, edited, splice};
use crate::gateway::mcp::protocol::notification::Notice;
use crate::gateway::mcp::protocol::param_headers::Mirror;
use crate::gateway::mcp::protocol::translate;
use crate::gateway::mcp::session::in_flight::Entry;
use crate::gateway::mcp::upstream::body::read_whole;
use crate::gateway::mcp::upstream::http_client::{Broken, Mark, Routing};
use crate::gateway::mcp::upstream::session::{Era, Session};
use crate::gateway::mcp::upstream::{Cause, Upstream, ask, handshake};
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
    caller: &'a Caller,
    pub(super) call: &'a Call,
    pub(crate) upstream: &'a Arc<Upstream>,
    edits: Edits<'a>,
    token: Option<Span>,
    about: Option<&'a str>,
    tasks: Tasks<'a>,
    headers: HeaderMap,
    repeatable: bool,
    patience: Duration,
    /// What the client answered to the server, as members of the params.
    input: String,
}

/// What a request has to do with tasks.
#[derive(Debug, Clone, Copy)]
enum Tasks<'a> {
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
    Broken(Broken),
}

impl<'a> Relay<'a> {
    /// A request to this backend with these edits; `repeatable` if executing it twice does no harm.
    pub(crate) fn new(
        caller: &'a Caller,
        call: &'a Call,
        upstream: &'a Arc<Upstream>,
        edits: Edits<'a>,
        repeatable: bool,
    ) -> Result<Self, RpcError> {
        let (token, patience) = (call.progress_token()?, caller.gateway.wait);
        let tasks = if caller.may_begin_task(call)? { Tasks::MayBegin } else { Tasks::None };
        let headers = caller.besides.params.clone();
        let input = String::new();
        Ok(Self { caller, call, upstream, edits, token, about: None, tasks, headers, repeatable, patience, input })
    }

    /// About this task, as the backend calls it.
    pub(crate) fn of_task(self, task: &'a str) -> Self {
        Self { about: Some(task), tasks: Tasks::About(task), ..self }
    }

    /// Whose result is handed on as it is, also if it is a task.
    pub(crate) fn without_tasks(self) -> Self {
        Self { tasks: Tasks::None, ..self }
    }

    /// With headers that repeat these arguments, as far as the backend wants any.
    pub(crate) fn repeating(mut self, mirror: Option<&Mirror>, arguments: &str) -> Self {
        if let Some(mirror) = mirror {
            self.headers = mirror.made(arguments);
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
    pub(crate) async fn run(mut self, entry: &mut Entry) -> Result<Reply, RpcError> {
        let (mut lost, mut rounds) = (0, 0);
        loop {
            let begun = Instant::now();
            let session = tokio::select! {
                session = self.upstream.ready(lost, begun + self.patience) => session.map_err(RpcError::on_the_way)?,
                _ = entry.cancelled() => return Ok(Reply::Cancelled),
            };
            self.patience = self.patience.saturating_sub(begun.elapsed());
            if let Some(reply) = self.is_subscription(&session) {
                return reply;
            }
            match self.attempt(&session, entry).await {
                Attempt::Answered(response) => match self.wants(&session, &response) {
                    None => return Ok(Reply::Response(response)),
                    Some(wants) => {
                        rounds += 1;
                        let input = unless_cancelled(entry, self.input(&session, wants, rounds)).await?;
                        let Some(input) = input else { return Ok(Reply::Cancelled) };
                        self.input = input;
                    }
                },
                Attempt::Cancelled => return Ok(Reply::Cancelled),
                Attempt::Broken(Broken::NotExecuted(_) | Broken::SessionLost(_)) => lost = session.number,
                Attempt::Broken(Broken::Interrupted(_)) if self.repeatable => self.repeatable = false,
                Attempt::Broken(Broken::Interrupted(problem) | Broken::Refused(problem)) => {
                    return Err(RpcError::on_the_way(problem));
                }
            }
        }
    }

    async fn attempt(&self, session: &Arc<Session>, entry: &mut Entry) -> Attempt {
        let id = self.upstream.next_id();
        let _under_way = self.upstream.under_way(self.cause(id));
        let mut given_up = GivenUp::of(self, session, id);
        let mut exchange = std::pin::pin!(self.exchange(session, id));
        tokio::select! {
            done = &mut exchange => {
                given_up.told = true;
                done.map_or_else(Attempt::Broken, Attempt::Answered)
            }
            notification = entry.cancelled() => {
                given_up.told = true;
                self.cancel(session, id, &notification).await;
                Attempt::Cancelled
            }
        }
    }

    /// Sends the request and hands on its messages until the response, which it gives with the client's id.
    async fn exchange(&self, session: &Arc<Session>, id: u64) -> Result<String, Broken> {
        let own = id.to_string();
        // What the server asks is open as long as the request that made it ask.
        let mut asked = JoinSet::new();
        let mut nonsense = None;
        let routing = Routing::of(&self.call.method, self.about).with(&self.headers);
        let modern = self.goes_as_it_is(session) || session.era == Era::Modern;
        let mark = if modern { Mark::Modern(session, &routing) } else { Mark::Session(session) };
        let mut answering = self.upstream.call(mark, self.message(session, &own)).await?;
        while let Some(message) = answering.next().await? {
            match read_whole(message) {
                Ok((text, Envelope::Response { id: answered, error, result })) => {
                    if !is_own_id(answered.of(&text), &own) && answered.of(&text) != "null" {
                        tracing::debug!(server = %self.upstream, "a response to another request was left out");
                        continue;
                    }
                    if let Some(problem) = self.interrupted(&text, error) {
                        return Err(Broken::Interrupted(problem));
                    }
                    return Ok(self.answered(text, answered, result, id));
                }
                Ok((text, Envelope::Notification { method, params })) => {
                    self.pass(&text, params, Notice::read(&text, &method, params), &own).await;
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
        let Caller { gateway, client, .. } = self.caller;
        let (key, place) = (gateway.clients.key(), &self.upstream.place);
        let name = |at: Span| at.string(&text).map(|id| (at, Cow::Owned(client.name_of(key, place, &id))));
        match (self.tasks, result) {
            (Tasks::None, _) | (_, None) => {}
            (Tasks::MayBegin, Some(result)) => {
                if let Some((at, id)) = crate::gateway::mcp::protocol::task_fields::made(&text, result)
                    .and_then(|at| Some((at, at.string(&text)?)))
                {
                    client.began_task(place, &id, self.token.map(|token| (call, token.of(&self.call.text).to_owned())));
                    edits.extend(name(at));
                }
            }
            (Tasks::About(_), Some(result)) => {
                edits.extend(crate::gateway::mcp::protocol::task_fields::named(&text, result).and_then(name));
                edits.extend(crate::gateway::mcp::protocol::task_fields::related(&text, result).and_then(name));
            }
        }
        edited(text, edits)
    }

    pub(super) fn cause(&self, call: u64) -> Cause {
        let Caller { client, out, streams, .. } = self.caller;
        let token = self.token.map(|token| token.of(&self.call.text).to_owned());
        let task = match self.tasks {
            Tasks::About(task) if self.call.method == "tasks/result" => Some(task.to_owned()),
            Tasks::About(_) | Tasks::MayBegin | Tasks::None => None,
        };
        Cause { call, client: Arc::clone(client), out: out.clone(), streams: *streams, token, task }
    }

    /// Whether client and backend both speak 2026-07-28.
    fn goes_as_it_is(&self, session: &Session) -> bool {
        self.caller.client.is_modern() && session.era != Era::Older
    }

    /// Whether an older client meets a backend that speaks 2026-07-28 only.
    pub(super) fn is_bridged(&self, session: &Session) -> bool {
        !self.caller.client.is_modern() && session.era == Era::Modern
    }

    /// The request as the backend sees it.
    fn message(&self, session: &Session, id: &str) -> String {
        let mut edits = self.edits.clone();
        edits.push((self.call.id, id.into()));
        edits.extend(self.token.map(|token| (token, id.into())));
        let message = splice(&self.call.text, &mut edits);
        match (self.caller.client.is_modern(), session.era) {
            (true, Era::Both | Era::Modern) | (false, Era::Older | Era::Both) => message,
            (true, Era::Older) => translate::plain(message),
            (false, Era::Modern) => {
                translate::modernized(&message, &translate::meta_of(&self.caller.client), &self.input)
            }
        }
    }

    /// A message that came before the response.
    async fn pass(&self, text: &str, params: Option<Span>, notice: Notice, id: &str) {
        let message = match notice {
            Notice::Progress(at) => match self.token {
                Some(token) if is_own_id(at.of(text), id) => {
                    let mut edits = vec![(at, Cow::Borrowed(token.of(&self.call.text)))];
                    edits.extend(self.upstream.related_edit(&self.caller.client, text, params));
                    splice(text, &mut edits)
                }
                Some(_) | None => return,
            },
            Notice::Task(at) => return self.upstream.task_told(text, at),
            Notice::Log(level) => {
                let Caller { gateway, client, besides, .. } = self.caller;
                let shown = match client.is_modern() {
                    true => besides.level.is_some_and(|wanted| level >= wanted),
                    false => gateway.clients.shows(client, &self.upstream.place, level),
                };
                if !shown {
                    return;
                }
                text.to_owned()
            }
            Notice::Changed(topic) => return self.upstream.changed(topic).await,
            Notice::Updated(uri) => return self.upstream.updated(&uri, text, params),
            Notice::Cancelled(asked) => return self.upstream.asked.cancel(asked.of(text), text.to_owned()),
            Notice::Acknowledged(_) => return,
            Notice::Other => text.to_owned(),
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
    async fn cancel(&self, session: &Session, id: u64, notification: &str) {
        let Ok(Envelope::Notification { params: Some(params), .. }) = Envelope::parse(notification) else { return };
        let request = Object::parse(notification, params).ok().and_then(|params| params.get("requestId"));
        let Some(request) = request else { return };
        let message = splice(notification, &mut [(request, id.to_string().into())]);
        let told = tokio::time::timeout(TELL, self.upstream.cancel(session, message)).await;
        if !matches!(told, Ok(Ok(()))) {
            tracing::debug!(server = %self.upstream, "a cancellation did not reach it");
        }
    }
}

/// Tells the backend of a request that its client, which has no session, does not wait for any more: going away is how
/// such a client cancels.
struct GivenUp {
    upstream: Arc<Upstream>,
    session: Arc<Session>,
    id: u64,
    told: bool,
}

impl GivenUp {
    fn of(relay: &Relay<'_>, session: &Arc<Session>, id: u64) -> Self {
        let told = !relay.caller.client.is_modern();
        Self { upstream: Arc::clone(relay.upstream), session: Arc::clone(session), id, told }
    }
}

impl Drop for GivenUp {
    fn drop(&mut self) {
        if self.told {
            return;
        }
        let (upstream, session, id) = (Arc::clone(&self.upstream), Arc::clone(&self.session), self.id);
        tokio::spawn(async move { upstream.give_up(&session, id).await });
    }
}
