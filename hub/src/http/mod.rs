//! The hub's HTTP server: connections, the guard, the route table, and the forms of its answers.

pub mod answer;
pub mod guard;
pub mod routes;
pub mod server;

use axum::Router;
use axum::extract::Request;
use axum::http::HeaderValue;
use axum::middleware::{self, Next};
use axum::response::Response;
use guard::Guard;
use linchpin_shared::problem::{Code, Problem};
use std::sync::Arc;
use tokio::time::Instant;

/// Puts the routes behind the guard, and adds what is common to all answers.
pub fn guarded(routes: Router, guard: Arc<Guard>) -> Router {
    routes
        .fallback(nothing_here)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(guard, guard::check))
        .layer(middleware::from_fn(response_time))
}

async fn nothing_here(request: Request) -> Response {
    let problem = Problem::new(Code::NotFound, format!("there is nothing at {}", request.uri().path()));
    answer::problem(&problem.next("see GET /status, /v1/instances, /health, /metrics, /mcp"))
}

async fn wrong_method(request: Request) -> Response {
    let detail = format!("{} does not take {}", request.uri().path(), request.method());
    answer::problem(&Problem::new(Code::MethodNotAllowed, detail).next("what reads is GET, what changes is POST"))
}

/// Says in `X-Response-Time` how long the answer's head took.
async fn response_time(request: Request, next: Next) -> Response {
    let began = Instant::now();
    let mut response = next.run(request).await;
    let took = format!("{:.3}ms", began.elapsed().as_secs_f64() * 1000.0);
    if let Ok(value) = HeaderValue::from_str(&took) {
        response.headers_mut().insert("x-response-time", value);
    }
    response
}
