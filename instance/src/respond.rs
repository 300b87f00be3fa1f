//! Answers over HTTP.
//!
//! Owns the forms in which this crate answers: JSON, a [`Problem`], a stream.
//! Invariant: an error leaves as `application/problem+json`; whether the request surely had no effect is said with the
//! header [`NOT_EXECUTED`], and only where that is certain.
//! Never: decides what went wrong.

use axum::body::Body;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Response, StatusCode};
use linchpin_shared::problem::{MEDIA_TYPE, Problem};
use linchpin_shared::protocol::mcp::NOT_EXECUTED;
use serde::Serialize;
use std::convert::Infallible;

/// An answer of this crate.
pub(crate) type Answer = Response<Body>;

/// A body of one type and status.
pub(crate) fn body(status: StatusCode, media_type: &'static str, body: impl Into<Body>) -> Answer {
    let mut answer = Response::new(body.into());
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    answer
}

/// No body at all.
pub(crate) fn empty(status: StatusCode) -> Answer {
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = status;
    answer
}

/// A value as JSON.
pub(crate) fn json(value: &impl Serialize) -> Answer {
    match serde_json::to_vec(value) {
        Ok(text) => body(StatusCode::OK, "application/json", text),
        // Our own types cannot fail to become JSON; if one does, the peer is told rather than this process ended.
        Err(_) => empty(StatusCode::INTERNAL_SERVER_ERROR),
    }
}

/// A message that is JSON already.
pub(crate) fn raw_json(message: Bytes) -> Answer {
    body(StatusCode::OK, "application/json", message)
}

/// Chunks as they come.
pub(crate) fn stream<S>(media_type: &'static str, chunks: S) -> Answer
where
    S: futures_util::Stream<Item = Bytes> + Send + 'static,
{
    use futures_util::StreamExt;
    let mut answer = body(StatusCode::OK, media_type, Body::from_stream(chunks.map(Ok::<_, Infallible>)));
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

/// An error, of which it is not certain that the request had no effect.
pub(crate) fn problem(problem: &Problem) -> Answer {
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    body(status, MEDIA_TYPE, serde_json::to_vec(problem).unwrap_or_default())
}

/// An error before the request could have any effect.
pub(crate) fn not_executed(cause: &Problem) -> Answer {
    let mut answer = problem(cause);
    answer.headers_mut().insert(NOT_EXECUTED, HeaderValue::from_static("1"));
    answer
}
