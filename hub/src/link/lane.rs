//! The way onto a connection: what sends requests, for callers and for the hub's own small exchanges.
//!
//! Owns the sender of one connection and the address that its requests name. Invariant: a lane never owns the
//! connection. Holding one keeps nothing alive, and using it after the connection's end fails at once.
//! Never: retries, or waits for a connection.

use super::classify;
use super::{Body, BoxError};
use bytes::Bytes;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use linchpin_shared::failure::{Failure, Kind, Phase};
use serde::Serialize;

/// The hub's own exchanges carry small JSON objects; what is larger is not from an instance.
const MAX_ANSWER: usize = 1 << 20;

/// The way onto one connection.
#[derive(Debug, Clone)]
pub(super) struct Lane {
    sender: SendRequest<Body>,
    authority: Authority,
}

/// Why there is no response.
#[derive(Debug)]
pub(super) struct NoResponse {
    /// What happened.
    pub(super) failure: Failure,
    /// Whether the peer surely did nothing with the request.
    pub(super) not_executed: bool,
}

impl Lane {
    pub(super) const fn new(sender: SendRequest<Body>, authority: Authority) -> Self {
        Self { sender, authority }
    }

    /// Sends a request; of its address only path and query matter. Dropping the future resets the request's stream
    /// and nothing else.
    pub(super) async fn send(&self, request: Request<Body>) -> Result<Response<Incoming>, NoResponse> {
        let request = self.addressed(request)?;
        self.sender.clone().try_send_request(request).await.map_err(|mut error| {
            let unsent = error.take_message().is_some();
            let (failure, refused) = classify::request_failure(error.error());
            NoResponse { failure, not_executed: unsent || refused }
        })
    }

    /// A GET whose answer is read whole.
    pub(super) async fn get(&self, path: &'static str) -> Result<(StatusCode, Bytes), NoResponse> {
        self.exchange(Method::GET, path, Empty::new().map_err(BoxError::from).boxed_unsync()).await
    }

    /// A POST of JSON whose answer is read whole.
    pub(super) async fn post(
        &self,
        path: &'static str,
        body: &impl Serialize,
    ) -> Result<(StatusCode, Bytes), NoResponse> {
        let json = serde_json::to_vec(body).map_err(|error| NoResponse::unsent(&error))?;
        self.exchange(Method::POST, path, Full::from(json).map_err(BoxError::from).boxed_unsync()).await
    }

    async fn exchange(
        &self,
        method: Method,
        path: &'static str,
        body: Body,
    ) -> Result<(StatusCode, Bytes), NoResponse> {
        let request = Request::builder()
            .method(method)
            .uri(Uri::from_static(path))
            .header(header::CONTENT_TYPE, "application/json")
            .body(body)
            .map_err(|error| NoResponse::unsent(&error))?;
        let response = self.send(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        let body = body
            .map_err(|error| NoResponse { failure: classify::failure(&*error, Phase::Request), not_executed: false })?;
        Ok((status, body.to_bytes()))
    }

    fn addressed(&self, mut request: Request<Body>) -> Result<Request<Body>, NoResponse> {
        let mut parts = std::mem::take(request.uri_mut()).into_parts();
        parts.scheme = Some(Scheme::HTTP);
        parts.authority = Some(self.authority.clone());
        parts.path_and_query.get_or_insert_with(|| PathAndQuery::from_static("/"));
        *request.uri_mut() = Uri::from_parts(parts).map_err(|error| NoResponse::unsent(&error))?;
        *request.version_mut() = http::Version::HTTP_2;
        Ok(request)
    }
}

impl NoResponse {
    /// The request could not even be built.
    fn unsent(error: &(dyn std::error::Error + 'static)) -> Self {
        Self { failure: Failure::new(Kind::Cancelled, Phase::Request).caused_by(error), not_executed: true }
    }
}
