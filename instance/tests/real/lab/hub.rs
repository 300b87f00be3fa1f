//! The hub's end of a connection to an instance.

use super::{InstanceLab, WITHIN};
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
use tokio::task::JoinHandle;

#[derive(Clone)]
pub(crate) struct Hub {
    instance: String,
    sender: SendRequest<Full<Bytes>>,
}

/// An answer that came whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Status, code of the problem, and whether the request was surely not executed.
    pub(crate) fn problem(&self) -> (u16, String, bool) {
        let code = self.json()["code"].as_str().unwrap_or_default().to_owned();
        (self.status.as_u16(), code, self.header("linchpin-not-executed") == Some("1"))
    }

    /// The messages of an event stream.
    pub(crate) fn events(&self) -> Vec<Value> {
        assert_eq!(self.header("content-type"), Some("text/event-stream"), "{self:?}");
        let text = std::str::from_utf8(&self.body).unwrap();
        text.split_terminator("\n\n")
            .map(|it| serde_json::from_str(it.strip_prefix("data: ").unwrap()).unwrap())
            .collect()
    }
}

impl Hub {
    /// Connects without saying who we are.
    pub(crate) async fn stranger(record: &Record) -> Self {
        let stream = TcpStream::connect(record.address().unwrap()).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self { instance: record.name.clone(), sender }
    }

    /// Connects and proves itself, as it is proved to.
    pub(crate) async fn connect(record: &Record) -> Self {
        let hub = Self::stranger(record).await;
        let (welcome, proof) = hub.hello(record, &record.secret).await;
        assert_eq!((welcome.id, welcome.generation), (record.id, record.generation));
        let proved = hub.post(path::PROVE, &[], json!(proof)).await;
        assert_eq!(proved.status, StatusCode::NO_CONTENT, "{proved:?}");
        hub
    }

    /// Says hello, checks the answer, and makes the proof for a secret.
    pub(crate) async fn hello(&self, record: &Record, secret: &str) -> (Welcome, Proof) {
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

    pub(crate) async fn send(
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

    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        let what = format!("{method} {path}");
        let whole = async {
            let (head, body) = self.send(method, path, headers, body).await.into_parts();
            Answer { status: head.status, headers: head.headers, body: body.collect().await.unwrap().to_bytes() }
        };
        tokio::time::timeout(WITHIN, whole).await.unwrap_or_else(|_| panic!("no answer to {what}"))
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask(Method::GET, path, &[], "").await
    }

    pub(crate) async fn post(&self, path: &str, headers: &[(&str, &str)], body: Value) -> Answer {
        self.ask(Method::POST, path, headers, body.to_string()).await
    }

    pub(crate) async fn vitals(&self) -> Vitals {
        serde_json::from_value(self.get(path::VITALS).await.json()).unwrap()
    }

    /// Reads vitals until they are as wanted.
    pub(crate) async fn vitals_until(&self, what: &str, mut wanted: impl FnMut(&Vitals) -> bool) -> Vitals {
        super::until(what, async || Some(self.vitals().await).filter(&mut wanted)).await
    }
}

/// The MCP server `main` of an instance.
#[derive(Clone)]
pub(crate) struct Mcp {
    pub(crate) hub: Hub,
    pub(crate) session: String,
}

pub(crate) const MAIN: &str = "/.linchpin/mcp/main";

impl Mcp {
    pub(crate) async fn initialize(hub: &Hub, capabilities: Value) -> (Self, Value) {
        Self::initialize_as(hub, "2025-11-25", capabilities).await
    }

    pub(crate) async fn initialize_as(hub: &Hub, version: &str, capabilities: Value) -> (Self, Value) {
        let params = json!({"protocolVersion": version, "capabilities": capabilities, "clientInfo": {"name": "t"}});
        let message = json!({"jsonrpc": "2.0", "id": "init", "method": "initialize", "params": params});
        let answer = hub.post(MAIN, &[("linchpin-wait-ms", "15000")], message).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        let session = answer.header("mcp-session-id").unwrap().to_owned();
        (Self { hub: hub.clone(), session }, answer.json())
    }

    pub(crate) async fn send(&self, message: Value) -> Answer {
        self.hub.post(MAIN, &[("mcp-session-id", &self.session)], message).await
    }

    pub(crate) async fn call(&self, id: Value, tool: &str, arguments: Value) -> Answer {
        let params = json!({"name": tool, "arguments": arguments, "_meta": {"progressToken": id}});
        self.send(json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params})).await
    }

    /// A call that the server never answers, as soon as the server has it.
    pub(crate) async fn hang(&self, lab: &InstanceLab, id: u32) -> JoinHandle<Answer> {
        let (mcp, instance) = (self.clone(), &self.hub.instance);
        let under_way = tokio::spawn(async move { mcp.call(json!(id), "mute", json!({})).await });
        lab.logged(instance, &format!("mute about {id}")).await;
        under_way
    }

    pub(crate) async fn listen(&self) -> Events {
        let answer = self.hub.send(Method::GET, MAIN, &[("mcp-session-id", &self.session)], "").await;
        Events::of(answer)
    }
}

/// An event stream that stays open.
pub(crate) struct Events {
    body: Incoming,
    text: Vec<u8>,
}

impl Events {
    pub(crate) fn of(answer: Response<Incoming>) -> Self {
        assert_eq!(answer.status(), StatusCode::OK);
        Self { body: answer.into_body(), text: Vec::new() }
    }

    /// The next message; `None` when the stream has ended.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.text.windows(2).position(|part| part == b"\n\n") {
                let event: Vec<u8> = self.text.drain(..end + 2).collect();
                return serde_json::from_slice(event.strip_prefix(b"data: ").unwrap()).unwrap();
            }
            let frame = tokio::time::timeout(WITHIN, self.body.frame()).await.expect("an event or the end");
            self.text.extend_from_slice(&frame?.unwrap().into_data().unwrap());
        }
    }
}
