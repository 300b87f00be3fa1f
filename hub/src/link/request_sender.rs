//! Sending requests over the connection of a link, for callers and for the hub's own small exchanges.
//!
//! A [`RequestSender`] does not own the connection: holding one keeps nothing open, and a request fails at once after the
//! connection or the process has ended. A sender does not wait for a connection, and does not repeat a request that the
//! instance may have executed.

use super::body::{Body, BoxError, empty};
use super::classify;
use super::error::SendError;
use super::failure::{Failure, FailureKind, FailurePhase};
use super::http1::{Http1Pool, PeerBody};
use bytes::Bytes;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http2::SendRequest;
use linchpin_shared::process::{Identity, Sentry};
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;

/// The hub's own exchanges carry small JSON objects. An instance does not send larger ones.
const MAX_BUFFERED: usize = 1 << 20;

/// Sends requests to one peer.
#[derive(Debug, Clone)]
pub(super) struct RequestSender {
    transport: Transport,
    process: Arc<Sentry>,
}

#[derive(Debug, Clone)]
enum Transport {
    Http2(SendRequest<Body>, Authority),
    Http1(Arc<Http1Pool>),
}

/// The response of a small exchange, with its whole body.
#[derive(Debug)]
pub(super) struct BufferedResponse {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl RequestSender {
    /// A sender over a connection to one of our own instances.
    pub(super) fn http2(sender: SendRequest<Body>, authority: Authority, process: &Identity) -> Self {
        Self { transport: Transport::Http2(sender, authority), process: Arc::new(process.sentry()) }
    }

    /// A sender to a foreign program.
    pub(super) fn http1(pool: Arc<Http1Pool>, process: &Identity) -> Self {
        Self { transport: Transport::Http1(pool), process: Arc::new(process.sentry()) }
    }

    /// Sends a request. Only the path and the query of its URI are used.
    ///
    /// # Cancel safety
    /// Dropping the future gives up this request, and affects no other.
    pub(super) async fn send(&self, request: Request<Body>) -> Result<Response<PeerBody>, SendError> {
        match &self.transport {
            Transport::Http2(sender, authority) => {
                let request = with_authority(request, authority)?;
                let sent = sender.clone().try_send_request(request).await;
                sent.map(|response| response.map(PeerBody::http2)).map_err(|mut error| {
                    let unsent = error.take_message().is_some();
                    let (failure, refused) = classify::request_failure(error.error());
                    if unsent || refused { SendError::NotSent(failure) } else { SendError::Interrupted(failure) }
                })
            }
            Transport::Http1(pool) => pool.send(request).await,
        }
    }

    /// Refuses a request to a process that has ended, even if its connection does not show it yet. If such a request was
    /// written, it could only be reported as interrupted, although it was certainly not executed.
    pub(super) fn refuse_if_process_ended(&self) -> Result<(), SendError> {
        if !self.process.has_ended() {
            return Ok(());
        }
        let failure = Failure::new(FailureKind::ProcessGone, FailurePhase::Request).because("its process has ended");
        Err(SendError::NotSent(failure))
    }

    /// Sends a small request that every peer answers in some way.
    pub(super) async fn probe(&self, path: &'static str) -> Result<(), SendError> {
        match &self.transport {
            Transport::Http2(..) => self.exchange(Method::GET, path, empty()).await.map(drop),
            Transport::Http1(pool) => pool.check_up().await,
        }
    }

    /// Posts JSON and reads the whole response.
    pub(super) async fn post(&self, path: &'static str, body: &impl Serialize) -> Result<BufferedResponse, SendError> {
        let json = serde_json::to_vec(body).map_err(|error| SendError::invalid(&error))?;
        self.exchange(Method::POST, path, Full::from(json).map_err(BoxError::from).boxed_unsync()).await
    }

    async fn exchange(&self, method: Method, path: &'static str, body: Body) -> Result<BufferedResponse, SendError> {
        let request = Request::builder()
            .method(method)
            .uri(Uri::from_static(path))
            .header(header::CONTENT_TYPE, "application/json")
            .body(body)
            .map_err(|error| SendError::invalid(&error))?;
        let (head, body) = self.send(request).await?.into_parts();
        let body = Limited::new(body, MAX_BUFFERED).collect().await;
        let body = body.map_err(|error| SendError::Interrupted(classify::failure(&*error, FailurePhase::Request)))?;
        Ok(BufferedResponse { status: head.status, headers: head.headers, body: body.to_bytes() })
    }
}

impl BufferedResponse {
    /// The pause that the peer asks for in `Retry-After` (RFC 9110, section 10.2.3). Only the form in seconds is read.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        self.headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
    }
}

fn with_authority(mut request: Request<Body>, authority: &Authority) -> Result<Request<Body>, SendError> {
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(authority.clone());
    parts.path_and_query.get_or_insert_with(|| PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from_parts(parts).map_err(|error| SendError::invalid(&error))?;
    *request.version_mut() = http::Version::HTTP_2;
    Ok(request)
}
