//! HTTP/1.1 connections to one server, kept alive between requests.
//!
//! A connection is used for one request at a time, and again once hyper reports it as ready. [`SendError::NotSent`]
//! means that no byte of the request was sent; after any other failure it may have been executed, and it is never
//! repeated. A connection that its server may close as idle is not used again.

use super::tls::Tls;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// How long connecting may take. The server is on this machine or near; with TLS, it may be anywhere.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);
const CONNECT_FAR_WITHIN: Duration = Duration::from_secs(10);
/// How long a connection may have been idle to be used again: Node and uvicorn close idle connections after 5 s.
const MAX_IDLE: Duration = Duration::from_secs(4);
/// How many connections are kept. More may be open at once; they are closed after use.
const MAX_KEPT: usize = 32;

/// Why there is no response.
#[derive(Debug)]
pub(super) enum SendError {
    /// The server certainly saw nothing of the request.
    NotSent(io::Error),
    /// The connection broke while the request was in flight.
    Interrupted(hyper::Error),
}

#[derive(Debug)]
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    last_used: Instant,
}

/// The connections to one server.
#[derive(Debug)]
pub(super) struct Pool {
    host: String,
    port: u16,
    tls: Option<Box<Tls>>,
    kept: Mutex<Vec<Connection>>,
}

impl Pool {
    /// Creates a pool without connections.
    pub(super) fn new(host: String, port: u16, tls: Option<Box<Tls>>) -> Self {
        Self { host, port, tls, kept: Mutex::default() }
    }

    /// Sends a request over an idle connection, or over a new one.
    pub(super) async fn send(&self, mut request: Request<Full<Bytes>>) -> Result<Response<Incoming>, SendError> {
        // A kept connection that turns out to be closed returns the request unsent; in the end a new one is used.
        loop {
            let (mut connection, reused) = match self.take() {
                Some(connection) => (connection, true),
                None => (self.connect().await.map_err(SendError::NotSent)?, false),
            };
            connection.last_used = Instant::now();
            match connection.sender.try_send_request(request).await {
                Ok(response) => {
                    self.keep(connection);
                    return Ok(response);
                }
                Err(mut failed) => match failed.take_message() {
                    Some(unsent) if reused => request = unsent,
                    Some(_) => return Err(SendError::NotSent(io::Error::other(failed.into_error()))),
                    None => return Err(SendError::Interrupted(failed.into_error())),
                },
            }
        }
    }

    fn take(&self) -> Option<Connection> {
        let mut kept = self.kept.lock();
        kept.retain(|connection| !connection.sender.is_closed());
        let free = kept.iter().position(|it| it.sender.is_ready() && it.last_used.elapsed() < MAX_IDLE)?;
        Some(kept.swap_remove(free))
    }

    /// Keeps a connection from the start of its response on; it is ready again when the response has been read.
    fn keep(&self, connection: Connection) {
        let mut kept = self.kept.lock();
        if kept.len() == MAX_KEPT {
            kept.retain(|it| !it.sender.is_closed() && (!it.sender.is_ready() || it.last_used.elapsed() < MAX_IDLE));
        }
        if kept.len() < MAX_KEPT {
            kept.push(connection);
        }
    }

    async fn connect(&self) -> io::Result<Connection> {
        let connecting = TcpStream::connect((self.host.as_str(), self.port));
        let within = if self.tls.is_some() { CONNECT_FAR_WITHIN } else { CONNECT_WITHIN };
        let stream = tokio::time::timeout(within, connecting).await??;
        stream.set_nodelay(true)?;
        match &self.tls {
            Some(tls) => start(tls.handshake(stream).await?).await,
            None => start(stream).await,
        }
    }
}

async fn start<S>(stream: S) -> io::Result<Connection>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to the MCP server ended");
        }
    });
    Ok(Connection { sender, last_used: Instant::now() })
}
