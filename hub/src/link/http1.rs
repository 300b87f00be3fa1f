//! The way to a foreign program: a small pool of kept-alive HTTP/1.1 connections, and one more for its check-ups.
//!
//! Owns [`Pool`]. A connection carries one request at a time and comes back when its answer was read to the end; one
//! that was idle for longer than its server keeps it is not used again.
//! Invariant: a request is written to one connection only, or a second time when the first was a used one that broke,
//! nothing of an answer came, and repeating it does no harm. A body that was sent is never sent again.
//! Never: holds more idle connections than [`MAX_IDLE`], or judges what the program answers: any answer shows life.

use super::lane::{Answering, NoResponse, empty};
use super::metrics::Meter;
use super::{Body, classify, dial};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use linchpin_shared::failure::{Failure, Kind, Phase};
use linchpin_shared::problem::Problem;
use linchpin_shared::registry::record::Record;
use parking_lot::Mutex;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Node, which is behind most development servers, closes a connection that was idle for five seconds. A request that
/// is written just then is lost, so ours ends before.
const IDLE: Duration = Duration::from_secs(4);

/// What a server says of its own limit (`Keep-Alive: timeout=5`) is undercut by this.
const MARGIN: Duration = Duration::from_secs(1);

/// As many as may be in flight on a link by default: with fewer, a crowd of callers would open a connection for most of
/// its calls, and a server's queue of new connections would overflow, which TCP takes a second to notice.
const MAX_IDLE: usize = 256;

/// The answer to a check-up is read to its end so that the connection can be kept, but not beyond this.
const MAX_CHECKUP: usize = 64 << 10;

/// The label of a record that says which path a check-up asks for.
const HEALTH_LABEL: &str = "health";

/// Connections to one foreign program.
#[derive(Debug)]
pub(super) struct Pool {
    address: SocketAddr,
    host: HeaderValue,
    limits: dial::Limits,
    meter: Arc<Meter>,
    health: Uri,
    idle: Mutex<Vec<Idle>>,
    checking: Mutex<Option<SendRequest<Body>>>,
}

#[derive(Debug)]
struct Idle {
    sender: SendRequest<Body>,
    until: Instant,
}

impl Idle {
    /// Whether its server keeps it still.
    fn is_kept(&self) -> bool {
        self.until > Instant::now() && !self.sender.is_closed()
    }
}

/// A request that was not answered.
struct Broken {
    failure: Failure,
    /// The request, if nothing of it was written.
    unsent: Option<Request<Body>>,
}

impl Pool {
    /// To the program of this record. Connects to nothing yet.
    pub(super) fn new(record: &Record, limits: &dial::Limits, meter: &Arc<Meter>) -> Result<Arc<Self>, Problem> {
        let address = record.address()?;
        // An address is always a header's value, and what is no path of a check-up is `/`.
        let host = HeaderValue::from_str(&address.to_string()).unwrap_or(HeaderValue::from_static("localhost"));
        let health = record.labels.get(HEALTH_LABEL).and_then(|path| path.parse::<PathAndQuery>().ok());
        let health = Uri::from(health.unwrap_or_else(|| PathAndQuery::from_static("/")));
        let (idle, checking) = (Mutex::default(), Mutex::default());
        Ok(Arc::new(Self { address, host, limits: *limits, meter: Arc::clone(meter), health, idle, checking }))
    }

    /// Sends a request on a connection that is free, or on a new one.
    pub(super) async fn send(self: &Arc<Self>, request: Request<Body>) -> Result<Response<Answering>, NoResponse> {
        let mut request = self.addressed(request);
        let again = repeatable(&request).then(|| head_of(&request));
        while let Some(sender) = self.take() {
            match self.exchange(sender, request).await {
                Ok(response) => return Ok(response),
                Err(Broken { unsent: Some(unsent), .. }) => request = unsent,
                Err(Broken { failure, unsent: None }) => {
                    let Some(again) = again else { return Err(NoResponse { failure, not_executed: false }) };
                    request = again;
                    break;
                }
            }
        }
        let sender = self.open().await.map_err(|failure| NoResponse { failure, not_executed: true })?;
        let sent = self.exchange(sender, request).await;
        sent.map_err(|broken| NoResponse { failure: broken.failure, not_executed: broken.unsent.is_some() })
    }

    /// Asks the program for a sign of life, on a connection that nothing else uses.
    pub(super) async fn check_up(&self) -> Result<(), NoResponse> {
        // What a crowd has left is let go of, also when nobody calls any more.
        self.idle.lock().retain(Idle::is_kept);
        let kept = self.checking.lock().take();
        if let Some(sender) = kept
            && self.ask(sender).await.is_ok()
        {
            return Ok(());
        }
        let sender = self.open().await.map_err(|failure| NoResponse { failure, not_executed: true })?;
        self.ask(sender).await
    }

    async fn ask(&self, mut sender: SendRequest<Body>) -> Result<(), NoResponse> {
        let broken = |error: &(dyn std::error::Error + 'static)| NoResponse {
            failure: classify::failure(error, Phase::Request),
            not_executed: false,
        };
        let mut request = Request::new(empty());
        *request.method_mut() = Method::HEAD;
        request.uri_mut().clone_from(&self.health);
        request.headers_mut().insert(header::HOST, self.host.clone());
        request.headers_mut().insert(header::USER_AGENT, HeaderValue::from_static("linchpin"));
        sender.ready().await.map_err(|error| broken(&error))?;
        let answer = sender.send_request(request).await.map_err(|error| broken(&error))?;
        if Limited::new(answer.into_body(), MAX_CHECKUP).collect().await.is_ok() {
            *self.checking.lock() = Some(sender);
        }
        Ok(())
    }

    async fn exchange(
        self: &Arc<Self>,
        mut sender: SendRequest<Body>,
        request: Request<Body>,
    ) -> Result<Response<Answering>, Broken> {
        if sender.ready().await.is_err() {
            return Err(Broken { failure: Failure::new(Kind::Closed, Phase::Request), unsent: Some(request) });
        }
        let response = sender.try_send_request(request).await.map_err(|mut error| {
            let unsent = error.take_message();
            Broken { failure: classify::request_failure(error.error()).0, unsent }
        })?;
        let until = Instant::now() + kept_for(response.headers());
        let back = Back { pool: Arc::clone(self), idle: Idle { sender, until } };
        Ok(response.map(|incoming: Incoming| Answering::pooled(incoming, back)))
    }

    /// The connection that was used last, of those that their server keeps still.
    fn take(&self) -> Option<SendRequest<Body>> {
        let mut idle = self.idle.lock();
        idle.retain(Idle::is_kept);
        idle.pop().map(|idle| idle.sender)
    }

    /// A new connection, which lives until nobody holds its sender or its server closes it.
    async fn open(&self) -> Result<SendRequest<Body>, Failure> {
        let stream = dial::open(self.address, &self.limits, &self.meter).await?;
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| classify::failure(&error, Phase::Dial))?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::trace!(%error, "a connection of a pool ended");
            }
        });
        Ok(sender)
    }

    /// The request in origin form, with the program's own host.
    fn addressed(&self, mut request: Request<Body>) -> Request<Body> {
        let path = request.uri().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        *request.uri_mut() = Uri::from(path);
        *request.version_mut() = http::Version::HTTP_11;
        request.headers_mut().insert(header::HOST, self.host.clone());
        request
    }
}

/// A connection on loan.
#[derive(Debug)]
pub(super) struct Back {
    pool: Arc<Pool>,
    idle: Idle,
}

impl Back {
    /// Its answer was read to the end: the next request may have it.
    pub(super) fn give_back(self) {
        let mut idle = self.pool.idle.lock();
        if idle.len() < MAX_IDLE {
            idle.push(self.idle);
        }
    }
}

/// How long a server keeps a connection of which it said this.
fn kept_for(headers: &HeaderMap) -> Duration {
    let said = headers
        .get("keep-alive")
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(',').find_map(|part| part.trim().strip_prefix("timeout=")?.parse().ok()));
    said.map_or(IDLE, |seconds| Duration::from_secs(seconds).saturating_sub(MARGIN))
}

/// Whether sending it twice does what sending it once does (RFC 9110, section 9.2.2), and there is no body to send twice.
fn repeatable(request: &Request<Body>) -> bool {
    request.method().is_idempotent() && http_body::Body::is_end_stream(request.body())
}

fn head_of(request: &Request<Body>) -> Request<Body> {
    let mut copy = Request::new(empty());
    copy.method_mut().clone_from(request.method());
    copy.uri_mut().clone_from(request.uri());
    copy.headers_mut().clone_from(request.headers());
    copy
}
