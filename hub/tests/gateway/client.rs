//! An agent by hand: MCP over Streamable HTTP, so that a test sees what travels.

use anyhow::{Context, Result, bail, ensure};
use futures_util::StreamExt;
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use reqwest::{RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use std::time::Duration;

/// How long a test waits for what must come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// One session.
#[derive(Debug, Clone)]
pub(crate) struct Agent {
    http: reqwest::Client,
    /// The address of the gateway.
    pub(crate) url: String,
    /// The session id.
    pub(crate) session: String,
    /// What initialize was answered with.
    pub(crate) about: Value,
}

/// What came of one request.
#[derive(Debug)]
pub(crate) struct Answered {
    /// Messages that came before the response, in order.
    pub(crate) before: Vec<Value>,
    /// The response; none when the stream ended without one.
    pub(crate) response: Option<Value>,
}

impl Answered {
    /// The result.
    pub(crate) fn result(&self) -> Result<&Value> {
        let response = self.response.as_ref().context("no response")?;
        response.get("result").with_context(|| format!("no result: {response}"))
    }

    /// The text of a tool's result.
    pub(crate) fn text(&self) -> Result<&str> {
        self.result()?["content"][0]["text"].as_str().with_context(|| format!("no text: {self:?}"))
    }

    /// The error.
    pub(crate) fn error(&self) -> Result<&Value> {
        let response = self.response.as_ref().context("no response")?;
        response.get("error").with_context(|| format!("no error: {response}"))
    }
}

impl Agent {
    /// Begins a session.
    pub(crate) async fn begin(url: impl Into<String>) -> Result<Self> {
        Self::begin_as(url, "2025-11-25").await
    }

    /// Begins a session of another version.
    pub(crate) async fn begin_as(url: impl Into<String>, version: &str) -> Result<Self> {
        Self::begin_with(url, version, json!({})).await
    }

    /// Begins a session of a client that can do this.
    pub(crate) async fn begin_with(url: impl Into<String>, version: &str, capabilities: Value) -> Result<Self> {
        let mut agent =
            Self { http: reqwest::Client::new(), url: url.into(), session: String::new(), about: Value::Null };
        let params = json!({"protocolVersion": version, "capabilities": capabilities, "clientInfo": {"name": "t", "version": "1"}});
        let response =
            agent.send(&json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params})).await?;
        let session =
            response.headers().get("mcp-session-id").map(|value| value.to_str().unwrap_or_default().to_owned());
        let status = response.status();
        let answered = read(response).await?;
        ensure!(status == StatusCode::OK, "{status}: {answered:?}");
        agent.about = answered.result()?.clone();
        agent.session = session.context("no session id")?;
        agent.notify("notifications/initialized", json!({})).await?;
        Ok(agent)
    }

    /// The same session, seen by another process of the client.
    pub(crate) fn elsewhere(&self, url: impl Into<String>) -> Self {
        Self { http: reqwest::Client::new(), url: url.into(), ..self.clone() }
    }

    /// A POST to the gateway.
    pub(crate) fn post(&self, body: impl Into<reqwest::Body>) -> RequestBuilder {
        let request = self.http.post(&self.url).header(CONTENT_TYPE, "application/json");
        let request = request.header(ACCEPT, "application/json, text/event-stream").body(body);
        if self.session.is_empty() { request } else { request.header("mcp-session-id", &self.session) }
    }

    /// Sends one message and gives the HTTP response.
    pub(crate) async fn send(&self, message: &Value) -> Result<Response> {
        Ok(self.post(message.to_string()).send().await?)
    }

    /// Sends a request with this id and reads its whole answer.
    pub(crate) async fn request(&self, id: Value, method: &str, params: Value) -> Result<Answered> {
        let message = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        let answered = tokio::time::timeout(PATIENCE, async { read(self.send(&message).await?).await });
        let answered = answered.await.with_context(|| format!("{method} was not answered"))??;
        if let Some(response) = &answered.response {
            ensure!(response["id"] == id, "another id: {response}");
        }
        Ok(answered)
    }

    /// Calls a tool.
    pub(crate) async fn call(&self, tool: &str, arguments: Value) -> Result<Answered> {
        self.request(json!(1), "tools/call", json!({"name": tool, "arguments": arguments})).await
    }

    /// The names in a list.
    pub(crate) async fn list(&self, kind: &str) -> Result<Vec<String>> {
        let (member, key) = match kind {
            "resources/templates" => ("resourceTemplates", "uriTemplate"),
            "resources" => ("resources", "uri"),
            kind => (kind, "name"),
        };
        let answered = self.request(json!("list"), &format!("{kind}/list"), json!({})).await?;
        let items = answered.result()?[member].as_array().context("no list")?;
        Ok(items.iter().map(|item| item[key].as_str().unwrap_or_default().to_owned()).collect())
    }

    /// Sends a notification.
    pub(crate) async fn notify(&self, method: &str, params: Value) -> Result<()> {
        let response = self.send(&json!({"jsonrpc": "2.0", "method": method, "params": params})).await?;
        ensure!(response.status() == StatusCode::ACCEPTED, "{method}: {}", response.status());
        Ok(())
    }

    /// Opens the session's stream.
    pub(crate) async fn listen(&self) -> Result<Stream> {
        let mut stream = self.resume("").await?;
        // The comment that says that it is open.
        stream.chunk().await?;
        Ok(stream)
    }

    /// Takes a stream up after the event of this id.
    pub(crate) async fn resume(&self, id: &str) -> Result<Stream> {
        let request = self.http.get(&self.url).header(ACCEPT, "text/event-stream").header("last-event-id", id);
        let response = request.header("mcp-session-id", &self.session).send().await?;
        ensure!(response.status() == StatusCode::OK, "{}", response.status());
        Ok(Stream::of(response))
    }

    /// Ends the session.
    pub(crate) async fn end(&self) -> Result<StatusCode> {
        let request = self.http.delete(&self.url).header("mcp-session-id", &self.session);
        Ok(request.send().await?.status())
    }
}

/// A stream of messages.
pub(crate) struct Stream {
    response: Response,
    buffer: String,
    /// The id of the event that was read last.
    pub(crate) last_id: String,
}

impl Stream {
    async fn chunk(&mut self) -> Result<bool> {
        let Some(chunk) = self.response.chunk().await? else { return Ok(false) };
        self.buffer.push_str(std::str::from_utf8(&chunk)?);
        Ok(true)
    }

    /// The next message; none when the stream ended.
    pub(crate) async fn next(&mut self) -> Result<Option<Value>> {
        loop {
            while let Some((event, rest)) = self.buffer.split_once("\n\n") {
                let data: String = event.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
                if let Some(id) = event.lines().find_map(|line| line.strip_prefix("id: ")) {
                    self.last_id = id.to_owned();
                }
                self.buffer = rest.to_owned();
                if !data.is_empty() {
                    return Ok(Some(serde_json::from_str(&data)?));
                }
            }
            if !self.chunk().await? {
                return Ok(None);
            }
        }
    }

    /// The stream of this response.
    pub(crate) fn of(response: Response) -> Self {
        Self { response, buffer: String::new(), last_id: String::new() }
    }

    /// The next message that `wanted` takes; others are left out.
    pub(crate) async fn wait_for(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let mut seen = Vec::new();
        let found = async {
            while let Some(message) = self.next().await? {
                if wanted(&message) {
                    return Ok(message);
                }
                seen.push(message);
            }
            bail!("the stream ended")
        };
        let found = tokio::time::timeout(PATIENCE, found).await;
        found.map_err(anyhow::Error::from).flatten().with_context(|| format!("{what} did not come, but {seen:?}"))
    }

    /// The next message of this method.
    pub(crate) async fn wait_for_method(&mut self, method: &str) -> Result<Value> {
        self.wait_for(method, |message| message["method"] == method).await
    }
}

/// Reads a whole answer, JSON or stream.
pub(crate) async fn read(response: Response) -> Result<Answered> {
    let kind = response
        .headers()
        .get(CONTENT_TYPE)
        .map(|value| value.to_str().unwrap_or_default().to_owned())
        .unwrap_or_default();
    if !kind.starts_with("text/event-stream") {
        let text = response.text().await?;
        let response = if text.is_empty() { None } else { Some(serde_json::from_str(&text)?) };
        return Ok(Answered { before: Vec::new(), response });
    }
    let mut text = Vec::new();
    let mut body = response.bytes_stream();
    while let Some(chunk) = body.next().await {
        text.extend_from_slice(&chunk?);
    }
    let mut messages = Vec::new();
    for line in std::str::from_utf8(&text)?.lines() {
        // An event without data only tells its id.
        if let Some(data) = line.strip_prefix("data: ").filter(|data| !data.is_empty()) {
            messages.push(serde_json::from_str::<Value>(data)?);
        }
    }
    let last = messages.pop_if(|message| message.get("method").is_none());
    Ok(Answered { before: messages, response: last })
}
