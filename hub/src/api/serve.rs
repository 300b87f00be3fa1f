//! The HTTP/1.1 server under the routes.
//!
//! Owns accepting and the bounds of a connection: how many, how long a head may take, how large it may be.
//! Invariant: one bad client costs one connection. When told to stop it accepts no more, lets requests end within the
//! bound it is given, and then drops what is left.
//! Never: knows a route.

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Connections at once; more wait in the kernel's queue. Each costs a file descriptor and some kilobytes.
const MAX_CONNECTIONS: usize = 4096;

/// How long the head of a request may take: ends a slow-loris client.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Fields in a head.
const MAX_HEADERS: usize = 100;

/// The largest head, in bytes; one that came within a single read more than that is let through, so twice this is the end.
const MAX_HEAD: usize = 64 << 10;

/// The pause after the system refused a connection (no file descriptors): others end meanwhile.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves until `stop`, then lets requests end for `drain`, or until `hurry`.
pub async fn serve(
    listener: TcpListener,
    app: Router,
    stop: &CancellationToken,
    hurry: &CancellationToken,
    drain: Duration,
) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let connections = TaskTracker::new();
    let cut = CancellationToken::new();
    while let Some((stream, permit)) = next(&listener, &room, stop).await {
        let connection = connection(stream, app.clone(), stop.clone(), cut.clone());
        connections.spawn(async move {
            connection.await;
            drop(permit);
        });
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

/// The next connection, or `None` when it is time to stop.
async fn next(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
    stop: &CancellationToken,
) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    let accept = async {
        let permit = room.clone().acquire_owned().await.ok()?;
        loop {
            match listener.accept().await {
                Ok((stream, _)) => return Some((stream, permit)),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    stop.run_until_cancelled(accept).await.flatten()
}

async fn connection(stream: TcpStream, app: Router, stop: CancellationToken, cut: CancellationToken) {
    let _ = stream.set_nodelay(true);
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_headers(MAX_HEADERS).max_buf_size(MAX_HEAD);
    let serving = server.serve_connection(TokioIo::new(stream), TowerToHyperService::new(app)).with_upgrades();
    let mut serving = std::pin::pin!(serving);
    let served = tokio::select! {
        served = serving.as_mut() => served,
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
