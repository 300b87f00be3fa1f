//! A minimal HTTP/1.1 client with one connection, so that the time of the client does not blur the measurement.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::request::Builder;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;

/// The first version without sessions.
const MODERN: &str = "2026-07-28";

/// One connection, and the MCP session on it if one was opened.
pub(crate) struct Wire {
    sender: SendRequest<Full<Bytes>>,
    host: String,
    path: String,
    token: String,
    session: Option<String>,
    next_id: u64,
}

impl Wire {
    /// Connects to `http://HOST/PATH`.
    pub(crate) async fn connect(url: &str, token: &str) -> Result<Self> {
        let rest = url.strip_prefix("http://").context("not http://")?;
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let stream = TcpStream::connect(host).await.with_context(|| format!("cannot connect to {host}"))?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let (host, path, token) = (host.to_owned(), format!("/{path}"), token.to_owned());
        Ok(Self { sender, host, path, token, session: None, next_id: 1 })
    }

    /// Connects and opens an MCP session.
    pub(crate) async fn mcp(url: &str, token: &str) -> Result<Self> {
        let mut wire = Self::connect(url, token).await?;
        wire.rpc("initialize", linchpin_tests::agent::introduction(&json!({}))).await?;
        let note = json!({"jsonrpc": "2.0", "method": "notifications/initialized"}).to_string();
        let path = wire.path.clone();
        wire.send(Method::POST, &path, note).await?;
        Ok(wire)
    }

    /// Sends a GET and returns the status and the body.
    pub(crate) async fn get(&mut self, path: &str) -> Result<(StatusCode, Bytes)> {
        self.send(Method::GET, path, String::new()).await
    }

    /// Sends one MCP request and returns the unparsed body of the answer.
    pub(crate) async fn raw(&mut self, method: &str, params: &Value) -> Result<Bytes> {
        let id = self.next_id;
        self.next_id += 1;
        let body = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}).to_string();
        let path = self.path.clone();
        let (status, answer) = self.send(Method::POST, &path, body).await?;
        ensure!(status == StatusCode::OK, "{method}: {status} {}", String::from_utf8_lossy(&answer));
        Ok(answer)
    }

    /// Sends one MCP request and returns the result.
    pub(crate) async fn rpc(&mut self, method: &str, params: Value) -> Result<Value> {
        let id = self.next_id;
        let answer = self.raw(method, &params).await?;
        let text = String::from_utf8_lossy(&answer);
        // An SSE answer has the message in its last data line; a JSON answer is the message.
        let last = text.lines().rev().find_map(|line| line.strip_prefix("data:"));
        let mut message: Value = serde_json::from_str(last.unwrap_or(&text)).with_context(|| text.to_string())?;
        ensure!(message["id"] == id && message["error"].is_null(), "{method}: {message}");
        Ok(message["result"].take())
    }

    /// Another connection for the same session.
    pub(crate) async fn beside(&self) -> Result<Self> {
        let other = Self::connect(&format!("http://{}{}", self.host, self.path), &self.token).await?;
        Ok(Self { session: self.session.clone(), ..other })
    }

    /// Opens the stream of the session.
    pub(crate) async fn listen(&mut self) -> Result<Incoming> {
        let path = self.path.clone();
        let response = self.answered(self.request(Method::GET, &path), String::new()).await?;
        ensure!(response.status() == StatusCode::OK, "GET: {}", response.status());
        Ok(response.into_body())
    }

    /// Sends one request of 2026-07-28, whose header repeats the name or URI, and returns the unparsed body.
    pub(crate) async fn modern(&mut self, method: &str, params: Value) -> Result<Bytes> {
        let response = self.modern_answer(method, params).await?;
        Ok(response.into_body().collect().await?.to_bytes())
    }

    /// Opens a stream of changes in the stateless dialect.
    pub(crate) async fn subscribe(&mut self) -> Result<Incoming> {
        let wanted = json!({"notifications": {"toolsListChanged": true}});
        Ok(self.modern_answer("subscriptions/listen", wanted).await?.into_body())
    }

    async fn modern_answer(&mut self, method: &str, mut params: Value) -> Result<Response<Incoming>> {
        params["_meta"] = json!({
            "io.modelcontextprotocol/protocolVersion": MODERN, "io.modelcontextprotocol/clientCapabilities": {}
        });
        let name = params["name"].as_str().map(str::to_owned);
        let body = json!({"jsonrpc": "2.0", "id": self.next_id, "method": method, "params": params}).to_string();
        self.next_id += 1;
        let path = self.path.clone();
        let request =
            self.request(Method::POST, &path).header("mcp-protocol-version", MODERN).header("mcp-method", method);
        let request = name.into_iter().fold(request, |request, name| request.header("mcp-name", name));
        let response = self.answered(request, body).await?;
        ensure!(response.status() == StatusCode::OK, "{method}: {}", response.status());
        Ok(response)
    }

    async fn send(&mut self, method: Method, path: &str, body: String) -> Result<(StatusCode, Bytes)> {
        let response = self.answered(self.request(method, path), body).await?;
        if let Some(session) = response.headers().get("mcp-session-id") {
            self.session = Some(session.to_str()?.to_owned());
        }
        let status = response.status();
        Ok((status, response.into_body().collect().await?.to_bytes()))
    }

    fn request(&self, method: Method, path: &str) -> Builder {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", &self.host)
            .header("authorization", format!("Bearer {}", self.token))
            .header("content-type", "application/json")
            .header("accept", "application/json, text/event-stream");
        match &self.session {
            Some(session) => {
                request.header("mcp-session-id", session).header("mcp-protocol-version", linchpin_tests::agent::VERSION)
            }
            None => request,
        }
    }

    async fn answered(&mut self, request: Builder, body: String) -> Result<Response<Incoming>> {
        self.sender.ready().await?;
        Ok(self.sender.send_request(request.body(Full::from(body))?).await?)
    }
}
