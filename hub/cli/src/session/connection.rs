//! The connection to one hub process: how a message gets there, and how its answers come back.
//!
//! It knows the hub's address, the HTTP client, and the session there if its messages belong to one. A message without
//! an answer ends in a [`SendError`], and nothing waits for a hub that does not respond to health probes
//! ([`HealthProbe`]). It never looks for another hub and never sends anything twice; [`super::HubSession`] does.

use super::HubTarget;
use crate::health_probe::HealthProbe;
use crate::reach::reach_hub;
use crate::send_error::{SendError, chain, no_answer, was_reset};
use crate::{client, jsonrpc};
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

/// The largest message from the hub, in bytes. The hub limits what servers send; this limit protects against a defect
/// of the hub.
const MAX_EVENT: usize = 256 << 20;

/// The connection to one hub process.
pub(crate) struct HubConnection {
    pub(super) hub: HubFile,
    /// Whether its messages are stateless (MCP 2026-07-28); otherwise they belong to a session.
    pub(super) stateless: bool,
    url: String,
    http: reqwest::Client,
    session: Option<String>,
    version: Option<String>,
    probe: HealthProbe,
}

/// The part of an initialize response that the session itself needs.
#[derive(Deserialize)]
struct Initialized {
    result: Option<Negotiated>,
}

#[derive(Deserialize)]
struct Negotiated {
    #[serde(rename = "protocolVersion")]
    protocol_version: String,
}

impl HubConnection {
    /// Finds the hub or starts one. The session is not initialized yet.
    pub(super) async fn find(target: &HubTarget, stateless: bool) -> Result<Self, Problem> {
        let hub = reach_hub(&target.home, target.autostart).await?;
        let (http, url) = (client::http_to(&hub)?, format!("{}{}", hub.url, target.path));
        Ok(Self { hub, stateless, url, http, session: None, version: None, probe: HealthProbe::default() })
    }

    /// Continues the same session at the hub that runs now, which may be another process.
    pub(super) async fn reconnect(&self, target: &HubTarget) -> Result<Self, Problem> {
        let (session, version) = (self.session.clone(), self.version.clone());
        Ok(Self { session, version, ..Self::find(target, self.stateless).await? })
    }

    /// Whether it has the same session as an earlier connection, and not one that replaced it.
    pub(crate) fn continues(&self, earlier: &Self) -> bool {
        self.session == earlier.session
    }

    /// Initializes the session with the agent's own message, and returns the hub's answer.
    pub(super) async fn initialize(&mut self, initialize: &Bytes) -> Result<Bytes, SendError> {
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
        let (session, answer) = tokio::join!(self.with_health_probe(exchange), collect);
        self.session = session?;
        if answer.is_empty() {
            return Err(no_answer(StatusCode::OK));
        }
        let negotiated = serde_json::from_slice::<Initialized>(&answer).ok().and_then(|answer| answer.result);
        self.version = negotiated.map(|result| result.protocol_version);
        Ok(answer)
    }

    /// Completes a replayed `initialize`, as the agent did with its own.
    pub(super) async fn confirm(&self) -> Result<(), SendError> {
        let message = Bytes::from_static(br#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
        self.with_health_probe(self.post(&message, None)).await.map(|_| ())
    }

    /// Sends a message and forwards every message of its response to `out`, for as long as the hub responds to health
    /// probes.
    pub(super) async fn exchange(
        &self,
        message: &Bytes,
        headers: Option<&HeaderMap>,
        id: Option<&RawValue>,
        out: &mpsc::Sender<Bytes>,
    ) -> Result<(), SendError> {
        self.with_health_probe(async {
            let response = self.post(message, headers).await?;
            forward(response, id, out).await
        })
        .await
    }

    /// Does the same for a stream that stays open. Health probes are sent only until the stream begins; after that the
    /// hub owes no answer, and a broken stream is noticed anyway.
    pub(crate) async fn follow(
        &self,
        message: &Bytes,
        headers: &HeaderMap,
        id: &RawValue,
        out: mpsc::Sender<Bytes>,
    ) -> Result<(), SendError> {
        let response = self.with_health_probe(self.post(message, Some(headers))).await?;
        forward(response, Some(id), &out).await
    }

    /// Forwards what the hub sends on its own to `out` until the hub ends the stream, and returns the status of the
    /// response.
    pub(super) async fn listen(&self, out: &mpsc::Sender<Bytes>) -> Option<StatusCode> {
        let request = self.http.get(&self.url).header(ACCEPT, "text/event-stream");
        let response = self.authorized(request).send().await.ok()?;
        let status = response.status();
        if status.is_success() {
            let _ = forward(response, None, out).await;
        }
        Some(status)
    }

    /// Ends the session at the hub, if the hub is there.
    pub(super) async fn close(&self) {
        let request = self.http.delete(&self.url).timeout(Duration::from_secs(1));
        let _ = self.authorized(request).send().await;
    }

    /// Runs an exchange, and ends it if the hub does not respond to health probes.
    async fn with_health_probe<T>(&self, exchange: impl Future<Output = Result<T, SendError>>) -> Result<T, SendError> {
        let health = format!("{}/health", self.hub.url);
        let answers = |within| {
            let probe = self.http.get(&health).timeout(within).send();
            async move { probe.await.is_ok() }
        };
        tokio::select! {
            biased;
            done = exchange => done,
            () = self.probe.unresponsive(answers) => Err(SendError::Unresponsive(self.hub.process.pid)),
        }
    }

    async fn post(&self, message: &Bytes, headers: Option<&HeaderMap>) -> Result<Response, SendError> {
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
            return Err(SendError::NotExecuted("the process of the hub has ended".to_owned()));
        }
        let response = self.authorized(request).send().await.map_err(|error| {
            let unread = error.is_connect() || was_reset(&error);
            if unread { SendError::NotExecuted(chain(&error)) } else { SendError::Interrupted(chain(&error)) }
        })?;
        match response.status() {
            // It is another hub with another token, or the hub does not know the session.
            StatusCode::UNAUTHORIZED => Err(SendError::SessionLost("the hub has a different token now".to_owned())),
            StatusCode::NOT_FOUND if self.session.is_some() => {
                Err(SendError::SessionLost("the hub does not know the session".to_owned()))
            }
            status if !status.is_success() && has_type(&response, MEDIA_TYPE) => {
                let body = response.bytes().await.unwrap_or_default();
                Err(SendError::Refused(serde_json::from_slice(&body).unwrap_or_else(|_| {
                    Problem::new(Code::Internal, format!("the hub answered {status} without saying why"))
                })))
            }
            _ => Ok(response),
        }
    }

    /// Adds the token, and the headers of the session.
    fn authorized(&self, mut request: RequestBuilder) -> RequestBuilder {
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

/// Forwards each message of a response to `out`. The last of them is the response to `id`.
async fn forward(response: Response, id: Option<&RawValue>, out: &mpsc::Sender<Bytes>) -> Result<(), SendError> {
    if has_type(&response, "text/event-stream") {
        return forward_events(response, out).await;
    }
    let status = response.status();
    let body = response.bytes().await.map_err(|error| SendError::Interrupted(chain(&error)))?;
    if body.is_empty() && (id.is_some() || !status.is_success()) {
        return Err(no_answer(status));
    }
    if !body.is_empty() {
        let _ = out.send(jsonrpc::with_id(body, id)).await;
    }
    Ok(())
}

/// If the stream breaks before the answer, the answer was cut off; if it breaks afterwards, nothing is missing. The hub
/// ends a stream without an answer when the agent cancelled the request.
async fn forward_events(response: Response, out: &mpsc::Sender<Bytes>) -> Result<(), SendError> {
    let (mut decoder, mut answered) = (Decoder::new(MAX_EVENT), false);
    let mut chunks = response.bytes_stream();
    while let Some(chunk) = chunks.next().await {
        match chunk {
            Ok(chunk) => decoder.push(&chunk),
            Err(_) if answered => break,
            Err(error) => return Err(SendError::Interrupted(chain(&error))),
        }
        while let Some(event) = decoder.next_event().map_err(|error| SendError::Interrupted(error.to_string()))? {
            answered |= jsonrpc::is_response(&event.data);
            let _ = out.send(event.data).await;
        }
    }
    Ok(())
}

fn has_type(response: &Response, media: &str) -> bool {
    response.headers().get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(media.as_bytes()))
}
