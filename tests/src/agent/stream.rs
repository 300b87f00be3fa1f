//! The messages of one HTTP response, whether it is a single JSON object or a stream of events.

use super::Reply;
use super::sse::Parser;
use anyhow::{Context, Result, bail};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use reqwest::Response;
use serde_json::Value;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::timeout;

/// How long a stream may be silent when a message is due.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The messages of a response, in order.
pub struct Stream {
    body: BoxStream<'static, reqwest::Result<bytes::Bytes>>,
    events: bool,
    parser: Parser,
    /// The messages that have arrived, each with the id of its event.
    waiting: VecDeque<(Value, Option<String>)>,
    last_id: String,
}

/// A response that was read to its end.
#[derive(Debug)]
pub struct Answered {
    /// The messages before the JSON-RPC response, in order.
    pub before: Vec<Value>,
    /// The JSON-RPC response; `None` if the stream ended without one.
    pub response: Option<Value>,
}

impl Answered {
    /// The result.
    ///
    /// # Errors
    /// If there is no response, or it is an error.
    pub fn result(&self) -> Result<&Value> {
        let response = self.response()?;
        response.get("result").with_context(|| format!("no result: {response}"))
    }

    /// The first text of a tool's result.
    ///
    /// # Errors
    /// As [`Answered::result`], or if there is no text.
    pub fn text(&self) -> Result<&str> {
        self.result()?["content"][0]["text"].as_str().with_context(|| format!("no text: {self:?}"))
    }

    /// The error.
    ///
    /// # Errors
    /// If there is no response, or it is a result.
    pub fn error(&self) -> Result<&Value> {
        let response = self.response()?;
        response.get("error").with_context(|| format!("no error: {response}"))
    }

    /// The result or the error.
    ///
    /// # Errors
    /// If there is no response, or it is neither.
    pub fn reply(self) -> Result<Reply> {
        Reply::of(self.response.context("no response")?)
    }

    fn response(&self) -> Result<&Value> {
        self.response.as_ref().with_context(|| format!("no response, only {:?}", self.before))
    }
}

impl Stream {
    /// The messages of this response.
    #[must_use]
    pub fn of(response: Response) -> Self {
        let kind = response.headers().get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let events = kind.starts_with("text/event-stream");
        let body = response.bytes_stream().boxed();
        Self { body, events, parser: Parser::default(), waiting: VecDeque::new(), last_id: String::new() }
    }

    /// The id of the last event that was read, for `Last-Event-ID`; empty if no event had one.
    #[must_use]
    pub fn last_id(&self) -> &str {
        &self.last_id
    }

    /// The next message; `None` at the end of the response.
    ///
    /// # Errors
    /// If nothing arrives in time, the connection broke or a message is not JSON.
    pub async fn next(&mut self) -> Result<Option<Value>> {
        timeout(PATIENCE, self.message()).await.with_context(|| format!("no message within {PATIENCE:?}"))?
    }

    /// Waits for the first message that `wanted` accepts and drops the messages before it.
    ///
    /// # Errors
    /// If it does not arrive; with the messages that were dropped.
    pub async fn first(&mut self, what: &str, within: Duration, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let mut seen = Vec::new();
        let found = async {
            while let Some(message) = self.message().await? {
                if wanted(&message) {
                    return Ok(message);
                }
                seen.push(message);
            }
            bail!("the stream ended")
        };
        let found = timeout(within, found).await.map_err(anyhow::Error::from).flatten();
        found.with_context(|| format!("{what} did not arrive within {within:?}, only {seen:?}"))
    }

    /// Waits for the next message with this method and drops the messages before it.
    ///
    /// # Errors
    /// As [`Stream::first`].
    pub async fn wait_for(&mut self, method: &str) -> Result<Value> {
        self.first(method, PATIENCE, |message| message["method"] == method).await
    }

    /// Reads the response to its end.
    ///
    /// # Errors
    /// If the connection broke or a message is not JSON.
    pub async fn to_end(mut self) -> Result<Answered> {
        let mut before = Vec::new();
        while let Some(message) = self.message().await? {
            before.push(message);
        }
        let response = before.pop_if(|message| message.get("method").is_none());
        Ok(Answered { before, response })
    }

    /// Waits until the first bytes have arrived, so that a test knows that the stream is open.
    pub(super) async fn opened(&mut self) -> Result<()> {
        if let Some(bytes) = self.body.next().await {
            self.decode(&bytes?)?;
        }
        Ok(())
    }

    async fn message(&mut self) -> Result<Option<Value>> {
        if !self.events {
            return self.whole().await;
        }
        while self.waiting.is_empty() {
            let Some(bytes) = self.body.next().await else { return Ok(None) };
            self.decode(&bytes?)?;
        }
        let Some((message, id)) = self.waiting.pop_front() else { return Ok(None) };
        // Only now, so that a test that stops reading here resumes after this message.
        self.last_id = id.unwrap_or_else(|| std::mem::take(&mut self.last_id));
        Ok(Some(message))
    }

    fn decode(&mut self, bytes: &[u8]) -> Result<()> {
        for event in self.parser.feed(bytes) {
            if event.data.is_empty() {
                // An event without data only tells its id.
                self.last_id = event.id.unwrap_or_default();
                continue;
            }
            let message = serde_json::from_str(&event.data).with_context(|| format!("not JSON: {}", event.data))?;
            self.waiting.push_back((message, event.id));
        }
        Ok(())
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
