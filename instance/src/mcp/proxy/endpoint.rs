//! The endpoint of a server at a URL.
//!
//! Method, MCP headers and body are forwarded as they are, and the response is streamed back; sessions are the server's
//! own. A connection that could not be made is a 503 that is reported as not executed; one that broke is a 502 that is
//! not. Messages are not parsed, and headers that are ours or concern only one hop are not forwarded.

use super::pool::{Pool, SendError};
use super::tls::Tls;
use super::url::ServerUrl;
use crate::mcp::request::{ServerName, max_wait, whole_body};
use crate::respond;
use crate::server::middleware::REQUEST_ID;
use crate::server::state::McpEndpoint;
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TE, TRAILER, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use http_body_util::Full;
use hyper::body::Incoming;
use linchpin_shared::problem::{Code, Problem};
use linchpin_shared::protocol::mcp::WAIT_MS;
use std::error::Error;
use std::io::ErrorKind;
use std::time::Duration;
use tokio::time::Instant;

/// The pause between two attempts to reach a server that is starting.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// Headers that concern one hop only (RFC 9110, section 7.6.1), and ours.
const NOT_FORWARDED: [HeaderName; 10] = [
    CONNECTION,
    HOST,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
    CONTENT_LENGTH,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static(WAIT_MS),
];

/// Forwards requests to one server.
#[derive(Debug)]
pub(crate) struct ProxyEndpoint {
    name: ServerName,
    url: ServerUrl,
    pool: Pool,
    max_message: usize,
    /// Headers that are set on every request.
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl McpEndpoint for ProxyEndpoint {
    fn handle(&self, request: Request<Body>) -> BoxFuture<'_, Response> {
        self.forward(request).boxed()
    }
}

impl ProxyEndpoint {
    /// Creates the endpoint of the server at this URL. It accepts messages of at most `max_message` bytes.
    pub(crate) fn new(name: ServerName, url: ServerUrl, max_message: usize) -> Self {
        let tls = url.is_secure.then(|| Tls::new(&url.host)).flatten().map(Box::new);
        let pool = Pool::new(url.host.clone(), url.port, tls);
        Self { name, url, pool, max_message, headers: Vec::new() }
    }

    /// Sets headers on every request.
    pub(crate) fn with_headers(self, headers: Vec<(HeaderName, HeaderValue)>) -> Self {
        Self { headers, ..self }
    }

    async fn forward(&self, request: Request<Body>) -> Response {
        let (head, body) = request.into_parts();
        let body = match whole_body(body, self.max_message).await {
            Ok(body) => body,
            Err(refusal) => return refusal,
        };
        let mut outgoing = Request::new(Full::new(body));
        *outgoing.method_mut() = head.method;
        *outgoing.uri_mut() = self.url.path.clone();
        copy_headers(&head.headers, outgoing.headers_mut());
        // The request id is for our own logs: the server sees the requests that it saw without it.
        outgoing.headers_mut().remove(REQUEST_ID);
        outgoing.headers_mut().insert(HOST, self.url.authority.clone());
        // They replace the headers of the request, and may replace Host too.
        for (name, value) in &self.headers {
            outgoing.headers_mut().insert(name.clone(), value.clone());
        }
        match self.send(outgoing, Instant::now() + max_wait(&head.headers)).await {
            Ok(incoming) => {
                let (head, body) = incoming.into_parts();
                let mut response = Response::new(Body::new(body));
                *response.status_mut() = head.status;
                copy_headers(&head.headers, response.headers_mut());
                response
            }
            Err(SendError::NotSent(error)) => respond::not_executed(&self.problem(Code::ServerUnavailable, &error)),
            Err(SendError::Interrupted(error)) => respond::problem(&self.problem(Code::CallInterrupted, &error)),
        }
    }

    /// Sends a request. Until the deadline it is tried again for as long as the server accepts no connection.
    async fn send(
        &self,
        request: Request<Full<Bytes>>,
        deadline: Instant,
    ) -> Result<http::Response<Incoming>, SendError> {
        loop {
            match self.pool.send(request.clone()).await {
                // A server whose certificate is not accepted (`InvalidData`) will not have a better one in a moment.
                Err(SendError::NotSent(error))
                    if error.kind() != ErrorKind::InvalidData && Instant::now() + RETRY_PAUSE < deadline =>
                {
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                done => return done,
            }
        }
    }

    fn problem(&self, code: Code, error: &(dyn Error + 'static)) -> Problem {
        let ServerName { instance, server } = &self.name;
        let mut causes = vec![error.to_string()];
        let mut next = error.source();
        while let Some(error) = next {
            causes.push(error.to_string());
            next = error.source();
        }
        let at = String::from_utf8_lossy(self.url.authority.as_bytes()).into_owned();
        let why = causes.last().map(String::as_str).unwrap_or_default();
        Problem::new(code, format!("the MCP server {server:?} of {instance} does not answer at {at}: {why}"))
            .seen("causes", causes)
            .next(format!("linchpin logs {instance}"))
            .next(format!("check that a program listens at {at}"))
    }
}

fn copy_headers(from: &HeaderMap, to: &mut HeaderMap) {
    for (name, value) in from {
        if !NOT_FORWARDED.contains(name) {
            to.append(name, value.clone());
        }
    }
}
