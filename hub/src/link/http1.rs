//! Connections to a foreign program: a small pool of kept-alive HTTP/1.1 connections, and one more for check-ups.
//!
//! A connection carries one request at a time. It returns to the pool when its response was read to the end, and it is
//! not used again after it was idle for longer than its server keeps idle connections.
//!
//! A request is written to one connection. It is written to a second one only if the first was a reused connection that
//! broke before any part of a response arrived, and only if repeating the request is safe. A body that was sent is not
//! sent again. The pool does not judge the responses: every response shows that the program is alive.

use super::body::{Body, empty};
use super::classify;
use super::error::SendError;
use super::failure::{Failure, FailureKind, FailurePhase};
use super::metrics::LinkMeter;
use super::tcp::{self, DialLimits};
use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri, header};
use http_body::Frame;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use linchpin_shared::problem::Problem;
use linchpin_shared::registry::record::Record;
use parking_lot::Mutex;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Instant;

/// How long an idle connection is kept. Node, on which most development servers run, closes a connection that was idle
/// for five seconds, and a request that is written at that moment is lost, so the pool gives it up earlier.
const IDLE: Duration = Duration::from_secs(4);

/// How much earlier than its server's own limit (`Keep-Alive: timeout=5`) an idle connection is given up.
const MARGIN: Duration = Duration::from_secs(1);

/// The number of idle connections that are kept: as many as the requests that may be in flight on a link by default. With
/// fewer, many simultaneous callers would open a connection for most of their requests and overflow the server's queue
/// of new connections, which TCP notices only after a second.
const MAX_IDLE: usize = 256;

/// The response to a check-up is read to its end, so that the connection can be kept, but only up to this size.
const MAX_CHECKUP: usize = 64 << 10;

/// The label of a record that names the path for check-ups.
const HEALTH_LABEL: &str = "health";

/// The connections to one foreign program.
#[derive(Debug)]
pub(super) struct Http1Pool {
    address: SocketAddr,
    host: HeaderValue,
    limits: DialLimits,
    meter: Arc<LinkMeter>,
    health: Uri,
    idle: Mutex<Vec<IdleConnection>>,
    for_checkups: Mutex<Option<SendRequest<Body>>>,
}

#[derive(Debug)]
struct IdleConnection {
    sender: SendRequest<Body>,
    until: Instant,
}

impl IdleConnection {
    fn is_usable(&self) -> bool {
        self.until > Instant::now() && !self.sender.is_closed()
    }
}

/// A request that got no response on one connection.
struct FailedAttempt {
    failure: Failure,
    /// The request, if no part of it was written.
    unsent: Option<Request<Body>>,
}

impl Http1Pool {
    /// Creates the pool for the program of this record, without connecting to it.
    pub(super) fn new(record: &Record, limits: &DialLimits, meter: &Arc<LinkMeter>) -> Result<Arc<Self>, Problem> {
        let address = record.address()?;
        // An address is always a valid header value. A label that is not a path is replaced by `/`.
        let host = HeaderValue::from_str(&address.to_string()).unwrap_or(HeaderValue::from_static("localhost"));
        let health = record.labels.get(HEALTH_LABEL).and_then(|path| path.parse::<PathAndQuery>().ok());
        let health = Uri::from(health.unwrap_or_else(|| PathAndQuery::from_static("/")));
        let (idle, for_checkups) = (Mutex::default(), Mutex::default());
        Ok(Arc::new(Self { address, host, limits: *limits, meter: Arc::clone(meter), health, idle, for_checkups }))
    }

    /// Sends a request on an idle connection, or on a new one.
    pub(super) async fn send(self: &Arc<Self>, request: Request<Body>) -> Result<Response<PeerBody>, SendError> {
        let mut request = self.in_origin_form(request);
        let copy = is_repeatable(&request).then(|| copy_of(&request));
        while let Some(sender) = self.take_idle() {
            match self.exchange(sender, request).await {
                Ok(response) => return Ok(response),
                Err(FailedAttempt { unsent: Some(unsent), .. }) => request = unsent,
                Err(FailedAttempt { failure, unsent: None }) => {
                    let Some(copy) = copy else { return Err(SendError::Interrupted(failure)) };
                    request = copy;
                    break;
                }
            }
        }
        let sender = self.open().await.map_err(SendError::NotSent)?;
        self.exchange(sender, request).await.map_err(|FailedAttempt { failure, unsent }| match unsent {
            Some(_) => SendError::NotSent(failure),
            None => SendError::Interrupted(failure),
        })
    }

    /// Sends a check-up request on a connection that no other request uses.
    pub(super) async fn check_up(&self) -> Result<(), SendError> {
        // Unusable idle connections are closed here as well, because callers may never come back.
        self.idle.lock().retain(IdleConnection::is_usable);
        let kept = self.for_checkups.lock().take();
        if let Some(sender) = kept
            && self.request_health(sender).await.is_ok()
        {
            return Ok(());
        }
        let sender = self.open().await.map_err(SendError::NotSent)?;
        self.request_health(sender).await
    }

    async fn request_health(&self, mut sender: SendRequest<Body>) -> Result<(), SendError> {
        let failed = |error: hyper::Error| SendError::Interrupted(classify::failure(&error, FailurePhase::Request));
        let mut request = Request::new(empty());
        *request.method_mut() = Method::HEAD;
        request.uri_mut().clone_from(&self.health);
        request.headers_mut().insert(header::HOST, self.host.clone());
        request.headers_mut().insert(header::USER_AGENT, HeaderValue::from_static("linchpin"));
        sender.ready().await.map_err(failed)?;
        let response = sender.send_request(request).await.map_err(failed)?;
        if Limited::new(response.into_body(), MAX_CHECKUP).collect().await.is_ok() {
            *self.for_checkups.lock() = Some(sender);
        }
        Ok(())
    }

    async fn exchange(
        self: &Arc<Self>,
        mut sender: SendRequest<Body>,
        request: Request<Body>,
    ) -> Result<Response<PeerBody>, FailedAttempt> {
        if sender.ready().await.is_err() {
            let failure = Failure::new(FailureKind::Closed, FailurePhase::Request);
            return Err(FailedAttempt { failure, unsent: Some(request) });
        }
        let response = sender.try_send_request(request).await.map_err(|mut error| {
            let unsent = error.take_message();
            FailedAttempt { failure: classify::request_failure(error.error()).0, unsent }
        })?;
        let until = Instant::now() + idle_time(response.headers());
        let loan = Loan { pool: Arc::clone(self), connection: IdleConnection { sender, until } };
        Ok(response.map(|incoming| PeerBody { incoming, loan: Some(loan) }))
    }

    /// Takes the usable connection that was used last.
    fn take_idle(&self) -> Option<SendRequest<Body>> {
        let mut idle = self.idle.lock();
        idle.retain(IdleConnection::is_usable);
        idle.pop().map(|idle| idle.sender)
    }

    /// Opens a connection. It ends when its sender is dropped or its server closes it.
    async fn open(&self) -> Result<SendRequest<Body>, Failure> {
        let stream = tcp::open(self.address, &self.limits, &self.meter).await?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| classify::failure(&error, FailurePhase::Dial))?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::trace!(%error, "pooled connection ended");
            }
        });
        Ok(sender)
    }

    /// The request in origin form (RFC 9112, section 3.2.1), with the program's own host.
    fn in_origin_form(&self, mut request: Request<Body>) -> Request<Body> {
        let path = request.uri().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        *request.uri_mut() = Uri::from(path);
        *request.version_mut() = http::Version::HTTP_11;
        request.headers_mut().insert(header::HOST, self.host.clone());
        request
    }
}

/// A connection that one response still uses.
#[derive(Debug)]
struct Loan {
    pool: Arc<Http1Pool>,
    connection: IdleConnection,
}

impl Loan {
    fn give_back(self) {
        let mut idle = self.pool.idle.lock();
        if idle.len() < MAX_IDLE {
            idle.push(self.connection);
        }
    }
}

/// The body of a response over either transport. A pooled connection returns to its pool only if the body was read to
/// its end.
#[derive(Debug)]
pub(super) struct PeerBody {
    incoming: Incoming,
    loan: Option<Loan>,
}

impl PeerBody {
    /// The body of a stream of a shared connection.
    pub(super) const fn http2(incoming: Incoming) -> Self {
        Self { incoming, loan: None }
    }
}

impl Drop for PeerBody {
    fn drop(&mut self) {
        if let Some(loan) = self.loan.take().filter(|_| http_body::Body::is_end_stream(&self.incoming)) {
            loan.give_back();
        }
    }
}

impl http_body::Body for PeerBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let polled = Pin::new(&mut self.incoming).poll_frame(context);
        if let Poll::Ready(None) = polled
            && let Some(loan) = self.loan.take()
        {
            loan.give_back();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.incoming.size_hint()
    }
}

/// How long a server keeps an idle connection, according to the headers of its response.
fn idle_time(headers: &HeaderMap) -> Duration {
    let announced = headers
        .get("keep-alive")
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(',').find_map(|part| part.trim().strip_prefix("timeout=")?.parse().ok()));
    announced.map_or(IDLE, |seconds| Duration::from_secs(seconds).saturating_sub(MARGIN))
}

/// Whether a second execution has no further effect (RFC 9110, section 9.2.2), and there is no body to send twice.
fn is_repeatable(request: &Request<Body>) -> bool {
    request.method().is_idempotent() && http_body::Body::is_end_stream(request.body())
}

fn copy_of(request: &Request<Body>) -> Request<Body> {
    let mut copy = Request::new(empty());
    copy.method_mut().clone_from(request.method());
    copy.uri_mut().clone_from(request.uri());
    copy.headers_mut().clone_from(request.headers());
    copy
}
