//! The hub's end of a connection to an instance.

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use linchpin_shared::protocol::hello::{Exchange, Hello, Proof, Role, Welcome};
use linchpin_shared::protocol::vitals::Vitals;
use linchpin_shared::protocol::{FORMAT, path};
use linchpin_shared::registry::record::Record;
use serde_json::{Value, json};
use tokio::net::TcpStream;

#[derive(Clone)]
pub struct Hub {
    sender: SendRequest<Full<Bytes>>,
}

/// An answer that came whole.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Status, code of the problem, and whether the request was surely not executed.
    pub fn problem(&self) -> (u16, String, bool) {
        let code = self.json()["code"].as_str().unwrap_or_default().to_owned();
        (self.status.as_u16(), code, self.header("linchpin-not-executed") == Some("1"))
    }

    /// The messages of an event stream.
    pub fn events(&self) -> Vec<Value> {
        assert_eq!(self.header("content-type"), Some("text/event-stream"), "{self:?}");
        let text = std::str::from_utf8(&self.body).unwrap();
        text.split_terminator("\n\n").map(|it| serde_json::from_str(it.strip_prefix("data: ").unwrap()).unwrap()).collect()
    }
}

impl Hub {
    /// Connects without saying who we are.
    pub async fn stranger(record: &Record) -> Self {
        let stream = TcpStream::connect(record.address().unwrap()).await.unwrap();
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self { sender }
    }

    /// Connects and proves itself, as it is proved to.
    pub async fn connect(record: &Record) -> Self {
        let hub = Self::stranger(record).await;
        let (welcome, proof) = hub.hello(record, &record.secret).await;
        assert_eq!((welcome.id, welcome.generation), (record.id, record.generation));
        let proved = hub.post(path::PROVE, &[], json!(proof)).await;
        assert_eq!(proved.status, StatusCode::NO_CONTENT, "{proved:?}");
        hub
    }

    /// Says hello, checks the answer, and makes the proof for a secret.
    pub async fn hello(&self, record: &Record, secret: &str) -> (Welcome, Proof) {
        let hello = Hello { format: FORMAT, nonce: "a nonce".into(), version: "test".into() };
        let answer = self.post(path::HELLO, &[], json!(hello)).await;
        let welcome: Welcome = serde_json::from_value(answer.json()).unwrap();
        let exchange = Exchange {
            hub_nonce: &hello.nonce,
            instance_nonce: &welcome.nonce,
            id: record.id,
            generation: record.generation,
            endpoint: &record.endpoint,
        };
        assert!(exchange.verify(Role::Instance, &record.secret, &welcome.proof));
        let proof = Proof { proof: exchange.prove(Role::Hub, secret) };
        (welcome, proof)
    }

    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Response<Incoming> {
        let mut request = Request::builder().method(method).uri(format!("http://instance{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.header("content-type", "application/json").body(Full::new(body.into())).unwrap();
        self.sender.clone().send_request(request).await.unwrap()
    }

    pub async fn ask(&self, method: Method, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answer {
        let (head, body) = self.send(method, path, headers, body).await.into_parts();
        Answer { status: head.status, headers: head.headers, body: body.collect().await.unwrap().to_bytes() }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.ask(Method::GET, path, &[], "").await
    }

    pub async fn post(&self, path: &str, headers: &[(&str, &str)], body: Value) -> Answer {
        self.ask(Method::POST, path, headers, body.to_string()).await
    }

    pub async fn vitals(&self) -> Vitals {
        serde_json::from_value(self.get(path::VITALS).await.json()).unwrap()
    }

    /// Reads vitals until they are as wanted.
    pub async fn vitals_until(&self, what: &str, mut wanted: impl FnMut(&Vitals) -> bool) -> Vitals {
        super::until(what, async || Some(self.vitals().await).filter(&mut wanted)).await
    }
}

/// The MCP server `main` of an instance.
pub struct Mcp {
    pub hub: Hub,
    pub session: String,
}

pub const MAIN: &str = "/.linchpin/mcp/main";

impl Mcp {
    pub async fn initialize(hub: &Hub, capabilities: Value) -> (Self, Value) {
        let params = json!({"protocolVersion": "2025-11-25", "capabilities": capabilities, "clientInfo": {"name": "t"}});
        let message = json!({"jsonrpc": "2.0", "id": "init", "method": "initialize", "params": params});
        let answer = hub.post(MAIN, &[("linchpin-wait-ms", "15000")], message).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        let session = answer.header("mcp-session-id").unwrap().to_owned();
        (Self { hub: hub.clone(), session }, answer.json())
    }

    pub async fn send(&self, message: Value) -> Answer {
        self.hub.post(MAIN, &[("mcp-session-id", &self.session)], message).await
    }

    pub async fn call(&self, id: Value, tool: &str, arguments: Value) -> Answer {
        let params = json!({"name": tool, "arguments": arguments, "_meta": {"progressToken": id}});
        self.send(json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params})).await
    }

    pub async fn listen(&self) -> Response<Incoming> {
        self.hub.send(Method::GET, MAIN, &[("mcp-session-id", &self.session)], "").await
    }
}

/// The next message of an event stream that stays open.
pub async fn next_event(stream: &mut Response<Incoming>) -> Option<Value> {
    let frame = stream.body_mut().frame().await?.unwrap().into_data().unwrap();
    let text = std::str::from_utf8(&frame).unwrap().strip_prefix("data: ").unwrap().trim_end();
    Some(serde_json::from_str(text).unwrap())
}
