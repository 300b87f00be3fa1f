//! The id of a request, which its log lines, its answer and the instance that handles it have in common.

use axum::http::{HeaderName, HeaderValue, Request};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tower_http::request_id::{MakeRequestId, RequestId};

/// The header of the id, in requests and answers.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The longest id that a client may choose. A UUID has 36 characters.
const MAX_LEN: usize = 64;

/// Makes ids: a random prefix for this run of the hub, and a counter. A random id for each request would cost more.
#[derive(Debug, Clone)]
pub(super) struct RequestIds(Arc<Counter>);

#[derive(Debug)]
struct Counter {
    run: u32,
    next: AtomicU64,
}

impl RequestIds {
    pub(super) fn new() -> Self {
        // Without randomness the ids of two runs look the same in the log, and nothing else changes.
        Self(Arc::new(Counter { run: getrandom::u32().unwrap_or_default(), next: AtomicU64::new(1) }))
    }
}

impl MakeRequestId for RequestIds {
    fn make_request_id<B>(&mut self, _request: &Request<B>) -> Option<RequestId> {
        let Counter { run, next } = &*self.0;
        let id = format!("{run:08x}-{}", next.fetch_add(1, Ordering::Relaxed));
        Some(RequestId::new(HeaderValue::from_str(&id).ok()?))
    }
}

/// Drops an id that a client chose and that is not a single short word, so that it cannot fill a log or imitate a log line.
pub(super) fn drop_invalid<B>(mut request: Request<B>) -> Request<B> {
    let mut ids = request.headers().get_all(&X_REQUEST_ID).iter();
    let valid = match (ids.next(), ids.next()) {
        (None, _) => true,
        (Some(id), None) => is_valid(id.as_bytes()),
        (Some(_), Some(_)) => false,
    };
    if !valid {
        request.headers_mut().remove(&X_REQUEST_ID);
    }
    request
}

fn is_valid(id: &[u8]) -> bool {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=MAX_LEN).contains(&id.len()) && id.iter().all(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ() {
        let (mut ids, request) = (RequestIds::new(), Request::new(()));
        let mut made = || ids.make_request_id(&request).unwrap().into_header_value();
        assert_ne!(made(), made());
        assert!(is_valid(made().as_bytes()));
    }

    #[test]
    fn an_id_of_a_client_is_kept_if_it_is_a_short_word() {
        let kept = |ids: &[&str]| {
            let request = ids.iter().fold(Request::builder(), |request, id| request.header(X_REQUEST_ID, *id));
            drop_invalid(request.body(()).unwrap()).headers().contains_key(X_REQUEST_ID)
        };
        assert!(kept(&["0198c3e2-7f0a-7cc0-b1d5-0d1f2c3a4b5e"]) && kept(&["a.b_c-1"]));
        assert!(!kept(&["a b"]) && !kept(&[""]) && !kept(&["a", "b"]) && !kept(&["x".repeat(65).as_str()]));
    }
}
