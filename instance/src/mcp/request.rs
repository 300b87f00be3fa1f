//! MCP servers behind an instance, each as a Streamable HTTP endpoint (MCP 2025-11-25, "Transports").
//!
//! Owns [`Server`]: a child's standard input and output in [`stdio`], or a URL in [`proxy`].
//! Invariant: messages pass as the bytes that came; of each only what routing needs is looked at ([`message`]).
//! A failed request says that it was not executed only when the server surely saw nothing of it.
//! Never: interprets tools, prompts or resources, repeats a request that may have been executed, or invents an answer.

#[doc(hidden)]
pub mod fuzz;
mod initialize;
mod life;
mod lines;
mod message;
mod pool;
pub(crate) mod proxy;
mod routes;
pub(crate) mod stdio;
mod tls;

pub(crate) use life::Session;

use crate::respond::{self, Answer};
use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Limited};
use linchpin_shared::problem::{Code, Problem};
use linchpin_shared::protocol::mcp::WAIT_MS;
use std::time::Duration;

/// The longest that a request may ask us to wait for a server that is starting.
const MAX_WAIT: Duration = Duration::from_secs(120);

/// Names for messages to people.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    /// The instance.
    pub(crate) instance: String,
    /// The MCP server.
    pub(crate) server: String,
}

/// An MCP server that an instance fronts.
#[derive(Debug)]
pub(crate) enum Server {
    /// A supervised child that speaks MCP on its standard input and output.
    Stdio(stdio::Front),
    /// A server that listens at a URL.
    Url(proxy::Proxy),
}

impl Server {
    /// Answers one HTTP request to the server's endpoint.
    pub(crate) async fn handle(&self, request: Request<Body>) -> Answer {
        match self {
            Self::Stdio(front) => front.handle(request).await,
            Self::Url(proxy) => proxy.handle(request).await,
        }
    }
}

/// How long the request lets us wait for a server that is starting.
fn may_wait(headers: &HeaderMap) -> Duration {
    let millis = headers.get(WAIT_MS).and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok());
    Duration::from_millis(millis.unwrap_or(0)).min(MAX_WAIT)
}

/// The whole body, or an answer that says why not.
async fn whole_body(body: Body, max: usize) -> Result<Bytes, Answer> {
    match Limited::new(body, max).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            let problem = Problem::new(Code::TooLarge, "the message is larger than an instance takes")
                .seen("max_bytes", max)
                .next("send less in one message, or raise gateway.max_message_bytes");
            Err(respond::not_executed(&problem))
        }
        Err(error) => {
            let problem = Problem::new(Code::BadRequest, format!("the message did not come whole: {error}"))
                .next("send it again");
            Err(respond::not_executed(&problem))
        }
    }
}
