//! The HTTP face of a stdio server.
//!
//! Owns [`Front`], which answers the hub, and [`Plug`], which the supervisor holds and which begins and ends lives.
//! Invariant: a request reaches the life that its session id names, or is refused as not executed. A request whose life
//! ends before the answer gets an error that says so, never silence; "not executed" only if the pipe shows that the
//! server had not read all of it.
//! Never: re-serialises a message.

use super::initialize::{self, Outcome};
use super::life::{Call, Life, Session, one_line};
use super::message::{Id, Message, Opening};
use super::routes::{Part, Refused};
use super::{Names, may_wait, whole_body};
use crate::board::Board;
use crate::respond::{self, Answer};
use crate::supervisor::Process;
use crate::supervisor::output::Log;
use axum::body::Body;
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::stream::{self, StreamExt};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use linchpin_shared::problem::{Code, Problem};
use linchpin_shared::protocol::mcp::SESSION;
use linchpin_shared::protocol::vitals::{Server, Transport};
use serde_json::json;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

/// The supervisor's end: it says when a life begins.
#[derive(Debug)]
pub(crate) struct Plug {
    names: Names,
    lives: watch::Sender<Option<Arc<Life>>>,
    board: Arc<Board>,
    max_line: usize,
}

impl Plug {
    /// A server that was not started yet, and the longest line that it may write.
    pub(crate) fn new(names: Names, board: Arc<Board>, max_line: usize) -> Self {
        let plug = Self { names, lives: watch::Sender::new(None), board, max_line };
        plug.put_up(false, 0);
        plug
    }

    /// What a front needs of this plug, which the supervisor takes.
    pub(crate) fn lives(&self) -> Lives {
        Lives { names: self.names.clone(), lives: self.lives.subscribe() }
    }

    /// Begins a life on the pipes of a process that was just started.
    pub(crate) fn begin(&self, epoch: u64, stdin: OwnedFd, stdout: OwnedFd, log: Log) -> io::Result<Session> {
        let session = Session::begin(epoch, stdin, stdout, self.max_line, log)?;
        self.lives.send_replace(Some(Arc::clone(&session.life)));
        self.put_up(true, epoch);
        Ok(session)
    }

    /// Ends a life.
    pub(crate) async fn end(&self, session: Session, how: String) {
        let epoch = session.life.epoch;
        self.lives.send_replace(None);
        session.end(how).await;
        self.put_up(false, epoch);
    }

    fn put_up(&self, up: bool, epoch: u64) {
        let name = self.names.server.clone();
        self.board.set_server(Server { name, transport: Transport::Stdio, up, epoch });
    }
}

/// The lives that a plug begins and ends.
#[derive(Debug)]
pub(crate) struct Lives {
    names: Names,
    lives: watch::Receiver<Option<Arc<Life>>>,
}

impl Lives {
    /// The face of this server, which `process` runs, and the largest message that it takes.
    pub(crate) fn front(self, process: Process, max_message: usize) -> Front {
        let Self { names, lives } = self;
        Front { names, lives, process, max_message }
    }
}

/// The hub's end.
#[derive(Debug)]
pub(crate) struct Front {
    names: Names,
    lives: watch::Receiver<Option<Arc<Life>>>,
    process: Process,
    max_message: usize,
}

impl Front {
    /// Answers one HTTP request.
    pub(crate) async fn handle(&self, request: Request<Body>) -> Answer {
        let (head, body) = request.into_parts();
        let answered = match head.method {
            Method::POST => self.post(&head.headers, body).await,
            Method::GET => self.listen(&head.headers),
            _ => Err(self.no_such_method(&head.method)),
        };
        answered.unwrap_or_else(|refusal| refusal)
    }

    async fn post(&self, headers: &HeaderMap, body: Body) -> Result<Answer, Answer> {
        let body = whole_body(body, self.max_message).await?;
        let Some(message) = Message::look(&body) else {
            let problem = Problem::new(Code::BadRequest, "the body is not one JSON-RPC message")
                .next("send one JSON object with a method, or with an id and a result or error");
            return Err(respond::problem(&problem));
        };
        let (id, token) = match message {
            Message::Request { id, opening: Some(opening), token: _ } if begins(opening, headers) => {
                return self.begin(opening, id, body, may_wait(headers)).await;
            }
            Message::Request { id, opening: _, token } => (id, token),
            Message::Initialized => {
                let told = self.life(headers)?.tell_initialized(body).await;
                return told.map(|()| respond::empty(StatusCode::ACCEPTED)).map_err(|_| self.down());
            }
            Message::Response(_) | Message::Progress(_) | Message::Notification => {
                let told = self.life(headers)?.tell(body).await;
                return told.map(|()| respond::empty(StatusCode::ACCEPTED)).map_err(|_| self.down());
            }
        };
        match self.life(headers)?.call(id, token, body).await {
            Ok(call) => self.answer(call).await,
            Err(Refused::Over) => Err(self.down()),
            Err(Refused::Duplicate) => {
                let problem = Problem::new(Code::BadRequest, "another request with this id is under way")
                    .next("give every request an id of its own");
                Err(respond::problem(&problem))
            }
        }
    }

    /// The answer as one JSON message, or as a stream when other messages of the request come before it.
    async fn answer(&self, mut call: Call) -> Result<Answer, Answer> {
        match call.next().await {
            Some(Part::Answer(message)) => Ok(respond::raw_json(message)),
            None if call.not_executed() => Err(self.down()),
            None => Ok(respond::raw_json(interrupted(&call, &self.names))),
            Some(Part::Note(first)) => {
                let rest = stream::unfold(Some((call, self.names.clone())), rest);
                Ok(respond::stream("text/event-stream", stream::iter([event(first)]).chain(rest)))
            }
        }
    }

    /// The stream of all messages that belong to no request.
    fn listen(&self, headers: &HeaderMap) -> Result<Answer, Answer> {
        let messages = self.life(headers)?.listen().map_err(|_| self.down())?;
        Ok(respond::stream("text/event-stream", ReceiverStream::new(messages).map(event)))
    }

    /// Answers what may come first, and says which life answered.
    async fn begin(&self, opening: Opening, id: Id, body: Bytes, wait: Duration) -> Result<Answer, Answer> {
        let deadline = Instant::now() + wait;
        let mut after = 0;
        loop {
            let life = self.next_life(after, deadline).await.ok_or_else(|| self.down())?;
            after = life.epoch;
            let outcome = match opening {
                Opening::Initialize => initialize::initialize(Arc::clone(&life), id.clone(), body.clone()).await,
                Opening::Discover => initialize::discover(&life, id.clone(), body.clone()).await,
            };
            match outcome {
                Outcome::Ready(message) => {
                    let mut answer = respond::raw_json(message);
                    // A session id is hexadecimal digits.
                    if let Ok(session) = HeaderValue::from_str(&life.session) {
                        answer.headers_mut().insert(SESSION, session);
                    }
                    return Ok(answer);
                }
                Outcome::Refused(message) => return Ok(respond::raw_json(message)),
                Outcome::Otherwise => self.process.restart(),
                Outcome::Over => {}
                Outcome::Ended(call) => return Ok(respond::raw_json(interrupted(&call, &self.names))),
            }
        }
    }

    /// A life later than `after`, as soon as there is one, but not beyond the deadline.
    async fn next_life(&self, after: u64, deadline: Instant) -> Option<Arc<Life>> {
        let mut lives = self.lives.clone();
        let newer = |life: &Option<Arc<Life>>| life.as_ref().is_some_and(|life| life.epoch > after);
        let found = lives.wait_for(newer);
        let life = tokio::time::timeout_at(deadline, found).await.ok()?.ok()?;
        life.clone()
    }

    /// The life that the request's session id names.
    fn life(&self, headers: &HeaderMap) -> Result<Arc<Life>, Answer> {
        let Some(session) = headers.get(SESSION) else {
            let problem = Problem::new(Code::BadRequest, format!("the request has no {SESSION} header"))
                .next("initialize first, or ask for server/discover, and send the session id of that answer");
            return Err(respond::not_executed(&problem));
        };
        let life = self.lives.borrow().clone().ok_or_else(|| self.down())?;
        if session.as_bytes() == life.session.as_bytes() {
            return Ok(life);
        }
        let problem = Problem::new(Code::NotFound, "this MCP session has ended: the server was started again")
            .seen("epoch", life.epoch)
            .next("initialize again");
        Err(respond::not_executed(&problem))
    }

    fn down(&self) -> Answer {
        let Names { instance, server } = &self.names;
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

    fn no_such_method(&self, method: &Method) -> Answer {
        let problem = Problem::new(Code::MethodNotAllowed, format!("{method} is not allowed here"))
            .seen("why", "a session is as long as the life of the server's process, so it cannot be deleted")
            .next(format!("linchpin restart {}", self.names.instance));
        respond::problem(&problem)
    }
}

/// Whether a request is the first of a session, or asks for what need not have one.
fn begins(opening: Opening, headers: &HeaderMap) -> bool {
    match opening {
        Opening::Initialize => true,
        Opening::Discover => !headers.contains_key(SESSION),
    }
}

/// The events after the first, the last of which is the answer.
async fn rest(under_way: Option<(Call, Names)>) -> Option<(Bytes, Option<(Call, Names)>)> {
    let (mut call, names) = under_way?;
    match call.next().await {
        Some(Part::Note(message)) => Some((event(message), Some((call, names)))),
        Some(Part::Answer(message)) => Some((event(message), None)),
        None => Some((event(interrupted(&call, &names)), None)),
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

/// The JSON-RPC error of a request whose server ended: it may have been executed, so it is never repeated by us.
fn interrupted(call: &Call, names: &Names) -> Bytes {
    let Names { instance, server } = names;
    let detail = format!("the MCP server {server:?} of {instance} ended before it answered: {}", call.life.end());
    let problem = Problem::new(Code::CallInterrupted, detail)
        .seen("epoch", call.life.epoch)
        .next("check whether the call took effect before you repeat it")
        .next(format!("linchpin logs {instance}"));
    let error = json!({"code": -32000, "message": problem.detail, "data": problem});
    format!(r#"{{"jsonrpc":"2.0","id":{},"error":{error}}}"#, call.id.as_json()).into()
}
