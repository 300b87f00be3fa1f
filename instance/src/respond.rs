//! The forms of response that this crate sends: JSON, a [`Problem`], a stream.
//!
//! An error is sent as `application/problem+json`. The header [`NOT_EXECUTED`] is added only where the request
//! certainly had no effect.

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, StatusCode};
use linchpin_shared::problem::{MEDIA_TYPE, Problem};
use linchpin_shared::protocol::mcp::NOT_EXECUTED;
use serde::Serialize;
use std::convert::Infallible;

/// A response with a body of this media type.
pub(crate) fn body(status: StatusCode, media_type: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

/// A response without a body.
pub(crate) fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// A value, serialized as JSON.
pub(crate) fn json(value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(text) => body(StatusCode::OK, "application/json", text),
        // Our own types always serialize. If one does not, the peer learns of it rather than this process ending.
        Err(_) => empty(StatusCode::INTERNAL_SERVER_ERROR),
    }
}

/// A message that is JSON already.
pub(crate) fn raw_json(message: Bytes) -> Response {
    body(StatusCode::OK, "application/json", message)
}

/// A body whose chunks are sent as soon as they are ready.
pub(crate) fn stream<S>(media_type: &'static str, chunks: S) -> Response
where
    S: futures_util::Stream<Item = Bytes> + Send + 'static,
{
    use futures_util::StreamExt;
    let mut response = body(StatusCode::OK, media_type, Body::from_stream(chunks.map(Ok::<_, Infallible>)));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// An error after which the request may or may not have had an effect.
pub(crate) fn problem(problem: &Problem) -> Response {
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    body(status, MEDIA_TYPE, serde_json::to_vec(problem).unwrap_or_default())
}

/// An error that occurred before the request could have any effect.
pub(crate) fn not_executed(cause: &Problem) -> Response {
    let mut response = problem(cause);
    response.headers_mut().insert(NOT_EXECUTED, HeaderValue::from_static("1"));
    response
}
