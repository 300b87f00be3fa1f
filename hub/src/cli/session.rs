//! One MCP session with the hub that outlives the hub.
//!
//! Owns the current connection ("life") to a hub: its address, the session id and the negotiated version. When the hub
//! is gone it is found or started again and the agent's own `initialize` is replayed; all who noticed the loss share one
//! replay. Invariant: a message is sent again only when the hub surely did not act on it, or when repeating it changes
//! nothing ([`Repeat`]). Never: keeps anything of the agent's but its `initialize`.

use super::reach::reach;
use super::{Context, client, reply};
use crate::daemon::file::HubFile;
use crate::gateway::mcp::sse;
use bytes::Bytes;
use futures_util::StreamExt;
use linchpin_shared::home::Home;
use linchpin_shared::problem::{Code, MEDIA_TYPE, Problem};
use linchpin_shared::protocol::mcp::{SESSION, VERSION};
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use reqwest::{Response, StatusCode};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, mpsc};

/// How often one message meets a hub that has just gone before the agent is told.
const TRIES: u32 = 4;

/// The pause between two such tries.
const PAUSE: Duration = Duration::from_millis(50);

/// The largest message from the hub, in bytes. The hub bounds what servers send; this bounds a defect of the hub.
const MAX_EVENT: usize = 256 << 20;

/// How often to look for a hub that was stopped on purpose.
const IDLE: Duration = Duration::from_secs(1);

/// Whether a message may be sent again although the hub may have acted on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    /// Repeating changes nothing: it only reads.
    Safe,
    /// It may have been executed.
    Unsafe,
}

/// A session over any number of hub lives.
pub(super) struct Session {
    home: Home,
    autostart: bool,
    path: String,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    initialize: Option<Bytes>,
    life: Option<Arc<Life>>,
}

/// The session as one hub knows it.
pub(super) struct Life {
    hub: HubFile,
    http: reqwest::Client,
    session: Option<String>,
    version: Option<String>,
    /// Whether an earlier one was lost.
    pub(super) replayed: bool,
}

/// Why a message got no answer.
enum Lost {
    /// It never left, or the hub refused it: nothing was done.
    NotExecuted(String),
    /// The connection broke after it had been sent.
    Interrupted(String),
    /// The hub said why not.
    Refused(Problem),
}

/// What of an initialize result the session itself needs.
#[derive(Deserialize)]
struct Initialized {
    result: Option<Negotiated>,
}

#[derive(Deserialize)]
struct Negotiated {
    #[serde(rename = "protocolVersion")]
    protocol_version: String,
}

impl Session {
    /// A session at `path` of the hub of this home. Nothing happens before [`Session::initialize`].
    pub(super) fn new(context: &Context, path: String) -> Self {
        let (home, autostart) = (context.home.clone(), context.autostart);
        Self { home, autostart, path, state: Mutex::default() }
    }

    /// Begins the session with the agent's own message, and returns the hub's answer to it.
    pub(super) async fn initialize(&self, message: Bytes) -> Result<Bytes, Problem> {
        let mut state = self.state.lock().await;
        let (life, answer) = self.connect(&message, false).await?;
        *state = State { initialize: Some(message), life: Some(Arc::new(life)) };
        Ok(answer)
    }

    /// Sends a message and hands every message that answers it to `out`. `id` is a request's own.
    pub(super) async fn send(
        &self,
        message: &Bytes,
        id: Option<&RawValue>,
        repeat: Repeat,
        out: &mpsc::Sender<Bytes>,
    ) -> Result<(), Problem> {
        let mut life = self.life().await?;
        let mut tries = 0;
        loop {
            tries += 1;
            let lost = match self.exchange(&life, message, id, out).await {
                Ok(()) => return Ok(()),
                Err(lost) => lost,
            };
            match lost {
                Lost::Interrupted(cause) if repeat == Repeat::Unsafe => return Err(interrupted(&cause)),
                Lost::NotExecuted(cause) | Lost::Interrupted(cause) if tries == TRIES => {
                    return Err(unreachable(&cause));
                }
                Lost::Refused(problem) => return Err(problem),
                Lost::NotExecuted(_) | Lost::Interrupted(_) => {
                    tokio::time::sleep(PAUSE * (tries - 1)).await;
                    life = self.renew(&life).await?;
                }
            }
        }
    }

    /// Hands what the hub says by itself to `out` for as long as this life of the session lasts, then returns the next.
    pub(super) async fn listen(&self, life: Arc<Life>, out: &mpsc::Sender<Bytes>) -> Result<Arc<Life>, Problem> {
        let request = life.http.get(self.url(&life)).header(ACCEPT, "text/event-stream");
        match self.with_session(request, &life).send().await {
            Ok(response) if response.status().is_success() => {
                let _ = forward(response, None, out).await;
            }
            Ok(response) if response.status() == StatusCode::NOT_FOUND => return self.renew(&life).await,
            Ok(_) => tokio::time::sleep(IDLE).await,
            Err(_) => {}
        }
        tokio::time::sleep(PAUSE).await;
        self.next_life(life).await
    }

    /// The current life.
    pub(super) async fn life(&self) -> Result<Arc<Life>, Problem> {
        self.state.lock().await.life.clone().ok_or_else(|| {
            Problem::new(Code::BadRequest, "the session has not been initialized").next("send initialize first")
        })
    }

    /// Ends the session at the hub, if both are there.
    pub(super) async fn close(&self) {
        if let Ok(life) = self.life().await {
            let request = life.http.delete(self.url(&life)).timeout(Duration::from_secs(1));
            let _ = self.with_session(request, &life).send().await;
        }
    }

    /// The life after a stream has ended. The hub may have ended the stream only, and goes on; or it was stopped on
    /// purpose, and is started again only by a message that needs it.
    async fn next_life(&self, life: Arc<Life>) -> Result<Arc<Life>, Problem> {
        loop {
            match HubFile::read(&self.home)? {
                Some(hub) if hub.stopped_at.is_some() => tokio::time::sleep(IDLE).await,
                Some(hub) if hub.process == life.hub.process && hub.process.is_alive() => return self.life().await,
                Some(_) | None => return self.renew(&life).await,
            }
        }
    }

    /// The life after `stale`: the one that another caller has made meanwhile, or a new one.
    async fn renew(&self, stale: &Arc<Life>) -> Result<Arc<Life>, Problem> {
        let mut state = self.state.lock().await;
        if let Some(life) = &state.life
            && !Arc::ptr_eq(life, stale)
        {
            return Ok(life.clone());
        }
        let Some(message) = state.initialize.clone() else {
            return Err(Problem::new(Code::BadRequest, "the session has not been initialized"));
        };
        let (life, _) = self.connect(&message, true).await?;
        let life = Arc::new(life);
        self.confirm(&life).await?;
        state.life = Some(life.clone());
        Ok(life)
    }

    /// Finds or starts a hub and initializes the session there.
    async fn connect(&self, initialize: &Bytes, replayed: bool) -> Result<(Life, Bytes), Problem> {
        let mut cause = String::new();
        for tries in 0..TRIES {
            tokio::time::sleep(PAUSE * tries).await;
            let hub = reach(&self.home, self.autostart).await?;
            let mut life = Life { http: client::http_to(&hub)?, hub, session: None, version: None, replayed };
            match self.initialize_at(&mut life, initialize).await {
                Ok(answer) => return Ok((life, answer)),
                Err(Lost::Refused(problem)) => return Err(problem),
                Err(Lost::NotExecuted(why) | Lost::Interrupted(why)) => cause = why,
            }
        }
        Err(unreachable(&cause))
    }

    async fn initialize_at(&self, life: &mut Life, initialize: &Bytes) -> Result<Bytes, Lost> {
        let response = self.post(life, initialize).await?;
        life.session = response.headers().get(SESSION).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let (out, mut answers) = mpsc::channel(8);
        let collect = async move {
            let mut last = Bytes::new();
            while let Some(message) = answers.recv().await {
                last = message;
            }
            last
        };
        let (forwarded, answer) = tokio::join!(async move { forward(response, None, &out).await }, collect);
        forwarded?;
        if answer.is_empty() {
            return Err(silent(StatusCode::OK));
        }
        let negotiated = serde_json::from_slice::<Initialized>(&answer).ok().and_then(|answer| answer.result);
        life.version = negotiated.map(|result| result.protocol_version);
        Ok(answer)
    }

    /// Completes a replayed `initialize`, as the agent did with its own.
    async fn confirm(&self, life: &Life) -> Result<(), Problem> {
        let message = Bytes::from_static(br#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
        match self.post(life, &message).await {
            Ok(_) => Ok(()),
            Err(Lost::Refused(problem)) => Err(problem),
            Err(Lost::NotExecuted(cause) | Lost::Interrupted(cause)) => Err(unreachable(&cause)),
        }
    }

    async fn exchange(
        &self,
        life: &Life,
        message: &Bytes,
        id: Option<&RawValue>,
        out: &mpsc::Sender<Bytes>,
    ) -> Result<(), Lost> {
        let response = self.post(life, message).await?;
        forward(response, id, out).await
    }

    async fn post(&self, life: &Life, message: &Bytes) -> Result<Response, Lost> {
        let request = life
            .http
            .post(self.url(life))
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json, text/event-stream")
            .body(message.clone());
        if !life.hub.process.is_alive() {
            return Err(Lost::NotExecuted("the hub has died".to_owned()));
        }
        let response = self.with_session(request, life).send().await.map_err(|error| {
            let unread = error.is_connect() || was_reset(&error);
            if unread { Lost::NotExecuted(chain(&error)) } else { Lost::Interrupted(chain(&error)) }
        })?;
        match response.status() {
            // Another hub, another token; or a session that this hub does not know.
            StatusCode::UNAUTHORIZED => Err(Lost::NotExecuted("the hub has another token now".to_owned())),
            StatusCode::NOT_FOUND if life.session.is_some() => {
                Err(Lost::NotExecuted("the hub does not know the session".to_owned()))
            }
            status if !status.is_success() && has_type(&response, MEDIA_TYPE) => {
                let body = response.bytes().await.unwrap_or_default();
                Err(Lost::Refused(serde_json::from_slice(&body).unwrap_or_else(|_| {
                    Problem::new(Code::Internal, format!("the hub answered {status} without a reason"))
                })))
            }
            _ => Ok(response),
        }
    }

    fn url(&self, life: &Life) -> String {
        format!("{}{}", life.hub.url, self.path)
    }

    fn with_session(&self, mut request: reqwest::RequestBuilder, life: &Life) -> reqwest::RequestBuilder {
        request = request.bearer_auth(&life.hub.token);
        if let Some(session) = &life.session {
            request = request.header(SESSION, session);
        }
        match &life.version {
            Some(version) => request.header(VERSION, version),
            None => request,
        }
    }
}

/// Hands each message of a response to `out`, the last of them the answer to `id`.
async fn forward(response: Response, id: Option<&RawValue>, out: &mpsc::Sender<Bytes>) -> Result<(), Lost> {
    if has_type(&response, "text/event-stream") {
        return forward_events(response, out).await;
    }
    let status = response.status();
    let body = response.bytes().await.map_err(|error| Lost::Interrupted(chain(&error)))?;
    if body.is_empty() && (id.is_some() || !status.is_success()) {
        return Err(silent(status));
    }
    if !body.is_empty() {
        let _ = out.send(reply::addressed(body, id)).await;
    }
    Ok(())
}

/// A stream that breaks before the answer was cut off; after the answer that is of no interest any more. One that ends
/// well without an answer is how the hub ends a request that the agent cancelled.
async fn forward_events(response: Response, out: &mpsc::Sender<Bytes>) -> Result<(), Lost> {
    let (mut decoder, mut answered) = (sse::Decoder::new(MAX_EVENT), false);
    let mut chunks = response.bytes_stream();
    while let Some(chunk) = chunks.next().await {
        match chunk {
            Ok(chunk) => decoder.push(&chunk),
            Err(_) if answered => break,
            Err(error) => return Err(Lost::Interrupted(chain(&error))),
        }
        while let Some(event) = decoder.next().map_err(|error| Lost::Interrupted(error.to_string()))? {
            answered |= reply::is_answer(&event.data);
            let _ = out.send(event.data).await;
        }
    }
    Ok(())
}

fn has_type(response: &Response, media: &str) -> bool {
    response.headers().get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(media.as_bytes()))
}

/// Whether the connection was reset before an answer began. The hub never resets one on purpose, and the kernel does it
/// for a process that ends only if bytes for it were left unread (RFC 1122, section 4.2.2.13); it answers bytes that come
/// later in the same way. So the hub had not read the whole message, and acts on whole messages only.
fn was_reset(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        if matches!(kind, Some(ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)) {
            return true;
        }
        next = error.source();
    }
    false
}

fn silent(status: StatusCode) -> Lost {
    let detail = format!("the hub answered {status} without a body");
    Lost::Refused(Problem::new(Code::Internal, detail).next("linchpin status"))
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

fn interrupted(cause: &str) -> Problem {
    Problem::new(Code::CallInterrupted, "the hub went away during this call; whether it was executed is not known")
        .seen("cause", cause)
        .next("check its effect, then call again; the hub is being started again")
}

fn unreachable(cause: &str) -> Problem {
    Problem::new(Code::HubUnreachable, "no hub could be reached; this message had no effect")
        .seen("cause", cause)
        .next("linchpin hub")
        .next("linchpin status")
}
