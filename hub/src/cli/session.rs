//! One MCP session with the hub that outlives the hub.
//!
//! Owns the current connection ("life") to a hub: its address, the session id and the negotiated version. When the hub
//! is gone it is found or started again and the agent's own `initialize` is replayed; all who noticed the loss share one
//! replay. Invariant: a message is sent again only when the hub surely did not act on it, or when repeating it changes
//! nothing ([`Repeat`]); and nothing waits for a hub that shows no sign of life ([`Pulse`]).
//! Never: keeps anything of the agent's but its `initialize`.

use super::lost::{Lost, chain, interrupted, silent, silent_hub, unreachable, was_reset};
use super::pulse::Pulse;
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
    pulse: Pulse,
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
                Lost::Silent(pid) => return Err(silent_hub(pid, repeat)),
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
            let (http, pulse) = (client::http_to(&hub)?, Pulse::default());
            let mut life = Life { http, hub, session: None, version: None, replayed, pulse };
            match self.initialize_at(&mut life, initialize).await {
                Ok(answer) => return Ok((life, answer)),
                Err(Lost::Refused(problem)) => return Err(problem),
                Err(Lost::Silent(pid)) => return Err(silent_hub(pid, Repeat::Safe)),
                Err(Lost::NotExecuted(why) | Lost::Interrupted(why)) => cause = why,
            }
        }
        Err(unreachable(&cause))
    }

    async fn initialize_at(&self, life: &mut Life, initialize: &Bytes) -> Result<Bytes, Lost> {
        let (out, mut answers) = mpsc::channel(8);
        let collect = async move {
            let mut last = Bytes::new();
            while let Some(message) = answers.recv().await {
                last = message;
            }
            last
        };
        let exchange = async {
            let response = self.post(life, initialize).await?;
            let session = response.headers().get(SESSION).and_then(|value| value.to_str().ok()).map(str::to_owned);
            forward(response, None, &out).await?;
            drop(out);
            Ok(session)
        };
        let (session, answer) = tokio::join!(self.attended(life, exchange), collect);
        life.session = session?;
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
        match self.attended(life, self.post(life, &message)).await {
            Ok(_) => Ok(()),
            Err(Lost::Refused(problem)) => Err(problem),
            Err(Lost::Silent(pid)) => Err(silent_hub(pid, Repeat::Safe)),
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
        self.attended(life, async {
            let response = self.post(life, message).await?;
            forward(response, id, out).await
        })
        .await
    }

    /// An exchange that ends when the hub shows no sign of life.
    async fn attended<T>(&self, life: &Life, exchange: impl Future<Output = Result<T, Lost>>) -> Result<T, Lost> {
        let health = format!("{}/health", life.hub.url);
        let answers = |within| {
            let probe = life.http.get(&health).timeout(within).send();
            async move { probe.await.is_ok() }
        };
        tokio::select! {
            biased;
            done = exchange => done,
            () = life.pulse.silence(answers) => Err(Lost::Silent(life.hub.process.pid)),
        }
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
