//! An instance for tests: the real hello and vitals over real HTTP/2, and ways to fail that a real one will not show on
//! demand. What it counts is what the hub did to it.

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use linchpin_shared::process::Identity;
use linchpin_shared::protocol::hello::{self, Exchange, Hello, Role, Welcome};
use linchpin_shared::protocol::vitals::Vitals;
use linchpin_shared::protocol::{FORMAT, path};
use linchpin_shared::registry::record::Record;
use serde_json::json;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use uuid::Uuid;

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// How a peer treats its connections from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Serve,
    /// Resets every connection that is open.
    Reset,
    /// Closes every connection that is open.
    Close,
    /// Says goodbye on every connection that is open.
    Goaway,
    /// Reads and writes nothing any more.
    Freeze,
}

/// What the hub did.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) connections: AtomicUsize,
    pub(super) proofs: AtomicUsize,
    pub(super) requests: AtomicUsize,
    /// Requests to `/hang` that are not given up yet.
    pub(super) hanging: AtomicUsize,
}

/// A peer that serves until it is dropped.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) record: Record,
    pub(super) counts: Arc<Counts>,
    way: watch::Sender<Way>,
    epoch: watch::Sender<u64>,
    accepting: AbortHandle,
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// The record of an instance that would listen there.
pub(super) fn record_at(address: SocketAddr, name: &str) -> Record {
    let record = json!({
        "format": 1, "id": Uuid::new_v5(&Uuid::nil(), name.as_bytes()), "name": name, "generation": Uuid::now_v7(),
        "endpoint": format!("http://{address}"), "protocol": "h2c", "secret": hello::random().unwrap(),
        "process": Identity::current().unwrap(),
        "project_dir": "/", "version": "1", "registered_at": "2026-11-20T10:00:00Z"
    });
    Record::parse(record.to_string().as_bytes()).unwrap()
}

impl Peer {
    pub(super) async fn start(name: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let record = record_at(listener.local_addr().unwrap(), name);
        Self::serve(listener, record)
    }

    /// Serves as this record on a listener that may be older than the peer.
    pub(super) fn serve(listener: TcpListener, record: Record) -> Self {
        let counts = Arc::new(Counts::default());
        let (way, _) = watch::channel(Way::Serve);
        let (epoch, _) = watch::channel(1);
        let us = Us { record: record.clone(), counts: Arc::clone(&counts), epoch: epoch.clone() };
        let accepting = tokio::spawn(accept(listener, us, way.clone())).abort_handle();
        Self { record, counts, way, epoch, accepting }
    }

    pub(super) fn go(&self, way: Way) {
        self.way.send_replace(way);
    }

    pub(super) fn set_epoch(&self, epoch: u64) {
        self.epoch.send_replace(epoch);
    }

    pub(super) fn connections(&self) -> usize {
        self.counts.connections.load(Ordering::SeqCst)
    }
}

#[derive(Clone)]
struct Us {
    record: Record,
    counts: Arc<Counts>,
    epoch: watch::Sender<u64>,
}

async fn accept(listener: TcpListener, us: Us, way: watch::Sender<Way>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        us.counts.connections.fetch_add(1, Ordering::SeqCst);
        let mut way = way.subscribe();
        // What was ordered before concerns the connections before.
        way.mark_unchanged();
        tokio::spawn(connection(stream, us.clone(), way));
    }
}

async fn connection(stream: TcpStream, us: Us, mut way: watch::Receiver<Way>) {
    let stream = stream.into_std().unwrap();
    let second = stream.try_clone().unwrap();
    let service = service_fn(move |request| answer(us.clone(), request));
    let serving = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(TcpStream::from_std(stream).unwrap()), service);
    let mut serving = Box::pin(serving);
    loop {
        tokio::select! {
            _ = &mut serving => return,
            changed = way.changed() => if changed.is_err() { return },
        }
        let now = *way.borrow_and_update();
        match now {
            Way::Serve => {}
            Way::Reset => {
                let linger = Some(std::time::Duration::ZERO);
                return rustix::net::sockopt::set_socket_linger(&second, linger).unwrap();
            }
            Way::Close => return,
            Way::Goaway => serving.as_mut().graceful_shutdown(),
            Way::Freeze => return std::future::pending().await,
        }
    }
}

async fn answer(us: Us, request: Request<Incoming>) -> Result<Answer, h2::Error> {
    us.counts.requests.fetch_add(1, Ordering::SeqCst);
    let (head, body) = request.into_parts();
    let full = |status: StatusCode, body: Vec<u8>| {
        Response::builder().status(status).body(Full::from(body).boxed_unsync()).unwrap()
    };
    let Ok(body) = body.collect().await.map(http_body_util::Collected::to_bytes) else {
        return Ok(full(StatusCode::BAD_REQUEST, Vec::new()));
    };
    Ok(match head.uri.path() {
        path::HELLO if us.record.name == "busy" => {
            let answer = Response::builder().status(StatusCode::SERVICE_UNAVAILABLE).header("retry-after", "2");
            answer.body(Full::from("later").boxed_unsync()).unwrap()
        }
        path::HELLO if us.record.name == "babbler" => endless(),
        path::VITALS if us.record.name == "flood" && head.uri.query().is_some() => flood(&us.record),
        path::HELLO => full(StatusCode::OK, welcome(&us.record, &body)),
        path::PROVE => {
            us.counts.proofs.fetch_add(1, Ordering::SeqCst);
            full(StatusCode::NO_CONTENT, Vec::new())
        }
        path::VITALS if head.uri.query().is_some() => vitals_stream(&us),
        path::VITALS => full(StatusCode::OK, line(&us.record, 1).into()),
        "/echo" => full(StatusCode::OK, body.to_vec()),
        "/hang" => hang(&us.counts).await,
        "/endless" => endless(),
        "/slow" => {
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
            full(StatusCode::OK, b"slow".to_vec())
        }
        // `hyper` resets the stream for the reason that it finds in the error.
        "/refuse" => return Err(h2::Reason::REFUSED_STREAM.into()),
        "/panic" => panic!("this handler always panics"),
        _ => full(StatusCode::NOT_FOUND, Vec::new()),
    })
}

fn welcome(us: &Record, hello: &[u8]) -> Vec<u8> {
    let hello: Hello = serde_json::from_slice(hello).unwrap();
    let nonce = hello::random().unwrap();
    let exchange = Exchange {
        hub_nonce: &hello.nonce,
        instance_nonce: &nonce,
        id: us.id,
        generation: us.generation,
        endpoint: &us.endpoint,
    };
    let proof = exchange.prove(Role::Instance, &us.secret);
    let (id, generation, version) = (us.id, us.generation, us.version.clone());
    let welcome = Welcome { format: FORMAT, nonce, proof, id, generation, version, capabilities: Vec::new() };
    serde_json::to_vec(&welcome).unwrap()
}

fn line(us: &Record, epoch: u64) -> Bytes {
    let vitals = json!({
        "format": 1, "generation": us.generation, "started_at": us.registered_at, "processes": [],
        "servers": [{"name": "s", "transport": "stdio", "up": true, "epoch": epoch}]
    });
    assert!(serde_json::from_value::<Vitals>(vitals.clone()).is_ok());
    Bytes::from(format!("{vitals}\n"))
}

/// One line now and one at every change; epoch 0 ends the stream.
fn vitals_stream(us: &Us) -> Answer {
    let (record, seen) = (us.record.clone(), us.epoch.subscribe());
    let lines = futures_util::stream::unfold((record, seen, true), |(record, mut seen, first)| async move {
        if !first {
            seen.changed().await.ok()?;
        }
        let epoch = *seen.borrow_and_update();
        let frame = Ok(Frame::data(line(&record, epoch)));
        (epoch > 0).then_some((frame, (record, seen, false)))
    });
    Response::new(StreamBody::new(lines).boxed_unsync())
}

/// Vitals that change as fast as they are read.
fn flood(us: &Record) -> Answer {
    let (us, mut epoch) = (us.clone(), 0);
    let lines = futures_util::stream::repeat_with(move || {
        epoch += 1;
        Ok(Frame::data(line(&us, epoch)))
    });
    Response::new(StreamBody::new(lines).boxed_unsync())
}

/// An answer that never ends, as fast as it is read.
fn endless() -> Answer {
    let chunks = futures_util::stream::repeat_with(|| Ok(Frame::data(Bytes::from_static(&[0; 64 << 10]))));
    Response::new(StreamBody::new(chunks).boxed_unsync())
}

/// Never answers. Whoever asked resets the stream, which drops this.
async fn hang(counts: &Counts) -> Answer {
    struct Hanging<'a>(&'a AtomicUsize);
    impl Drop for Hanging<'_> {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }
    counts.hanging.fetch_add(1, Ordering::SeqCst);
    let _hanging = Hanging(&counts.hanging);
    std::future::pending().await
}
