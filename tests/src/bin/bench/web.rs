//! An MCP server on Streamable HTTP that answers at once, in this process, registered as an external program.
//!
//! The same server is called directly and through the hub, with neither Node nor an instance in between.

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use linchpin_shared::home::Home;
use linchpin_shared::process::Identity;
use linchpin_shared::protocol::hello;
use linchpin_shared::registry::record::{Record, instance_id};
use linchpin_shared::registry::{Registration, Registry};
use linchpin_tests::{echo, large};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use uuid::Uuid;

/// The tool that returns its argument.
pub(crate) const ECHO: &str = "echo";

/// The properties of such a server.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Offer {
    /// The number of its tools.
    pub(crate) tools: usize,
    /// Whether it announces changes of its list; if not, the hub must fetch the list each time.
    pub(crate) announces: bool,
}

/// A running server.
pub(crate) struct Web {
    registration: Registration,
    accepting: AbortHandle,
    /// Its URL.
    pub(crate) url: String,
}

impl Web {
    /// Listens on any port of 127.0.0.1 and registers.
    pub(crate) async fn start(home: &Home, name: &str, offer: Offer) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let accepting = tokio::spawn(accept(listener, Arc::new(Server::new(offer)))).abort_handle();
        let registered = Registry::new(home).register(record(name, &endpoint)?);
        let registration = registered.map_err(|problem| anyhow::anyhow!("{problem}"))?;
        Ok(Self { registration, accepting, url: format!("{endpoint}/mcp") })
    }

    /// Unregisters and ends.
    pub(crate) fn leave(self) -> Result<()> {
        self.accepting.abort();
        self.registration.unregister().map_err(|problem| anyhow::anyhow!("{problem}"))
    }
}

fn record(name: &str, endpoint: &str) -> Result<Record> {
    let project = Path::new("/");
    let record = json!({
        "format": 1, "id": instance_id(project, name), "name": name, "generation": Uuid::now_v7(),
        "endpoint": endpoint, "protocol": "http/1.1", "secret": hello::random()?,
        "process": Identity::current()?, "project_dir": project, "version": "1",
        "servers": [{"name": "main", "transport": "http", "url": "/mcp"}], "registered_at": "2026-11-20T10:00:00Z"
    });
    serde_json::from_value(record).context("not a record")
}

struct Server {
    tools: Value,
    capabilities: Value,
}

impl Server {
    fn new(offer: Offer) -> Self {
        let names = std::iter::once(ECHO.to_owned()).chain((1..offer.tools).map(|number| format!("tool_{number}")));
        let capabilities = if offer.announces { json!({"tools": {"listChanged": true}}) } else { json!({"tools": {}}) };
        Self { tools: names.map(|name| tool(&name)).collect(), capabilities }
    }

    fn answer(&self, message: &Value) -> Result<Option<String>> {
        if let Some(large) = large::answer(message) {
            return Ok(Some(large));
        }
        let Some(mut answer) = echo::answer(message, ECHO)? else { return Ok(None) };
        match message["method"].as_str() {
            Some("initialize") => answer["result"]["capabilities"].clone_from(&self.capabilities),
            Some("tools/list") => answer["result"]["tools"].clone_from(&self.tools),
            _ => {}
        }
        Ok(Some(answer.to_string()))
    }
}

/// A tool with a schema of typical size, about 700 bytes.
fn tool(name: &str) -> Value {
    let about = "What it does, in the two or three sentences that a model needs to choose it and to call it well. ";
    let property = |what: &str| json!({"type": "string", "description": format!("{what}. {}", &about[..60])});
    json!({
        "name": name, "title": name, "description": about.repeat(2),
        "inputSchema": {
            "type": "object", "required": ["message"], "additionalProperties": false,
            "properties": {"message": property("What is given back"), "path": property("Where"), "mode": property("How")}
        },
        "annotations": {"readOnlyHint": true}
    })
}

async fn accept(listener: TcpListener, server: Arc<Server>) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(connection(stream, Arc::clone(&server)));
    }
}

async fn connection(stream: TcpStream, server: Arc<Server>) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| respond(Arc::clone(&server), request));
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn respond(server: Arc<Server>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>> {
    let posted = request.method() == Method::POST;
    let body = request.into_body().collect().await?.to_bytes();
    if !posted {
        return Ok(status(StatusCode::METHOD_NOT_ALLOWED));
    }
    let Some(answer) = server.answer(&serde_json::from_slice(&body)?)? else { return Ok(status(StatusCode::ACCEPTED)) };
    let mut response = Response::new(Full::from(answer));
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/json"));
    Ok(response)
}

fn status(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}
