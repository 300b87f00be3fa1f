//! An agent over Streamable HTTP.
//!
//! Owns one session at one URL. Invariant: the session id it was given is the only one it ever sends, as SDKs do.
//! Never: initializes again by itself.

use super::sse::Parser;
use super::{ANSWER, Agent, Reply, introduction};
use anyhow::{Context, Result, bail, ensure};
use futures_util::StreamExt;
use reqwest::{Client, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::time::Duration;

/// A session over Streamable HTTP.
#[derive(Debug)]
pub struct Http {
    client: Client,
    url: String,
    token: String,
    session: Option<String>,
    version: Option<String>,
    next_id: u64,
}

impl Http {
    /// Opens a session.
    ///
    /// # Errors
    /// When the server does not answer as one.
    pub async fn open(url: impl Into<String>, token: impl Into<String>) -> Result<(Self, Value)> {
        let mut agent = Self::at(url, token);
        let result = agent.request("initialize", introduction()).await?.result()?;
        agent.version = result["protocolVersion"].as_str().map(str::to_owned);
        agent.notify("notifications/initialized").await?;
        Ok((agent, result))
    }

    /// A client without a session yet.
    #[must_use]
    pub fn at(url: impl Into<String>, token: impl Into<String>) -> Self {
        let (url, token) = (url.into(), token.into());
        Self { client: Client::new(), url, token, session: None, version: None, next_id: 1 }
    }

    /// The session id that the server gave.
    #[must_use]
    pub fn session(&self) -> Option<&str> {
        self.session.as_deref()
    }

    /// Sends another session id from now on.
    pub fn pretend(&mut self, session: &str) {
        self.session = Some(session.to_owned());
    }

    /// Sends a notification.
    ///
    /// # Errors
    /// When it is not accepted.
    pub async fn notify(&mut self, method: &str) -> Result<()> {
        let response = self.post(json!({"jsonrpc": "2.0", "method": method}).to_string()).await?;
        ensure!(response.status() == StatusCode::ACCEPTED, "{method} was answered with {}", response.status());
        Ok(())
    }

    /// Posts any body, also one that is no message.
    ///
    /// # Errors
    /// When there is no HTTP answer.
    pub async fn post(&self, body: String) -> Result<Response> {
        let request = self.client.post(&self.url).header("content-type", "application/json").body(body);
        Ok(self.with_headers(request).timeout(ANSWER).send().await?)
    }

    /// Opens the stream on which the server speaks first.
    ///
    /// # Errors
    /// When the server offers none.
    pub async fn listen(&self) -> Result<Stream> {
        let response = self.with_headers(self.client.get(&self.url)).send().await?;
        ensure!(response.status() == StatusCode::OK, "GET was answered with {}", response.status());
        Ok(Stream::of(response))
    }

    /// Ends the session.
    ///
    /// # Errors
    /// When the server does not let it.
    pub async fn close(self) -> Result<()> {
        let response = self.with_headers(self.client.delete(&self.url)).send().await?;
        ensure!(response.status().is_success(), "DELETE was answered with {}", response.status());
        Ok(())
    }

    fn with_headers(&self, mut request: RequestBuilder) -> RequestBuilder {
        request = request.bearer_auth(&self.token).header("accept", "application/json, text/event-stream");
        if let Some(session) = &self.session {
            request = request.header("mcp-session-id", session);
        }
        if let Some(version) = &self.version {
            request = request.header("mcp-protocol-version", version);
        }
        request
    }
}

impl Agent for Http {
    async fn request(&mut self, method: &str, params: Value) -> Result<Reply> {
        let id = self.next_id;
        self.next_id += 1;
        let body = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        let response = self.post(body.to_string()).await?;
        if response.status() != StatusCode::OK {
            bail!("{method} was answered with {}: {}", response.status(), response.text().await?);
        }
        if let Some(session) = response.headers().get("mcp-session-id") {
            self.session = Some(session.to_str()?.to_owned());
        }
        let message = Stream::of(response).first("an answer", ANSWER, |message| message["id"] == id).await?;
        Reply::of(message)
    }
}

/// The messages of one response, whether it is one JSON object or a stream of events.
pub struct Stream {
    body: futures_util::stream::BoxStream<'static, reqwest::Result<bytes::Bytes>>,
    events: bool,
    parser: Parser,
    waiting: VecDeque<Value>,
}

impl Stream {
    fn of(response: Response) -> Self {
        let kind = response.headers().get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let events = kind.starts_with("text/event-stream");
        Self { body: response.bytes_stream().boxed(), events, parser: Parser::default(), waiting: VecDeque::new() }
    }

    /// Waits for the first message of a kind; those before it are skipped.
    ///
    /// # Errors
    /// When it does not come.
    pub async fn first(&mut self, what: &str, within: Duration, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let look = async {
            loop {
                let message = self.next().await?.with_context(|| format!("the stream ended without {what}"))?;
                if wanted(&message) {
                    return Ok(message);
                }
            }
        };
        tokio::time::timeout(within, look).await.with_context(|| format!("no {what} within {within:?}"))?
    }

    /// The next message; `None` at the end.
    ///
    /// # Errors
    /// When the connection broke or something is not JSON.
    pub async fn next(&mut self) -> Result<Option<Value>> {
        if !self.events {
            return self.whole().await;
        }
        while self.waiting.is_empty() {
            let Some(bytes) = self.body.next().await else { return Ok(None) };
            for data in self.parser.feed(&bytes?) {
                self.waiting.push_back(serde_json::from_str(&data).with_context(|| format!("not JSON: {data}"))?);
            }
        }
        Ok(self.waiting.pop_front())
    }

    async fn whole(&mut self) -> Result<Option<Value>> {
        let mut all = Vec::new();
        while let Some(bytes) = self.body.next().await {
            all.extend_from_slice(&bytes?);
        }
        if all.is_empty() {
            return Ok(None);
        }
        Ok(Some(serde_json::from_slice(&all).with_context(|| format!("not JSON: {}", String::from_utf8_lossy(&all)))?))
    }
}
