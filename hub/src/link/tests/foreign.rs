//! Foreign programs, which speak HTTP/1.1 and do not know our protocol.

use super::peer::record_at;
use super::rig::{LinkRig, PATIENCE, becomes, call, counts, fails, quick, reaches};
use crate::link::failure::FailureKind;
use crate::link::{Body, BoxError, LinkHandle, LinkState, SendError};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use linchpin_shared::registry::record::{Protocol, Record};
use linchpin_shared::settings::LinkSettings;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::AbortHandle;

/// What the hub did to a program.
#[derive(Debug, Default)]
struct ProgramCounts {
    opened: AtomicUsize,
    closed: AtomicUsize,
    checkups: AtomicUsize,
    echoes: AtomicUsize,
    lost: AtomicUsize,
}

struct ForeignProgram {
    record: Record,
    seen: Arc<ProgramCounts>,
    serving: AbortHandle,
}

impl Drop for ForeignProgram {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl ForeignProgram {
    /// Starts a program that closes a connection after it was idle for this time.
    async fn start(idle: Duration) -> Self {
        Self::serve(TcpListener::bind("127.0.0.1:0").await.unwrap(), idle)
    }

    fn serve(listener: TcpListener, idle: Duration) -> Self {
        let (record, seen) = (foreign(listener.local_addr().unwrap()), Arc::new(ProgramCounts::default()));
        let counted = Arc::clone(&seen);
        let serving = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                counted.opened.fetch_add(1, Ordering::SeqCst);
                connections.spawn(connection(stream, Arc::clone(&counted), idle));
            }
        });
        Self { record, seen, serving: serving.abort_handle() }
    }

    fn opened(&self) -> usize {
        self.seen.opened.load(Ordering::SeqCst)
    }
}

fn foreign(address: SocketAddr) -> Record {
    Record { protocol: Protocol::Http1, ..record_at(address, "shop") }
}

async fn connection(stream: TcpStream, seen: Arc<ProgramCounts>, idle: Duration) {
    let service = service_fn(|request| answer(request, &seen));
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(idle)
        .serve_connection(TokioIo::new(stream), service);
    drop(serving.await);
    seen.closed.fetch_add(1, Ordering::SeqCst);
}

async fn answer(request: Request<Incoming>, seen: &ProgramCounts) -> Result<Response<Full<Bytes>>, BoxError> {
    let path = request.uri().path().to_owned();
    let (method, host) = (request.method().clone(), request.headers()["host"].clone());
    assert!(host.to_str().unwrap().contains(':') && request.uri().authority().is_none(), "origin form, with a host");
    let body = request.into_body().collect().await?.to_bytes();
    match path.as_str() {
        "/" => seen.checkups.fetch_add(1, Ordering::SeqCst),
        "/echo" => seen.echoes.fetch_add(1, Ordering::SeqCst),
        // The first of these requests is lost with its connection, as if the server closed it at that moment.
        "/lossy" if seen.lost.fetch_add(1, Ordering::SeqCst) == 0 => return Err("gone".into()),
        _ => 0,
    };
    let status = if method == Method::HEAD { StatusCode::METHOD_NOT_ALLOWED } else { StatusCode::OK };
    Ok(Response::builder().status(status).body(Full::from(body)).unwrap())
}

const LONG: Duration = Duration::from_secs(60);

async fn connected(program: &ForeignProgram) -> (LinkRig, LinkHandle) {
    let rig = LinkRig::new(&quick());
    let handle = rig.link(&program.record).await;
    reaches(&handle, LinkState::Active).await;
    (rig, handle)
}

#[tokio::test]
async fn a_foreign_program_is_served_over_few_connections() {
    let program = ForeignProgram::start(LONG).await;
    let (rig, handle) = connected(&program).await;
    assert_eq!(program.seen.checkups.load(Ordering::SeqCst), 1, "any answer shows life");
    for _ in 0..200 {
        assert_eq!(call(&handle, "/echo", "x").await.unwrap(), "x");
    }
    assert_eq!(program.opened(), 2, "one for check-ups and one for requests");
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let handle = handle.clone();
        callers.spawn(async move {
            for _ in 0..50 {
                assert_eq!(call(&handle, "/echo", "y").await.unwrap(), "y");
            }
        });
    }
    callers.join_all().await;
    assert!(program.opened() <= 17, "{} connections for 16 callers", program.opened());
    let metrics = rig.metrics();
    let line = format!("linchpin_link_tcp_connections_total{{instance=\"shop\"}} {}\n", program.opened());
    assert!(metrics.contains(&line), "{metrics}");
    assert_eq!(handle.status().borrow().connections, 1);
}

#[tokio::test]
async fn a_connection_closed_by_its_server_is_not_reused() {
    let program = ForeignProgram::start(Duration::from_millis(50)).await;
    let (_rig, handle) = connected(&program).await;
    for _ in 0..5 {
        // A request with a body, which could not be repeated.
        assert_eq!(call(&handle, "/echo", "x").await.unwrap(), "x");
        counts("closed", &program.seen.closed, |closed| closed == program.opened()).await;
    }
    assert_eq!(program.seen.echoes.load(Ordering::SeqCst), 5);
    assert_eq!(handle.status().borrow().state, LinkState::Active, "that is no failure");
}

/// Sends a request of this method, with or without a body, after a request that leaves an idle connection.
async fn on_a_used_connection(method: Method, body: &'static str) -> (ForeignProgram, Result<StatusCode, SendError>) {
    let program = ForeignProgram::start(LONG).await;
    let (_rig, handle) = connected(&program).await;
    call(&handle, "/echo", "x").await.unwrap();
    let body: Body = if body.is_empty() {
        Empty::new().map_err(BoxError::from).boxed_unsync()
    } else {
        Full::from(body).map_err(BoxError::from).boxed_unsync()
    };
    let request = Request::builder().method(method).uri("/lossy").body(body).unwrap();
    let answered = handle.request(request).await.map(|response| response.status());
    (program, answered)
}

#[tokio::test]
async fn a_safe_request_is_repeated_once_on_a_reused_connection() {
    let (program, answered) = on_a_used_connection(Method::GET, "").await;
    assert_eq!(answered.unwrap(), StatusCode::OK);
    assert_eq!(program.seen.lost.load(Ordering::SeqCst), 2);

    for (method, body) in [(Method::POST, ""), (Method::PUT, "a body")] {
        let (program, answered) = on_a_used_connection(method, body).await;
        let error = answered.unwrap_err();
        assert!(matches!(error, SendError::Interrupted(_)), "{error}");
        assert_eq!(program.seen.lost.load(Ordering::SeqCst), 1, "seen once");
    }
}

#[tokio::test]
async fn a_program_that_listens_again_is_found() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    let program = ForeignProgram::serve(socket.listen(16).unwrap(), LONG);
    let (_rig, handle) = connected(&program).await;
    call(&handle, "/echo", "x").await.unwrap();
    drop(program);
    // Its connections have ended as well, so the next request cannot connect, and the link learns of it.
    let error = loop {
        match call(&handle, "/echo", "x").await {
            Err(error) if error.not_executed() => break error,
            Ok(_) | Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    };
    let status = fails(&handle, FailureKind::Refused).await;
    assert!(status.connection.is_none(), "{error}: {status:?}");

    let again = TcpSocket::new_v4().unwrap();
    again.set_reuseaddr(true).unwrap();
    again.bind(address).unwrap();
    let _program = ForeignProgram::serve(again.listen(16).unwrap(), LONG);
    handle.ready(PATIENCE).await.unwrap();
    assert_eq!(call(&handle, "/echo", "x").await.unwrap(), "x");
}

#[tokio::test]
async fn a_program_that_never_answers_is_not_connected() {
    let hung = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let rig = LinkRig::new(&LinkSettings { dial_timeout: Duration::from_millis(100), ..quick() });
    let handle = rig.link(&foreign(hung.local_addr().unwrap())).await;
    let status = becomes(&handle, "failed", |status| status.last_failure.is_some()).await;
    assert_eq!((status.connections, status.last_failure.clone().unwrap().kind), (0, FailureKind::HelloTimeout));
}

#[tokio::test]
async fn a_partly_read_response_does_not_mix_with_the_next() {
    let program = ForeignProgram::start(LONG).await;
    let (_rig, handle) = connected(&program).await;
    let large: &'static str = Box::leak("z".repeat(4 << 20).into_boxed_str());
    for _ in 0..5 {
        let request = super::rig::request("/echo", large);
        drop(handle.request(request).await.unwrap());
        assert_eq!(call(&handle, "/echo", "x").await.unwrap(), "x");
    }
}
