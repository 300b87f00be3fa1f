//! The HTTP/1.1 server under the routes.
//!
//! Owns accepting and the bounds of a connection: how many, how long a head may take, how large it may be, how long a
//! client may leave its answer unread.
//! Invariant: one bad client costs one connection, and connections that do nothing shut nobody out. When told to stop it
//! accepts no more, lets requests end within the bound it is given, and then drops what is left.
//! Never: knows a route.

use super::reply;
use axum::Router;
use axum::http::HeaderValue;
use axum::http::header::{CONNECTION, RETRY_AFTER};
use axum::response::Response;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use linchpin_instance::connection_slots::{ConnectionPermit, ConnectionSlots};
use linchpin_shared::problem::{Code, Problem};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long the head of a request may take: ends a slow-loris client.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Fields in a head.
const MAX_HEADERS: usize = 100;

/// The largest head, in bytes; one that came within a single read more than that is let through, so twice this is the end.
const MAX_HEAD: usize = 64 << 10;

/// The bounds on connections that the settings have.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// So many at once.
    pub most: usize,
    /// How long a client may leave what was sent to it unread, once its buffers are full. Ends one that never reads; an agent
    /// that was stopped for longer finds its stream closed and opens another.
    pub unread: Duration,
}

/// When every connection is busy, so many more are told so.
const MAX_REFUSED: usize = 64;

/// The pause after the system refused a connection (no file descriptors): others end meanwhile.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves connections within these bounds until `stop`, then lets requests end for `drain`, or until `hurry`.
pub async fn serve(
    listener: TcpListener,
    app: Router,
    bounds: Bounds,
    stop: &CancellationToken,
    hurry: &CancellationToken,
    drain: Duration,
) {
    let acceptor = Acceptor::new(app, bounds.most);
    let connections = TaskTracker::new();
    let cut = CancellationToken::new();
    while let Some(stream) = next(&listener, stop).await {
        // Without any place left it is closed at once, which says it too.
        if let Some((permit, app)) = acceptor.enter() {
            if let Err(error) = bound(&stream, bounds.unread) {
                tracing::debug!(%error, "a connection's options cannot be set");
            }
            connections.spawn(connection(stream, app, permit, stop.clone(), cut.clone()));
        }
    }
    drop(listener);
    connections.close();
    tokio::select! {
        () = connections.wait() => {}
        () = hurry.cancelled() => {}
        () = tokio::time::sleep(drain) => tracing::warn!(connections = connections.len(), "cut off at the drain's end"),
    }
    cut.cancel();
    connections.wait().await;
}

/// Who gets in, and to what.
struct Acceptor {
    app: Router,
    slots: Arc<ConnectionSlots>,
    refusing: Router,
    refused: Arc<ConnectionSlots>,
}

impl Acceptor {
    fn new(app: Router, most: usize) -> Self {
        let refusing = Router::new().fallback(move || overloaded(most));
        Self { app, slots: ConnectionSlots::new(most), refusing, refused: ConnectionSlots::new(MAX_REFUSED) }
    }

    fn enter(&self) -> Option<(Arc<ConnectionPermit>, Router)> {
        let inside = || Some((self.slots.acquire()?, self.app.clone()));
        inside().or_else(|| Some((self.refused.acquire()?, self.refusing.clone())))
    }
}

async fn overloaded(most: usize) -> Response {
    let problem = Problem::new(Code::Overloaded, format!("all {most} connections of the hub are busy"))
        .next("try again in a second")
        .next(format!("LINCHPIN_HUB_MAX_CONNECTIONS={} linchpin hub", most * 2));
    let mut response = reply::problem(&problem);
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// The next connection, or `None` when it is time to stop.
async fn next(listener: &TcpListener, stop: &CancellationToken) -> Option<TcpStream> {
    let accept = async {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => return stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    stop.run_until_cancelled(accept).await
}

async fn connection(
    stream: TcpStream,
    app: Router,
    permit: Arc<ConnectionPermit>,
    stop: CancellationToken,
    cut: CancellationToken,
) {
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_headers(MAX_HEADERS).max_buf_size(MAX_HEAD);
    let serving = server.serve_connection(TokioIo::new(stream), permit.serving(app)).with_upgrades();
    let mut serving = std::pin::pin!(serving);
    let served = tokio::select! {
        served = serving.as_mut() => served,
        () = permit.evicted() => return,
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            tokio::select! {
                served = serving => served,
                () = cut.cancelled() => return,
            }
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "a client's connection ended badly");
    }
}

fn bound(stream: &TcpStream, unread: Duration) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let unread = u32::try_from(unread.as_millis()).unwrap_or(u32::MAX);
    Ok(rustix::net::sockopt::set_tcp_user_timeout(stream, unread)?)
}
