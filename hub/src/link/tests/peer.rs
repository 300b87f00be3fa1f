//! An instance for tests: the real hello and vitals over real HTTP/2, and failures that a real instance does not show on
//! demand. It counts what the hub does to it.

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

type PeerResponse = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// What a peer does with its connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PeerMode {
    Serve,
    /// Resets every connection that is open.
    Reset,
    /// Closes every connection that is open.
    Close,
    /// Sends GOAWAY on every connection that is open.
    Goaway,
    /// Stops reading and writing.
    Freeze,
}

/// The number of the hub's actions.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) connections: AtomicUsize,
    pub(super) proofs: AtomicUsize,
    pub(super) requests: AtomicUsize,
    /// The open requests to `/hang`.
    pub(super) hanging: AtomicUsize,
}

/// A peer that serves until it is dropped.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) record: Record,
    pub(super) counts: Arc<Counts>,
    way: watch::Sender<PeerMode>,
    epoch: watch::Sender<u64>,
    accepting: AbortHandle,
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// The record of an instance that listens at this address.
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

    /// Serves as the instance of this record on an existing listener.
    pub(super) fn serve(listener: TcpListener, record: Record) -> Self {
        let counts = Arc::new(Counts::default());
        let (way, _) = watch::channel(PeerMode::Serve);
        let (epoch, _) = watch::channel(1);
        let peer = PeerState { record: record.clone(), counts: Arc::clone(&counts), epoch: epoch.clone() };
        let accepting = tokio::spawn(accept(listener, peer, way.clone())).abort_handle();
        Self { record, counts, way, epoch, accepting }
    }

    pub(super) fn go(&self, way: PeerMode) {
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
struct PeerState {
    record: Record,
    counts: Arc<Counts>,
    epoch: watch::Sender<u64>,
}

async fn accept(listener: TcpListener, peer: PeerState, way: watch::Sender<PeerMode>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        peer.counts.connections.fetch_add(1, Ordering::SeqCst);
        let mut way = way.subscribe();
        // An earlier mode concerns earlier connections.
        way.mark_unchanged();
        tokio::spawn(connection(stream, peer.clone(), way));
    }
}

async fn connection(stream: TcpStream, peer: PeerState, mut way: watch::Receiver<PeerMode>) {
    let stream = stream.into_std().unwrap();
    let second = stream.try_clone().unwrap();
    let service = service_fn(move |request| answer(peer.clone(), request));
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
            PeerMode::Serve => {}
            PeerMode::Reset => {
                let linger = Some(std::time::Duration::ZERO);
                return rustix::net::sockopt::set_socket_linger(&second, linger).unwrap();
            }
            PeerMode::Close => return,
            PeerMode::Goaway => serving.as_mut().graceful_shutdown(),
            PeerMode::Freeze => return std::future::pending().await,
        }
    }
}

async fn answer(peer: PeerState, request: Request<Incoming>) -> Result<PeerResponse, h2::Error> {
    peer.counts.requests.fetch_add(1, Ordering::SeqCst);
    let (head, body) = request.into_parts();
    let full = |status: StatusCode, body: Vec<u8>| {
        Response::builder().status(status).body(Full::from(body).boxed_unsync()).unwrap()
    };
    let Ok(body) = body.collect().await.map(http_body_util::Collected::to_bytes) else {
        return Ok(full(StatusCode::BAD_REQUEST, Vec::new()));
    };
    Ok(match head.uri.path() {
        path::HELLO if peer.record.name == "busy" => {
            let answer = Response::builder().status(StatusCode::SERVICE_UNAVAILABLE).header("retry-after", "2");
            answer.body(Full::from("later").boxed_unsync()).unwrap()
        }
        path::HELLO if peer.record.name == "babbler" => endless(),
        path::VITALS if peer.record.name == "flood" && head.uri.query().is_some() => flood(&peer.record),
        path::HELLO => full(StatusCode::OK, welcome(&peer.record, &body)),
        path::PROVE => {
            peer.counts.proofs.fetch_add(1, Ordering::SeqCst);
            full(StatusCode::NO_CONTENT, Vec::new())
        }
        path::VITALS if head.uri.query().is_some() => vitals_stream(&peer),
        path::VITALS => full(StatusCode::OK, line(&peer.record, 1).into()),
        "/echo" => full(StatusCode::OK, body.to_vec()),
        "/hang" => hang(&peer.counts).await,
        "/endless" => endless(),
        "/slow" => {
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
            full(StatusCode::OK, b"slow".to_vec())
        }
        // `hyper` resets the stream with the reason in the error.
        "/refuse" => return Err(h2::Reason::REFUSED_STREAM.into()),
        "/panic" => panic!("this handler always panics"),
        _ => full(StatusCode::NOT_FOUND, Vec::new()),
    })
}

fn welcome(peer: &Record, hello: &[u8]) -> Vec<u8> {
    let hello: Hello = serde_json::from_slice(hello).unwrap();
    let nonce = hello::random().unwrap();
    let exchange = Exchange {
        hub_nonce: &hello.nonce,
        instance_nonce: &nonce,
        id: peer.id,
        generation: peer.generation,
        endpoint: &peer.endpoint,
    };
    let proof = exchange.prove(Role::Instance, &peer.secret);
    let (id, generation, version) = (peer.id, peer.generation, peer.version.clone());
    let welcome = Welcome { format: FORMAT, nonce, proof, id, generation, version, capabilities: Vec::new() };
    serde_json::to_vec(&welcome).unwrap()
}

fn line(peer: &Record, epoch: u64) -> Bytes {
    let vitals = json!({
        "format": 1, "generation": peer.generation, "started_at": peer.registered_at, "processes": [],
        "servers": [{"name": "s", "transport": "stdio", "up": true, "epoch": epoch}]
    });
    assert!(serde_json::from_value::<Vitals>(vitals.clone()).is_ok());
    Bytes::from(format!("{vitals}\n"))
}

/// Sends one line at once and one at every change. Epoch 0 ends the stream.
fn vitals_stream(peer: &PeerState) -> PeerResponse {
    let (record, seen) = (peer.record.clone(), peer.epoch.subscribe());
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
fn flood(peer: &Record) -> PeerResponse {
    let (peer, mut epoch) = (peer.clone(), 0);
    let lines = futures_util::stream::repeat_with(move || {
        epoch += 1;
        Ok(Frame::data(line(&peer, epoch)))
    });
    Response::new(StreamBody::new(lines).boxed_unsync())
}

/// An endless response that is sent as fast as it is read.
fn endless() -> PeerResponse {
    let chunks = futures_util::stream::repeat_with(|| Ok(Frame::data(Bytes::from_static(&[0; 64 << 10]))));
    Response::new(StreamBody::new(chunks).boxed_unsync())
}

/// Does not answer. The future is dropped when the caller resets the stream.
async fn hang(counts: &Counts) -> PeerResponse {
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
