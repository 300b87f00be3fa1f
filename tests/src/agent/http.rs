//! An agent over Streamable HTTP, in either dialect.
//!
//! It is one session at one URL (or, in the stateless dialect, one client): it sends exactly the headers and the
//! session id that it was given, as SDKs do, and never initializes again by itself.

use super::stream::{Answered, PATIENCE, Stream};
use super::{ANSWER, Agent, Dialect, Reply, STATELESS_VERSION, VERSION, introduction, stateless_meta};
use anyhow::{Context, Result, bail, ensure};
use reqwest::{Client, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::time::timeout;

/// The first version whose clients repeat the agreed version in a header.
const FIRST_WITH_VERSION_HEADER: &str = "2025-06-18";

/// A client over Streamable HTTP. Clones share the session.
#[derive(Debug, Clone)]
pub struct Http {
    client: Client,
    url: String,
    token: String,
    dialect: Dialect,
    capabilities: Value,
    session: Option<String>,
    about: Value,
    next_id: Arc<AtomicU64>,
}

impl Http {
    /// A client that has sent nothing yet; `token` may be empty.
    #[must_use]
    pub fn at(url: impl Into<String>, token: impl Into<String>) -> Self {
        Self {
            client: Client::new(),
            url: url.into(),
            token: token.into(),
            dialect: Dialect::SessionBased,
            capabilities: json!({}),
            session: None,
            about: Value::Null,
            next_id: Arc::new(AtomicU64::new(1)),
        }
    }

    /// The same client with these capabilities.
    #[must_use]
    pub fn with_capabilities(mut self, capabilities: Value) -> Self {
        self.capabilities = capabilities;
        self
    }

    /// The same client in this dialect.
    #[must_use]
    pub fn speaking(mut self, dialect: Dialect) -> Self {
        self.dialect = dialect;
        self
    }

    /// The same client, or the same session in another process of the client, at another URL.
    #[must_use]
    pub fn elsewhere(&self, url: impl Into<String>) -> Self {
        Self { client: Client::new(), url: url.into(), ..self.clone() }
    }

    /// Begins: with `initialize`, or with `server/discover` in the stateless dialect.
    ///
    /// # Errors
    /// If the server does not answer as one.
    pub async fn begin(self) -> Result<Self> {
        self.begin_as(VERSION).await
    }

    /// Begins a session and asks for this version.
    ///
    /// # Errors
    /// As [`Http::begin`].
    pub async fn begin_as(mut self, version: &str) -> Result<Self> {
        if self.dialect == Dialect::Stateless {
            self.about = self.request("server/discover", json!({})).await?.result()?;
            return Ok(self);
        }
        let mut params = introduction(&self.capabilities);
        params["protocolVersion"] = version.into();
        let message = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params});
        let response = timeout(ANSWER, self.send(&message)).await.context("initialize was not answered")??;
        let status = response.status();
        let session =
            response.headers().get("mcp-session-id").map(|value| value.to_str().unwrap_or_default().to_owned());
        let answered = timeout(ANSWER, Stream::of(response).to_end()).await??;
        ensure!(status == StatusCode::OK, "{status}: {answered:?}");
        self.about = answered.result()?.clone();
        self.session = session;
        self.notify("notifications/initialized", json!({})).await?;
        Ok(self)
    }

    /// The URL.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What the server said of itself when the client began.
    #[must_use]
    pub fn about(&self) -> &Value {
        &self.about
    }

    /// The session id that the server gave.
    #[must_use]
    pub fn session(&self) -> Option<&str> {
        self.session.as_deref()
    }

    /// Sends this session id from now on.
    pub fn pretend(&mut self, session: &str) {
        self.session = Some(session.to_owned());
    }

    /// A POST of any body, with the headers that belong to the session.
    pub fn post(&self, body: impl Into<reqwest::Body>) -> RequestBuilder {
        let request = self.client.post(&self.url).header("content-type", "application/json").body(body);
        self.with_headers(request).header("accept", "application/json, text/event-stream")
    }

    /// Posts any body, also one that is not a message.
    ///
    /// # Errors
    /// If there is no HTTP response in time.
    pub async fn post_raw(&self, body: impl Into<reqwest::Body>) -> Result<Response> {
        Ok(self.post(body).timeout(ANSWER).send().await?)
    }

    /// Sends a message, completed as its dialect demands, and returns the HTTP response.
    ///
    /// # Errors
    /// If there is none.
    pub async fn send(&self, message: &Value) -> Result<Response> {
        let Some(method) = message["method"].as_str().filter(|_| self.dialect == Dialect::Stateless) else {
            return Ok(self.post(message.to_string()).send().await?);
        };
        let mut message = message.clone();
        for (key, value) in stateless_meta(&self.capabilities) {
            let meta = &mut message["params"]["_meta"][key];
            if meta.is_null() {
                *meta = value;
            }
        }
        let name = ["name", "uri", "taskId"].iter().find_map(|key| message["params"][*key].as_str());
        let request = self.post(message.to_string()).header("mcp-method", method);
        Ok(name.into_iter().fold(request, |request, name| request.header("mcp-name", name)).send().await?)
    }

    /// Sends a request under this id and reads the whole answer.
    ///
    /// # Errors
    /// If it does not end in time, or the response has another id.
    pub async fn exchange(&self, id: Value, method: &str, params: Value) -> Result<Answered> {
        let message = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        let exchange = async { Stream::of(self.send(&message).await?).to_end().await };
        let answered = timeout(PATIENCE, exchange).await.with_context(|| format!("{method} was not answered"))??;
        if let Some(response) = &answered.response {
            ensure!(response["id"] == id, "the response has another id: {response}");
        }
        Ok(answered)
    }

    /// Calls a tool; an error counts as an answer.
    ///
    /// # Errors
    /// As [`Http::exchange`].
    pub async fn try_call(&self, tool: &str, arguments: Value) -> Result<Answered> {
        self.exchange(json!(1), "tools/call", json!({"name": tool, "arguments": arguments})).await
    }

    /// The names (or URIs) in one page of a list: `tools`, `prompts`, `resources` or `resources/templates`.
    ///
    /// # Errors
    /// As [`Http::exchange`], or if the answer is not a list.
    pub async fn names(&self, kind: &str) -> Result<Vec<String>> {
        let (member, key) = match kind {
            "resources/templates" => ("resourceTemplates", "uriTemplate"),
            "resources" => ("resources", "uri"),
            kind => (kind, "name"),
        };
        let answered = self.exchange(json!("list"), &format!("{kind}/list"), json!({})).await?;
        let items = answered.result()?[member].as_array().with_context(|| format!("no {member}"))?;
        Ok(items.iter().map(|item| item[key].as_str().unwrap_or_default().to_owned()).collect())
    }

    /// Sends a notification.
    ///
    /// # Errors
    /// If it is not accepted.
    pub async fn notify(&self, method: &str, params: Value) -> Result<()> {
        let response = self.send(&json!({"jsonrpc": "2.0", "method": method, "params": params})).await?;
        ensure!(response.status() == StatusCode::ACCEPTED, "{method} was answered with {}", response.status());
        Ok(())
    }

    /// Opens the stream on which the server sends what belongs to no request, and waits until it is open.
    ///
    /// # Errors
    /// If the server offers none.
    pub async fn listen(&self) -> Result<Stream> {
        let mut stream = self.resume("").await?;
        timeout(PATIENCE, stream.opened()).await.context("the stream does not open")??;
        Ok(stream)
    }

    /// Resumes a stream after the event with this id.
    ///
    /// # Errors
    /// If the server refuses.
    pub async fn resume(&self, id: &str) -> Result<Stream> {
        let request = self.client.get(&self.url).header("accept", "text/event-stream").header("last-event-id", id);
        let response = self.with_headers(request).send().await?;
        ensure!(response.status() == StatusCode::OK, "GET was answered with {}", response.status());
        Ok(Stream::of(response))
    }

    /// Asks the server to end the session and returns the status of its answer.
    ///
    /// # Errors
    /// If there is no HTTP response.
    pub async fn end(&self) -> Result<StatusCode> {
        Ok(self.with_headers(self.client.delete(&self.url)).send().await?.status())
    }

    /// Ends the session.
    ///
    /// # Errors
    /// If the server refuses.
    pub async fn close(self) -> Result<()> {
        let status = self.end().await?;
        ensure!(status.is_success(), "DELETE was answered with {status}");
        Ok(())
    }

    fn with_headers(&self, mut request: RequestBuilder) -> RequestBuilder {
        if !self.token.is_empty() {
            request = request.bearer_auth(&self.token);
        }
        if self.dialect == Dialect::Stateless {
            return request.header("mcp-protocol-version", STATELESS_VERSION);
        }
        if let Some(session) = &self.session {
            request = request.header("mcp-session-id", session);
        }
        match self.about["protocolVersion"].as_str() {
            Some(version) if version >= FIRST_WITH_VERSION_HEADER => request.header("mcp-protocol-version", version),
            Some(_) | None => request,
        }
    }
}

impl Agent for Http {
    async fn request(&mut self, method: &str, params: Value) -> Result<Reply> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let message = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        let response = timeout(ANSWER, self.send(&message)).await;
        let response = response.with_context(|| format!("{method} was not answered within {ANSWER:?}"))??;
        if response.status() != StatusCode::OK {
            bail!("{method} was answered with {}: {}", response.status(), response.text().await?);
        }
        Reply::of(Stream::of(response).first("the answer", ANSWER, |message| message["id"] == id).await?)
    }
}
