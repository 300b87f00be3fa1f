//! One client of either era by hand, so that what travels is seen.

use anyhow::{Context, Result, bail, ensure};
use linchpin_tests::lab::Lab;
use reqwest::{RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use std::time::Duration;

/// How long a step may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Which versions a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Era {
    Older,
    Modern,
}

/// A client at one address.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    url: String,
    token: String,
    era: Era,
    can: Value,
    session: Option<String>,
    /// What it was told of the address.
    pub(crate) about: Value,
}

/// A call that goes on.
pub(crate) struct Call {
    client: Client,
    params: Value,
    stream: Stream,
    /// What came before the answer.
    pub(crate) before: Vec<Value>,
}

impl Client {
    /// A client that can do this.
    pub(crate) async fn new(lab: &Lab, path: &str, era: Era, can: Value) -> Result<Self> {
        let facts = lab.hub_facts()?;
        let url = format!("{}{path}", facts.url);
        let mut client = Self {
            http: reqwest::Client::new(),
            url,
            token: facts.token,
            era,
            can: can.clone(),
            session: None,
            about: Value::Null,
        };
        if era == Era::Modern {
            client.about = client.ask("server/discover", json!({})).await?;
            return Ok(client);
        }
        let info = json!({"name": "crossing", "version": "7"});
        let params = json!({"protocolVersion": "2025-11-25", "capabilities": can, "clientInfo": info});
        let response = client.send("initialize", params).await?;
        let session = response.headers().get("mcp-session-id").context("no session")?.to_str()?.to_owned();
        client.about = Stream::of(response).answer(&mut Vec::new()).await?["result"].clone();
        client.session = Some(session);
        let told = client.post(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).send().await?;
        ensure!(told.status() == StatusCode::ACCEPTED, "{}", told.status());
        Ok(client)
    }

    fn post(&self, message: &Value) -> RequestBuilder {
        let request = self.http.post(&self.url).bearer_auth(&self.token).header("content-type", "application/json");
        let request = request.header("accept", "application/json, text/event-stream").body(message.to_string());
        match self.era {
            Era::Older => self.session.iter().fold(request, |request, id| request.header("mcp-session-id", id)),
            Era::Modern => {
                let (method, params) = (&message["method"], &message["params"]);
                let request = request.header("mcp-protocol-version", "2026-07-28");
                let request = request.header("mcp-method", method.as_str().unwrap_or_default());
                let name = params["name"].as_str().or(params["uri"].as_str());
                name.into_iter().fold(request, |request, name| request.header("mcp-name", name))
            }
        }
    }

    /// Sends a request, as its era has it.
    pub(crate) async fn send(&self, method: &str, mut params: Value) -> Result<Response> {
        if self.era == Era::Modern {
            params["_meta"]["io.modelcontextprotocol/protocolVersion"] = "2026-07-28".into();
            params["_meta"]["io.modelcontextprotocol/clientInfo"] = json!({"name": "crossing", "version": "7"});
            params["_meta"]["io.modelcontextprotocol/clientCapabilities"] = self.can.clone();
        }
        Ok(self.post(&json!({"jsonrpc": "2.0", "id": "mine", "method": method, "params": params})).send().await?)
    }

    /// The response to a request, an error too.
    pub(crate) async fn answered(&self, method: &str, params: Value) -> Result<Value> {
        Stream::of(self.send(method, params).await?).answer(&mut Vec::new()).await
    }

    /// The result of a request.
    pub(crate) async fn ask(&self, method: &str, params: Value) -> Result<Value> {
        let mut response = self.answered(method, params).await?;
        ensure!(response["error"].is_null(), "{method}: {response}");
        Ok(response["result"].take())
    }

    /// The names of its tools.
    pub(crate) async fn tools(&self) -> Result<Vec<String>> {
        let listed = self.ask("tools/list", json!({})).await?;
        let tools = listed["tools"].as_array().context("no tools")?;
        Ok(tools.iter().filter_map(|tool| tool["name"].as_str().map(str::to_owned)).collect())
    }

    /// Begins a call of a tool.
    pub(crate) async fn begin(&self, tool: &str, arguments: Value) -> Result<Call> {
        let params = json!({"name": tool, "arguments": arguments, "_meta": {"progressToken": "p"}});
        let stream = Stream::of(self.send("tools/call", params.clone()).await?);
        Ok(Call { client: self.clone(), params, stream, before: Vec::new() })
    }

    /// The text of a tool's result.
    pub(crate) async fn call(&self, tool: &str, arguments: Value) -> Result<String> {
        self.begin(tool, arguments).await?.text(&[]).await
    }

    /// The stream of changes of lists and of this resource.
    pub(crate) async fn listen(&self, uri: &str) -> Result<Stream> {
        let mut stream = match self.era {
            Era::Older => {
                self.ask("resources/subscribe", json!({"uri": uri})).await?;
                let request = self.http.get(&self.url).bearer_auth(&self.token).header("accept", "text/event-stream");
                let request = request.header("mcp-session-id", self.session.as_deref().unwrap_or_default());
                return Ok(Stream::of(request.send().await?.error_for_status()?));
            }
            Era::Modern => {
                let wanted = json!({"toolsListChanged": true, "resourceSubscriptions": [uri]});
                Stream::of(self.send("subscriptions/listen", json!({"notifications": wanted})).await?)
            }
        };
        stream.wait_for("notifications/subscriptions/acknowledged").await?;
        Ok(stream)
    }

    async fn answer(&self, id: &Value, result: Value) -> Result<()> {
        let told = self.post(&json!({"jsonrpc": "2.0", "id": id, "result": result})).send().await?;
        ensure!(told.status() == StatusCode::ACCEPTED, "{}", told.status());
        Ok(())
    }

    /// Sends a notification.
    pub(crate) async fn notify(&self, method: &str, params: Value) -> Result<()> {
        self.post(&json!({"jsonrpc": "2.0", "method": method, "params": params})).send().await?.error_for_status()?;
        Ok(())
    }
}

impl Call {
    /// The text of its result; whoever asks for a name meanwhile is given the next of these.
    pub(crate) async fn text(mut self, names: &[&str]) -> Result<String> {
        let mut names = names.iter();
        loop {
            let message = self.stream.next().await?.context("the stream ended without an answer")?;
            let mut accept = || {
                let name = names.next().context("asked too often")?;
                anyhow::Ok(json!({"action": "accept", "content": {"name": name}}))
            };
            if message["method"] == "elicitation/create" {
                let answer = accept()?;
                self.client.answer(&message["id"], answer).await?;
            } else if message["result"]["resultType"] == "input_required" {
                ensure!(self.client.era == Era::Modern, "no older client knows this: {message}");
                let requests = message["result"]["inputRequests"].as_object().context("nothing is asked")?;
                let mut responses = json!({});
                for key in requests.keys() {
                    responses[key] = accept()?;
                }
                self.params["inputResponses"] = responses;
                self.params["requestState"] = message["result"]["requestState"].clone();
                self.stream = Stream::of(self.client.send("tools/call", self.params.clone()).await?);
            } else if message["id"] == "mine" {
                let text = message["result"]["content"][0]["text"].as_str();
                return Ok(text.with_context(|| message.to_string())?.to_owned());
            } else {
                self.before.push(message);
            }
        }
    }

    /// What came before its answer, which is awaited.
    pub(crate) async fn notifications(mut self) -> Result<Vec<Value>> {
        self.stream.answer(&mut self.before).await?;
        Ok(self.before)
    }
}

/// The messages of an answer.
pub(crate) struct Stream {
    response: Option<Response>,
    events: bool,
    buffer: String,
}

impl Stream {
    fn of(response: Response) -> Self {
        let kind = response.headers().get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        Self { events: kind.starts_with("text/event-stream"), response: Some(response), buffer: String::new() }
    }

    async fn next(&mut self) -> Result<Option<Value>> {
        tokio::time::timeout(PATIENCE, self.message()).await.context("nothing came")?
    }

    async fn message(&mut self) -> Result<Option<Value>> {
        if !self.events {
            let Some(response) = self.response.take() else { return Ok(None) };
            let text = response.text().await?;
            return serde_json::from_str(&text).map(Some).with_context(|| text);
        }
        loop {
            while let Some((event, rest)) = self.buffer.split_once("\n\n") {
                let data: String = event.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
                self.buffer = rest.to_owned();
                if !data.is_empty() {
                    return Ok(Some(serde_json::from_str(&data)?));
                }
            }
            let Some(response) = &mut self.response else { return Ok(None) };
            let Some(chunk) = response.chunk().await? else { return Ok(None) };
            self.buffer.push_str(std::str::from_utf8(&chunk)?);
        }
    }

    /// The response; what comes before it goes to `before`.
    async fn answer(&mut self, before: &mut Vec<Value>) -> Result<Value> {
        loop {
            match self.next().await? {
                Some(message) if message.get("method").is_none() => return Ok(message),
                Some(message) => before.push(message),
                None => bail!("the stream ended without an answer"),
            }
        }
    }

    /// The next message of this method.
    pub(crate) async fn wait_for(&mut self, method: &str) -> Result<Value> {
        let mut seen = Vec::new();
        loop {
            match self.next().await.with_context(|| format!("no {method}, but {seen:?}"))? {
                Some(message) if message["method"] == method => return Ok(message),
                Some(message) => seen.push(message),
                None => bail!("the stream ended without {method}, after {seen:?}"),
            }
        }
    }
}
