//! HTTP/1.1 connections to one server, kept alive between requests.
//!
//! Owns [`Pool`]. A connection is used for one request at a time and taken again when hyper says that it is ready.
//! Invariant: [`Error::NotSent`] means that no byte of the request left; every other failure leaves it open whether the
//! request was executed.
//! Never: repeats a request that may have left, or uses a connection that its server is about to close as idle.

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

/// How long a connection may take. The server is on this machine or near; with TLS, it may be anywhere.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);
const CONNECT_FAR_WITHIN: Duration = Duration::from_secs(10);
/// Node and uvicorn close idle connections after 5 s; one that was last used earlier than this is not used again.
const USE_WITHIN: Duration = Duration::from_secs(4);
/// Connections kept. More may be open at once; they are closed after use.
const KEPT: usize = 32;

/// Why there is no response.
#[derive(Debug)]
pub(super) enum Error {
    /// The server surely saw nothing of the request.
    NotSent(io::Error),
    /// The connection broke while the request was under way.
    Broken(hyper::Error),
}

#[derive(Debug)]
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    used: Instant,
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
    /// No connections yet.
    pub(super) fn new(host: String, port: u16, tls: Option<Box<Tls>>) -> Self {
        Self { host, port, tls, kept: Mutex::default() }
    }

    /// Sends a request over a connection that is free, or a new one.
    pub(super) async fn send(&self, mut request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Error> {
        // A kept connection that turns out to be closed hands the request back unsent; a new one follows at the latest.
        loop {
            let (mut connection, reused) = match self.take() {
                Some(connection) => (connection, true),
                None => (self.connect().await.map_err(Error::NotSent)?, false),
            };
            connection.used = Instant::now();
            match connection.sender.try_send_request(request).await {
                Ok(response) => {
                    self.keep(connection);
                    return Ok(response);
                }
                Err(mut failed) => match failed.take_message() {
                    Some(unsent) if reused => request = unsent,
                    Some(_) => return Err(Error::NotSent(io::Error::other(failed.into_error()))),
                    None => return Err(Error::Broken(failed.into_error())),
                },
            }
        }
    }

    fn take(&self) -> Option<Connection> {
        let mut kept = self.kept.lock();
        kept.retain(|connection| !connection.sender.is_closed());
        let free = kept.iter().position(|it| it.sender.is_ready() && it.used.elapsed() < USE_WITHIN)?;
        Some(kept.swap_remove(free))
    }

    /// A connection is kept from the moment its response began; it is ready again when that has been read.
    fn keep(&self, connection: Connection) {
        let mut kept = self.kept.lock();
        if kept.len() == KEPT {
            kept.retain(|it| !it.sender.is_closed() && (!it.sender.is_ready() || it.used.elapsed() < USE_WITHIN));
        }
        if kept.len() < KEPT {
            kept.push(connection);
        }
    }

    async fn connect(&self) -> io::Result<Connection> {
        let connecting = TcpStream::connect((self.host.as_str(), self.port));
        let within = if self.tls.is_some() { CONNECT_FAR_WITHIN } else { CONNECT_WITHIN };
        let stream = tokio::time::timeout(within, connecting).await??;
        stream.set_nodelay(true)?;
        match &self.tls {
            Some(tls) => begin(tls.handshake(stream).await?).await,
            None => begin(stream).await,
        }
    }
}

async fn begin<S>(stream: S) -> io::Result<Connection>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to the MCP server ended");
        }
    });
    Ok(Connection { sender, used: Instant::now() })
}
