//! What an instance serves on its endpoint: HTTP/2 without TLS on a loopback port that the system chooses.
//!
//! Owns the listener, its connections and, in [`routes`], what they may ask. Each connection has its own [`gate`].
//! Invariant: before a connection's gate is open, it gets nothing but the hello, and only for [`PROVE_WITHIN`]; strangers
//! who hold connections open do not keep a hub out.
//! Never: listens on anything but loopback, or cuts an answer short when it closes: peers get a GOAWAY and a moment.

pub(crate) mod gate;
mod routes;

pub(crate) use routes::App;

use crate::seats::{Seat, Seats};
use axum::extract::Extension;
use gate::Gate;
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

/// How long a new connection may take to prove itself. A hub needs a millisecond; the rest is for a busy machine.
const PROVE_WITHIN: Duration = Duration::from_secs(10);
/// How long answers that are under way may take once the server closes. What is longer was given its time by the drain.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);
/// How many connections are served at once. A hub has one; a second hub, tests and strangers share the rest. One more
/// gets the place of the stranger who has been there longest.
const MAX_CONNECTIONS: usize = 64;
/// Requests in flight on one connection: a hub's own bound is 256 (DESIGN 4.3), its open streams come on top.
const MAX_STREAMS: u32 = 1024;
/// Room for one stream and for all of a connection, so that a large message is not sent in 64 KiB steps.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// Pause after an `accept` that failed, for example because no file descriptor is free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A server that runs until it is closed.
#[derive(Debug)]
pub(crate) struct Server {
    closing: CancellationToken,
    tasks: TaskTracker,
}

/// Binds to a loopback port that the system chooses. Returns the endpoint as it stands in the record.
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
    /// Serves `app` in the background.
    pub(crate) fn start(listener: TcpListener, app: Arc<App>) -> Self {
        let server = Self { closing: app.closing.clone(), tasks: TaskTracker::new() };
        server.tasks.spawn(accept(listener, app, server.tasks.clone()));
        server
    }

    /// Says goodbye on every connection and ends.
    pub(crate) async fn close(self) {
        self.closing.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// A server that is dropped without [`Server::close`] ends too.
impl Drop for Server {
    fn drop(&mut self) {
        self.closing.cancel();
    }
}

async fn accept(listener: TcpListener, app: Arc<App>, tasks: TaskTracker) {
    let seats = Seats::new(MAX_CONNECTIONS);
    let closing = app.closing.clone();
    let router = routes::router(app);
    let accept_all = async {
        loop {
            match listener.accept().await {
                // Without any place left the connection is closed at once.
                Ok((stream, _)) => {
                    if let Some(seat) = seats.take() {
                        tasks.spawn(serve(stream, seat, router.clone(), closing.clone()));
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

/// Repeats a lost segment at even intervals first, and not after times that double from the beginning. The hub does the
/// same: on a link that loses much, answers are late by little.
#[cfg(target_os = "linux")]
fn repeat_evenly(stream: &TcpStream) -> std::io::Result<()> {
    rustix::net::sockopt::set_tcp_thin_linear_timeouts(stream, true).map_err(Into::into)
}

#[cfg(not(target_os = "linux"))]
fn repeat_evenly(_: &TcpStream) -> std::io::Result<()> {
    Ok(())
}

/// Serves one connection until either side ends it.
async fn serve(stream: TcpStream, seat: Arc<Seat>, router: axum::Router, closing: CancellationToken) {
    if let Err(error) = stream.set_nodelay(true).and_then(|()| repeat_evenly(&stream)) {
        tracing::debug!(%error, "cannot set up a socket");
    }
    let gate = Arc::new(Mutex::new(Gate::default()));
    let service = router.layer(Extension(Arc::clone(&gate))).layer(Extension(Arc::clone(&seat)));
    let service = TowerToHyperService::new(service);
    let mut connection = std::pin::pin!(
        http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .serve_connection(TokioIo::new(stream), service)
    );
    let unproved = async {
        tokio::time::sleep(PROVE_WITHIN).await;
        if gate.lock().is_proved() {
            std::future::pending::<()>().await;
        }
    };
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = unproved => return,
        () = seat.asked_to_leave() => return,
        () = closing.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(CLOSE_WITHIN, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended");
    }
}
