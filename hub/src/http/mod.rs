//! The hub's HTTP server: connections, the stack of layers before every route, and the forms of answers.

pub mod answer;
pub mod guard;
pub mod request_id;
pub mod routes;
pub mod server;

use axum::Router;
use axum::extract::Request;
use axum::http::HeaderValue;
use axum::http::header::{AUTHORIZATION, COOKIE, HeaderName, SET_COOKIE};
use axum::middleware::{self, Next};
use axum::response::Response;
use guard::Guard;
use linchpin_shared::problem::{Code, Problem};
use linchpin_shared::protocol::mcp;
use request_id::{RequestIds, X_REQUEST_ID};
use std::sync::Arc;
use tokio::time::Instant;
use tower::ServiceBuilder;
use tower_http::request_id::{PropagateRequestIdLayer, SetRequestIdLayer};
use tower_http::sensitive_headers::SetSensitiveHeadersLayer;
use tower_http::trace::{DefaultOnFailure, TraceLayer};
use tracing::{Level, Span};

/// Headers whose values are not shown where headers are logged: credentials, and the id of a session, which is one too.
const SENSITIVE: [HeaderName; 4] = [AUTHORIZATION, COOKIE, SET_COOKIE, HeaderName::from_static(mcp::SESSION)];

/// Puts the stack of layers before the routes. A request passes it from top to bottom, and its answer from bottom to top.
///
/// What comes before the guard costs a request little: it reads no body and waits for nothing.
pub fn with_layers(routes: Router, guard: Arc<Guard>) -> Router {
    let stack = ServiceBuilder::new()
        .layer(SetSensitiveHeadersLayer::new(SENSITIVE))
        .map_request(request_id::drop_invalid)
        .layer(SetRequestIdLayer::new(X_REQUEST_ID, RequestIds::new()))
        .layer(TraceLayer::new_for_http().make_span_with(span).on_failure(DefaultOnFailure::new().level(Level::DEBUG)))
        .layer(PropagateRequestIdLayer::new(X_REQUEST_ID))
        .layer(middleware::from_fn(response_time))
        .layer(middleware::from_fn_with_state(guard, guard::check));
    routes.fallback(nothing_here).method_not_allowed_fallback(wrong_method).layer(stack)
}

/// The span of a request. It has no query, which may be private, and no header but the request's id.
fn span(request: &Request) -> Span {
    let id = request.headers().get(X_REQUEST_ID).and_then(|id| id.to_str().ok());
    tracing::debug_span!("request", id, method = %request.method(), path = request.uri().path())
}

async fn nothing_here(request: Request) -> Response {
    let problem = Problem::new(Code::NotFound, format!("there is nothing at {}", request.uri().path()));
    answer::problem(&problem.next("see GET /status, /v1/instances, /health, /metrics, /mcp"))
}

async fn wrong_method(request: Request) -> Response {
    let detail = format!("{} does not accept {}", request.uri().path(), request.method());
    answer::problem(&Problem::new(Code::MethodNotAllowed, detail).next("use GET to read, and POST to change something"))
}

/// Says in `X-Response-Time` how long it took until the answer began.
async fn response_time(request: Request, next: Next) -> Response {
    let started = Instant::now();
    let mut response = next.run(request).await;
    let elapsed = format!("{:.3}ms", started.elapsed().as_secs_f64() * 1000.0);
    if let Ok(value) = HeaderValue::from_str(&elapsed) {
        response.headers_mut().insert("x-response-time", value);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;
    use axum::http::StatusCode;
    use tower::ServiceExt;

    async fn seen_id(request: Request) -> [(&'static str, HeaderValue); 1] {
        [("x-seen", request.headers()[X_REQUEST_ID].clone())]
    }

    async fn answer_to(token: &str, id: &str) -> Response {
        let guard = Guard { port: 7777, token: Some("t0ken".to_owned()) };
        let routes = Router::new().route("/id", axum::routing::get(seen_id));
        let request = Request::get("/id").header("host", "127.0.0.1:7777").header(X_REQUEST_ID, id);
        let request = request.header(AUTHORIZATION, format!("Bearer {token}")).body(Body::empty()).unwrap();
        with_layers(routes, Arc::new(guard)).oneshot(request).await.unwrap()
    }

    #[tokio::test]
    async fn every_answer_has_an_id_and_a_time() {
        for (token, status) in [("t0ken", StatusCode::OK), ("other", StatusCode::UNAUTHORIZED)] {
            let answer = answer_to(token, "chosen-1").await;
            assert_eq!(
                (answer.status(), &answer.headers()[X_REQUEST_ID]),
                (status, &HeaderValue::from_static("chosen-1"))
            );
            assert!(answer.headers().contains_key("x-response-time"));
        }
    }

    #[tokio::test]
    async fn a_route_gets_the_id_of_its_answer() {
        let answer = answer_to("t0ken", "not a word").await;
        let id = &answer.headers()[X_REQUEST_ID];
        assert!(id != "not a word" && id == answer.headers()["x-seen"], "{id:?}");
    }
}
