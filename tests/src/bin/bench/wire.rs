//! The thinnest HTTP/1.1 client: one connection kept alive, so that the client's own time does not blur what is measured.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;

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
        wire.rpc("initialize", linchpin_tests::agent::introduction()).await?;
        let note = json!({"jsonrpc": "2.0", "method": "notifications/initialized"}).to_string();
        let path = wire.path.clone();
        wire.send(Method::POST, &path, note).await?;
        Ok(wire)
    }

    /// GETs a path and gives the status and the body.
    pub(crate) async fn get(&mut self, path: &str) -> Result<(StatusCode, Bytes)> {
        self.send(Method::GET, path, String::new()).await
    }

    /// One MCP request; its result.
    pub(crate) async fn rpc(&mut self, method: &str, params: Value) -> Result<Value> {
        let id = self.next_id;
        self.next_id += 1;
        let body = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}).to_string();
        let path = self.path.clone();
        let (status, answer) = self.send(Method::POST, &path, body).await?;
        let text = String::from_utf8_lossy(&answer);
        ensure!(status == StatusCode::OK, "{method}: {status} {text}");
        // An SSE answer has the message in its last data line; a JSON answer is the message.
        let last = text.lines().rev().find_map(|line| line.strip_prefix("data:"));
        let mut message: Value = serde_json::from_str(last.unwrap_or(&text)).with_context(|| text.to_string())?;
        ensure!(message["id"] == id && message["error"].is_null(), "{method}: {message}");
        Ok(message["result"].take())
    }

    async fn send(&mut self, method: Method, path: &str, body: String) -> Result<(StatusCode, Bytes)> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", &self.host)
            .header("authorization", format!("Bearer {}", self.token))
            .header("content-type", "application/json")
            .header("accept", "application/json, text/event-stream");
        if let Some(session) = &self.session {
            let version = linchpin_tests::agent::VERSION;
            request = request.header("mcp-session-id", session).header("mcp-protocol-version", version);
        }
        self.sender.ready().await?;
        let response = self.sender.send_request(request.body(Full::from(body))?).await?;
        if let Some(session) = response.headers().get("mcp-session-id") {
            self.session = Some(session.to_str()?.to_owned());
        }
        let status = response.status();
        Ok((status, response.into_body().collect().await?.to_bytes()))
    }
}
