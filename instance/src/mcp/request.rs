//! What both kinds of MCP server need of a request.

use crate::respond;
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::HeaderMap;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use linchpin_shared::problem::{Code, Problem};
use linchpin_shared::protocol::mcp::WAIT_MS;
use std::time::Duration;

/// The longest time that a request may wait for a server that is starting.
const MAX_WAIT: Duration = Duration::from_secs(120);

/// Names an MCP server in messages to people.
#[derive(Debug, Clone)]
pub(crate) struct ServerName {
    pub(crate) instance: String,
    pub(crate) server: String,
}

/// How long the request lets us wait for a server that is starting.
pub(super) fn max_wait(headers: &HeaderMap) -> Duration {
    let millis = headers.get(WAIT_MS).and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok());
    Duration::from_millis(millis.unwrap_or(0)).min(MAX_WAIT)
}

/// Reads the whole body. The error is the response that says why it could not be read.
pub(super) async fn whole_body(body: Body, max: usize) -> Result<Bytes, Response> {
    match Limited::new(body, max).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            let problem = Problem::new(Code::TooLarge, "the message is larger than an instance accepts")
                .seen("max_bytes", max)
                .next("send less in one message, or raise gateway.max_message_bytes");
            Err(respond::not_executed(&problem))
        }
        Err(error) => {
            let problem = Problem::new(Code::BadRequest, format!("the message did not arrive completely: {error}"))
                .next("send it again");
            Err(respond::not_executed(&problem))
        }
    }
}
