//! The way onto a connection: what sends requests, for callers and for the hub's own small exchanges.
//!
//! Owns [`Lane`], over one HTTP/2 connection or a pool of HTTP/1.1 ones, and the look at whether the process still runs.
//! Invariant: a lane never owns the connection. Holding one keeps nothing alive, and using it after the connection's
//! end, or after the end of the process, fails at once.
//! Never: waits for a connection, or repeats what may have been executed.

use super::classify;
use super::http1::{Back, Pool};
use super::{Body, BoxError};
use bytes::Bytes;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, header};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use linchpin_shared::failure::{Failure, Kind, Phase};
use linchpin_shared::process::{Identity, Sentry};
use serde::Serialize;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

/// The hub's own exchanges carry small JSON objects; what is larger is not from an instance.
const MAX_ANSWER: usize = 1 << 20;

/// The way onto one connection.
#[derive(Debug, Clone)]
pub(super) struct Lane {
    way: Way,
    process: Arc<Sentry>,
}

#[derive(Debug, Clone)]
enum Way {
    Two(SendRequest<Body>, Authority),
    One(Arc<Pool>),
}

/// Why there is no response.
#[derive(Debug)]
pub(super) struct NoResponse {
    /// What happened.
    pub(super) failure: Failure,
    /// Whether the peer surely did nothing with the request.
    pub(super) not_executed: bool,
}

/// A small answer of the peer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Lane {
    /// Onto a connection to an instance of ours.
    pub(super) fn new(sender: SendRequest<Body>, authority: Authority, process: &Identity) -> Self {
        Self { way: Way::Two(sender, authority), process: Arc::new(process.sentry()) }
    }

    /// To a foreign program.
    pub(super) fn foreign(pool: Arc<Pool>, process: &Identity) -> Self {
        Self { way: Way::One(pool), process: Arc::new(process.sentry()) }
    }

    /// Sends a request; of its address only path and query matter. Dropping the future gives up the request and
    /// nothing else.
    pub(super) async fn send(&self, request: Request<Body>) -> Result<Response<Answering>, NoResponse> {
        match &self.way {
            Way::Two(sender, authority) => {
                let request = addressed(request, authority)?;
                let sent = sender.clone().try_send_request(request).await;
                sent.map(|response| response.map(|incoming| Answering { incoming, back: None })).map_err(|mut error| {
                    let unsent = error.take_message().is_some();
                    let (failure, refused) = classify::request_failure(error.error());
                    NoResponse { failure, not_executed: unsent || refused }
                })
            }
            Way::One(pool) => pool.send(request).await,
        }
    }

    /// Refuses a request to a process that has ended although its connection does not show it yet. What was written to
    /// it could only be called interrupted, and it surely is not executed.
    pub(super) fn refuse_the_dead(&self) -> Result<(), NoResponse> {
        if !self.process.has_ended() {
            return Ok(());
        }
        let failure = Failure::new(Kind::ProcessGone, Phase::Request).because("its process has ended");
        Err(NoResponse { failure, not_executed: true })
    }

    /// A small question of the hub's own that any peer answers with something.
    pub(super) async fn probe(&self, path: &'static str) -> Result<(), NoResponse> {
        match &self.way {
            Way::Two(..) => self.exchange(Method::GET, path, empty()).await.map(drop),
            Way::One(pool) => pool.check_up().await,
        }
    }

    /// A POST of JSON whose answer is read whole.
    pub(super) async fn post(&self, path: &'static str, body: &impl Serialize) -> Result<Answer, NoResponse> {
        let json = serde_json::to_vec(body).map_err(|error| NoResponse::unsent(&error))?;
        self.exchange(Method::POST, path, Full::from(json).map_err(BoxError::from).boxed_unsync()).await
    }

    async fn exchange(&self, method: Method, path: &'static str, body: Body) -> Result<Answer, NoResponse> {
        let request = Request::builder()
            .method(method)
            .uri(Uri::from_static(path))
            .header(header::CONTENT_TYPE, "application/json")
            .body(body)
            .map_err(|error| NoResponse::unsent(&error))?;
        let (head, body) = self.send(request).await?.into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await;
        let body = body
            .map_err(|error| NoResponse { failure: classify::failure(&*error, Phase::Request), not_executed: false })?;
        Ok(Answer { status: head.status, headers: head.headers, body: body.to_bytes() })
    }
}

impl Answer {
    /// How long the peer asks to be left alone (RFC 9110, section 10.2.3). Of the two forms only the seconds are read.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        self.headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
    }
}

/// A body that is empty.
pub(super) fn empty() -> Body {
    Empty::new().map_err(BoxError::from).boxed_unsync()
}

/// The path and query of a request at this authority.
fn addressed(mut request: Request<Body>, authority: &Authority) -> Result<Request<Body>, NoResponse> {
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(authority.clone());
    parts.path_and_query.get_or_insert_with(|| PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from_parts(parts).map_err(|error| NoResponse::unsent(&error))?;
    *request.version_mut() = http::Version::HTTP_2;
    Ok(request)
}

impl NoResponse {
    /// The request could not even be built.
    pub(super) fn unsent(error: &(dyn std::error::Error + 'static)) -> Self {
        Self { failure: Failure::new(Kind::Cancelled, Phase::Request).caused_by(error), not_executed: true }
    }
}

/// The body of an answer. A connection of a pool goes back there when the body was read to its end, and only then.
#[derive(Debug)]
pub(super) struct Answering {
    incoming: Incoming,
    back: Option<Back>,
}

impl Answering {
    pub(super) const fn pooled(incoming: Incoming, back: Back) -> Self {
        Self { incoming, back: Some(back) }
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        if let Some(back) = self.back.take().filter(|_| http_body::Body::is_end_stream(&self.incoming)) {
            back.give_back();
        }
    }
}

impl http_body::Body for Answering {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let polled = Pin::new(&mut self.incoming).poll_frame(context);
        if let Poll::Ready(None) = polled
            && let Some(back) = self.back.take()
        {
            back.give_back();
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
