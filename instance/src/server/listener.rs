//! The listener and its connections, each with its own [`Verification`].

use super::middleware;
use super::routes;
use super::state::ServerState;
use super::verification::Verification;
use crate::connection_slots::{ConnectionPermit, ConnectionSlots};
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use linchpin_shared::problem::{Code, Problem};
use parking_lot::Mutex;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long the peer of a new connection may take to prove itself. A hub needs a millisecond; the rest is for a busy
/// machine.
const VERIFY_WITHIN: Duration = Duration::from_secs(10);
/// How long responses may take that are still being sent when the server closes. Longer ones had their time in the
/// drain.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);
/// How many connections are served at once. A hub needs one; a second hub, tests and strangers share the rest. One more
/// takes the slot of the stranger that has been idle longest.
const MAX_CONNECTIONS: usize = 64;
/// How many requests may be in flight on one connection. The hub's own limit is 256; its long-lived streams come on
/// top.
const MAX_STREAMS: u32 = 1024;
/// The windows of one stream and of a whole connection: large enough that a large message is not sent in 64 KiB steps.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// The pause after an `accept` that failed, for example because no file descriptor is free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A server that runs in the background until it is closed or dropped.
#[derive(Debug)]
pub(crate) struct Server {
    closing: CancellationToken,
    tasks: TaskTracker,
}

/// Binds to a loopback port that the system chooses. Also returns the endpoint as the record states it.
pub(crate) async fn bind() -> Result<(TcpListener, String), Problem> {
    let failed = |error: std::io::Error| {
        Problem::from_io(&error, Code::PortTaken, "cannot listen on a port of 127.0.0.1")
            .next("ss -ltn | wc -l")
            .next("ulimit -n")
    };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, format!("http://{address}")))
}

impl Server {
    /// Serves `state` in the background.
    pub(crate) fn start(listener: TcpListener, state: Arc<ServerState>) -> Self {
        let server = Self { closing: state.closing.clone(), tasks: TaskTracker::new() };
        server.tasks.spawn(accept(listener, state, server.tasks.clone()));
        server
    }

    /// Closes every connection with a GOAWAY and waits until all have ended.
    pub(crate) async fn close(self) {
        self.closing.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.closing.cancel();
    }
}

async fn accept(listener: TcpListener, state: Arc<ServerState>, tasks: TaskTracker) {
    let slots = ConnectionSlots::new(MAX_CONNECTIONS);
    let closing = state.closing.clone();
    let router = routes::router(state);
    let accept_all = async {
        loop {
            match listener.accept().await {
                // Without a slot the connection is closed at once.
                Ok((stream, _)) => {
                    if let Some(permit) = slots.acquire() {
                        tasks.spawn(serve(stream, permit, router.clone(), closing.clone()));
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    closing.run_until_cancelled(accept_all).await;
}

/// Sends lost segments again at even intervals first, instead of after times that double from the start. The hub does
/// the same, so on a link that loses many packets responses are only slightly late.
#[cfg(target_os = "linux")]
fn retransmit_evenly(stream: &TcpStream) -> std::io::Result<()> {
    rustix::net::sockopt::set_tcp_thin_linear_timeouts(stream, true).map_err(Into::into)
}

#[cfg(not(target_os = "linux"))]
fn retransmit_evenly(_: &TcpStream) -> std::io::Result<()> {
    Ok(())
}

/// Serves one connection until either side ends it.
async fn serve(stream: TcpStream, permit: Arc<ConnectionPermit>, router: axum::Router, closing: CancellationToken) {
    if let Err(error) = stream.set_nodelay(true).and_then(|()| retransmit_evenly(&stream)) {
        tracing::debug!(%error, "cannot set the options of a socket");
    }
    let verification = Arc::new(Mutex::new(Verification::default()));
    let service = middleware::stack(router, &verification, &permit);
    let service = TowerToHyperService::new(service);
    let mut connection = std::pin::pin!(
        http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .serve_connection(TokioIo::new(stream), service)
    );
    let unverified = async {
        tokio::time::sleep(VERIFY_WITHIN).await;
        if verification.lock().is_verified() {
            std::future::pending::<()>().await;
        }
    };
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = unverified => return,
        () = permit.evicted() => return,
        () = closing.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(CLOSE_WITHIN, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended");
    }
}
