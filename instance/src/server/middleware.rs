//! What every request passes through before it reaches the routes.

use super::verification::Verification;
use crate::connection_slots::ConnectionPermit;
use axum::extract::Extension;
use axum::{BoxError, Router};
use http::header::{AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION, SET_COOKIE};
use http::{HeaderName, Request, Response};
use hyper::body::{Body, Bytes, Incoming};
use linchpin_shared::protocol::mcp::SESSION;
use parking_lot::Mutex;
use std::convert::Infallible;
use std::sync::Arc;
use tower::{Service, ServiceBuilder};
use tower_http::request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer};
use tower_http::sensitive_headers::SetSensitiveHeadersLayer;
use tower_http::trace::TraceLayer;
use tracing::Span;

/// The header that names one request in the logs of hub and instance. An id that the hub sent is kept.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The headers whose values are never logged: they hold secrets, or let their holder act as a client.
const SENSITIVE: [HeaderName; 5] =
    [AUTHORIZATION, PROXY_AUTHORIZATION, COOKIE, SET_COOKIE, HeaderName::from_static(SESSION)];

/// The service of one connection. Bodies are passed through as they are, so they still stream.
pub(super) fn stack(
    router: Router,
    verification: &Arc<Mutex<Verification>>,
    permit: &Arc<ConnectionPermit>,
) -> impl Service<
    Request<Incoming>,
    Response = Response<impl Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static>,
    Error = Infallible,
    Future: Send,
> + Clone
+ Send
+ 'static {
    ServiceBuilder::new()
        .layer(SetSensitiveHeadersLayer::new(SENSITIVE))
        .layer(SetRequestIdLayer::new(REQUEST_ID, MakeRequestUuid))
        .layer(PropagateRequestIdLayer::new(REQUEST_ID))
        // A failed call is reported to its caller; it is no failure of this process.
        .layer(TraceLayer::new_for_http().make_span_with(request_span).on_request(()).on_failure(()).on_eos(()))
        .layer(Extension(Arc::clone(verification)))
        .layer(Extension(Arc::clone(permit)))
        .service(router)
}

/// The span of one request. Nothing of its body and no header but the id is recorded.
fn request_span<B>(request: &Request<B>) -> Span {
    tracing::debug_span!(
        "request",
        method = request.method().as_str(),
        path = request.uri().path(),
        request_id = request.headers().get(REQUEST_ID).and_then(|id| id.to_str().ok())
    )
}
