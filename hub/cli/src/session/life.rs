//! One hub for as long as it lives: how a message gets there, and its answers back.
//!
//! Owns [`Life`]: the hub's address, the connection, and the session there, if its messages belong to one. Invariant: a
//! message without an answer is [`Lost`] in one of its ways, and nothing waits for a hub that shows no sign of life
//! ([`Pulse`]). Never: looks for another hub, or sends anything twice.

use super::Way;
use crate::lost::{Lost, chain, silent, was_reset};
use crate::pulse::Pulse;
use crate::reach::reach;
use crate::{client, reply};
use bytes::Bytes;
use futures_util::StreamExt;
use linchpin_shared::hub_file::HubFile;
use linchpin_shared::problem::{Code, MEDIA_TYPE, Problem};
use linchpin_shared::protocol::mcp::{SESSION, VERSION};
use linchpin_shared::sse::Decoder;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap};
use reqwest::{RequestBuilder, Response, StatusCode};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::time::Duration;
use tokio::sync::mpsc;

/// The largest message from the hub, in bytes. The hub bounds what servers send; this bounds a defect of the hub.
const MAX_EVENT: usize = 256 << 20;

/// One hub for as long as it lives.
pub(crate) struct Life {
    pub(super) hub: HubFile,
    /// Whether messages stand for themselves here (MCP 2026-07-28); else they belong to a session.
    pub(super) alone: bool,
    url: String,
    http: reqwest::Client,
    session: Option<String>,
    version: Option<String>,
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

impl Life {
    /// Finds the hub, or starts one. No session is begun yet.
    pub(super) async fn find(way: &Way, alone: bool) -> Result<Self, Problem> {
        let hub = reach(&way.home, way.autostart).await?;
        let (http, url) = (client::http_to(&hub)?, format!("{}{}", hub.url, way.path));
        Ok(Self { hub, alone, url, http, session: None, version: None, pulse: Pulse::default() })
    }

    /// The same session at the hub that is there now, which may be another.
    pub(super) async fn elsewhere(&self, way: &Way) -> Result<Self, Problem> {
        let (session, version) = (self.session.clone(), self.version.clone());
        Ok(Self { session, version, ..Self::find(way, self.alone).await? })
    }

    /// Whether it has the same session as an earlier life, and not one that was begun in its place.
    pub(crate) fn continues(&self, earlier: &Self) -> bool {
        self.session == earlier.session
    }

    /// Begins the session with the agent's own message, and returns the hub's answer to it.
    pub(super) async fn initialize(&mut self, initialize: &Bytes) -> Result<Bytes, Lost> {
        let (out, mut answers) = mpsc::channel(8);
        let collect = async move {
            let mut last = Bytes::new();
            while let Some(message) = answers.recv().await {
                last = message;
            }
            last
        };
        let exchange = async {
            let response = self.post(initialize, None).await?;
            let session = response.headers().get(SESSION).and_then(|value| value.to_str().ok()).map(str::to_owned);
            forward(response, None, &out).await?;
            drop(out);
            Ok(session)
        };
        let (session, answer) = tokio::join!(self.attended(exchange), collect);
        self.session = session?;
        if answer.is_empty() {
            return Err(silent(StatusCode::OK));
        }
        let negotiated = serde_json::from_slice::<Initialized>(&answer).ok().and_then(|answer| answer.result);
        self.version = negotiated.map(|result| result.protocol_version);
        Ok(answer)
    }

    /// Completes a replayed `initialize`, as the agent did with its own.
    pub(super) async fn confirm(&self) -> Result<(), Lost> {
        let message = Bytes::from_static(br#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
        self.attended(self.post(&message, None)).await.map(|_| ())
    }

    /// Sends a message, and hands every message that answers it to `out` for as long as the hub shows signs of life.
    pub(super) async fn exchange(
        &self,
        message: &Bytes,
        headers: Option<&HeaderMap>,
        id: Option<&RawValue>,
        out: &mpsc::Sender<Bytes>,
    ) -> Result<(), Lost> {
        self.attended(async {
            let response = self.post(message, headers).await?;
            forward(response, id, out).await
        })
        .await
    }

    /// The same for a stream that stays open: its end is noticed, and nobody owes an answer meanwhile.
    pub(crate) async fn follow(
        &self,
        message: &Bytes,
        headers: &HeaderMap,
        id: &RawValue,
        out: mpsc::Sender<Bytes>,
    ) -> Result<(), Lost> {
        let response = self.attended(self.post(message, Some(headers))).await?;
        forward(response, Some(id), &out).await
    }

    /// Hands what the hub says by itself to `out`, until it ends that; gives the status of its answer.
    pub(super) async fn listen(&self, out: &mpsc::Sender<Bytes>) -> Option<StatusCode> {
        let request = self.http.get(&self.url).header(ACCEPT, "text/event-stream");
        let response = self.marked(request).send().await.ok()?;
        let status = response.status();
        if status.is_success() {
            let _ = forward(response, None, out).await;
        }
        Some(status)
    }

    /// Ends the session at the hub, if it is there.
    pub(super) async fn close(&self) {
        let request = self.http.delete(&self.url).timeout(Duration::from_secs(1));
        let _ = self.marked(request).send().await;
    }

    /// An exchange that ends when the hub shows no sign of life.
    async fn attended<T>(&self, exchange: impl Future<Output = Result<T, Lost>>) -> Result<T, Lost> {
        let health = format!("{}/health", self.hub.url);
        let answers = |within| {
            let probe = self.http.get(&health).timeout(within).send();
            async move { probe.await.is_ok() }
        };
        tokio::select! {
            biased;
            done = exchange => done,
            () = self.pulse.silence(answers) => Err(Lost::Silent(self.hub.process.pid)),
        }
    }

    async fn post(&self, message: &Bytes, headers: Option<&HeaderMap>) -> Result<Response, Lost> {
        let mut request = self
            .http
            .post(&self.url)
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json, text/event-stream")
            .body(message.clone());
        if let Some(headers) = headers {
            request = request.headers(headers.clone());
        }
        if !self.hub.process.is_alive() {
            return Err(Lost::NotExecuted("the hub has died".to_owned()));
        }
        let response = self.marked(request).send().await.map_err(|error| {
            let unread = error.is_connect() || was_reset(&error);
            if unread { Lost::NotExecuted(chain(&error)) } else { Lost::Interrupted(chain(&error)) }
        })?;
        match response.status() {
            // Another hub, another token; or a session that this hub does not know.
            StatusCode::UNAUTHORIZED => Err(Lost::Unknown("the hub has another token now".to_owned())),
            StatusCode::NOT_FOUND if self.session.is_some() => {
                Err(Lost::Unknown("the hub does not know the session".to_owned()))
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

    /// A request with the token, and with what its session wants.
    fn marked(&self, mut request: RequestBuilder) -> RequestBuilder {
        request = request.bearer_auth(&self.hub.token);
        if let Some(session) = &self.session {
            request = request.header(SESSION, session);
        }
        match &self.version {
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
    let (mut decoder, mut answered) = (Decoder::new(MAX_EVENT), false);
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
