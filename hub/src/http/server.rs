//! The HTTP/1.1 server: it accepts connections and limits them.
//!
//! There are limits on the number of connections, on the time and size of a request's header, and on how long a client
//! may leave its answer unread. A misbehaving client loses its own connection only, and idle connections give way to
//! new ones. When the server is told to stop, it accepts no more, lets requests finish within a time limit, and then
//! closes what is left.

use super::answer;
use axum::Router;
use axum::http::HeaderValue;
use axum::http::header::{CONNECTION, RETRY_AFTER};
use axum::response::Response;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use linchpin_instance::connection_slots::{ConnectionPermit, ConnectionSlots};
use linchpin_shared::problem::{Code, Problem};
use linchpin_shared::settings;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long the header of a request may take. This ends a slow-loris client.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// The number of fields in a header.
const MAX_HEADERS: usize = 100;

/// The size of a header, in bytes. A header that exceeds it by less than one read still passes, so at most twice this
/// size is buffered.
const MAX_HEADER_BYTES: usize = 64 << 10;

/// The limits on connections that are settings.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionLimits {
    /// The number of connections.
    pub max_connections: usize,
    /// How long a client may leave sent data unread once its buffers are full. This ends a client that never reads; an
    /// agent that was stopped for longer finds its stream closed and opens another one.
    pub unread_timeout: Duration,
}

impl From<&settings::HubSettings> for ConnectionLimits {
    fn from(settings: &settings::HubSettings) -> Self {
        Self { max_connections: settings.max_connections, unread_timeout: settings.unread_timeout }
    }
}

/// When all connections are busy, this many further ones get an answer that says so.
const MAX_REFUSED: usize = 64;

/// The pause after the system could not accept a connection, for lack of file descriptors. Other connections end
/// meanwhile.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves connections within these limits until `stop`, then lets requests finish for the time `drain`, or until
/// `force`.
pub async fn serve(
    listener: TcpListener,
    app: Router,
    limits: ConnectionLimits,
    stop: &CancellationToken,
    force: &CancellationToken,
    drain: Duration,
) {
    let acceptor = Acceptor::new(app, limits.max_connections);
    let connections = TaskTracker::new();
    let abort = CancellationToken::new();
    while let Some(stream) = next(&listener, stop).await {
        // If there is no room even for a refusal, the connection is closed at once.
        if let Some((permit, app)) = acceptor.admit() {
            if let Err(error) = set_options(&stream, limits.unread_timeout) {
                tracing::debug!(%error, "cannot set the options of a connection");
            }
            connections.spawn(connection(stream, app, permit, stop.clone(), abort.clone()));
        }
    }
    drop(listener);
    connections.close();
    tokio::select! {
        () = connections.wait() => {}
        () = force.cancelled() => {}
        () = tokio::time::sleep(drain) => tracing::warn!(connections = connections.len(), "requests did not finish in time; their connections are closed"),
    }
    abort.cancel();
    connections.wait().await;
}

/// Decides which connections are admitted, and what serves them.
struct Acceptor {
    app: Router,
    slots: Arc<ConnectionSlots>,
    refusal: Router,
    refused: Arc<ConnectionSlots>,
}

impl Acceptor {
    fn new(app: Router, max_connections: usize) -> Self {
        let refusal = Router::new().fallback(move || overloaded(max_connections));
        Self { app, slots: ConnectionSlots::new(max_connections), refusal, refused: ConnectionSlots::new(MAX_REFUSED) }
    }

    fn admit(&self) -> Option<(Arc<ConnectionPermit>, Router)> {
        let inside = || Some((self.slots.acquire()?, self.app.clone()));
        inside().or_else(|| Some((self.refused.acquire()?, self.refusal.clone())))
    }
}

async fn overloaded(max_connections: usize) -> Response {
    let problem = Problem::new(Code::Overloaded, format!("all {max_connections} connections of the hub are busy"))
        .next("try again in a second")
        .next(format!("LINCHPIN_HUB_MAX_CONNECTIONS={} linchpin hub", max_connections * 2));
    let mut response = answer::problem(&problem);
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// Returns the next connection, or `None` when it is time to stop.
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
    abort: CancellationToken,
) {
    let mut server = http1::Builder::new();
    server
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEADER_BYTES);
    let serving = server.serve_connection(TokioIo::new(stream), permit.serving(app)).with_upgrades();
    let mut serving = std::pin::pin!(serving);
    let served = tokio::select! {
        served = serving.as_mut() => served,
        () = permit.evicted() => return,
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            tokio::select! {
                served = serving => served,
                () = abort.cancelled() => return,
            }
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "the connection of a client failed");
    }
}

fn set_options(stream: &TcpStream, unread_timeout: Duration) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let unread_timeout = u32::try_from(unread_timeout.as_millis()).unwrap_or(u32::MAX);
    Ok(rustix::net::sockopt::set_tcp_user_timeout(stream, unread_timeout)?)
}
