//! The two forms of an answer: JSON with a schema version, and a problem document (RFC 9457).
//!
//! No answer may be cached, because everything changes from second to second.

use crate::render::SCHEMA_VERSION;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use linchpin_shared::problem::{Code, MEDIA_TYPE, Problem};
use serde::Serialize;

/// A body with its schema version.
#[derive(Serialize)]
struct Versioned<'a, T> {
    schema_version: u32,
    #[serde(flatten)]
    body: &'a T,
}

/// Returns a JSON answer.
pub fn json<T: Serialize>(body: &T) -> Response {
    match serde_json::to_vec(&Versioned { schema_version: SCHEMA_VERSION, body }) {
        Ok(bytes) => with_type(StatusCode::OK, "application/json", bytes),
        Err(error) => problem(&Problem::new(Code::Internal, format!("cannot serialize the answer: {error}"))),
    }
}

/// Returns an error answer.
pub fn problem(problem: &Problem) -> Response {
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let bytes = serde_json::to_vec(problem).unwrap_or_default();
    let mut response = with_type(status, MEDIA_TYPE, bytes);
    if status == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

fn with_type(status: StatusCode, media: &'static str, bytes: Vec<u8>) -> Response {
    let headers = [(header::CONTENT_TYPE, media), (header::CACHE_CONTROL, "no-store")];
    (status, headers, bytes).into_response()
}
