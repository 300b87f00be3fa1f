//! An MCP server that listens at a URL of its own: requests pass through.
//!
//! Owns [`Proxy`]. Whatever method, MCP headers and body come in go to the URL over HTTP/1.1, and the response streams
//! back as it comes; sessions are the server's own.
//! Invariant: a connection that could not be made is a 503 that says "not executed"; one that broke is a 502 that does
//! not.
//! Never: looks into a message, or passes on what is ours or concerns one hop only.

use super::pool::{Error, Pool};
use super::tls::Tls;
use super::{Names, may_wait, whole_body};
use crate::board::Board;
use crate::respond::{self, Answer};
use axum::body::Body;
use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TE, TRAILER, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Uri};
use http_body_util::Full;
use linchpin_shared::problem::{Code, Problem};
use linchpin_shared::protocol::mcp::WAIT_MS;
use linchpin_shared::protocol::vitals::{Server, Transport};
use linchpin_shared::redact;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How often a server that is starting is tried.
const RETRY: Duration = Duration::from_millis(50);
/// Headers that concern one hop only (RFC 9110, section 7.6.1), and ours.
const NOT_PASSED: [HeaderName; 10] = [
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

/// Where an MCP server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    host: String,
    port: u16,
    authority: HeaderValue,
    path: Uri,
    is_secure: bool,
}

impl Target {
    /// Reads a URL.
    pub(crate) fn parse(url: &str) -> Result<Self, Problem> {
        let bad = |why: &str| {
            Problem::new(Code::BadRequest, format!("{why}: {:?}", redact::text(url)))
                .next("--mcp-url http://127.0.0.1:PORT/mcp")
        };
        let uri: Uri = url.parse().map_err(|_| bad("this is not a URL"))?;
        let is_secure = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            Some(_) | None => return Err(bad("an MCP server must have an http:// or https:// URL")),
        };
        let authority = uri.authority().ok_or_else(|| bad("the URL has no host"))?;
        if authority.as_str().contains('@') {
            return Err(bad("the URL has a user in it, which is shown in errors and not sent"));
        }
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        if is_secure && Tls::new(&host).is_none() {
            return Err(bad("the URL has a host that no certificate could name"));
        }
        Ok(Self {
            host,
            port: authority.port_u16().unwrap_or(if is_secure { 443 } else { 80 }),
            is_secure,
            authority: HeaderValue::from_str(authority.as_str()).map_err(|_| bad("the URL has a strange host"))?,
            path: path.parse().map_err(|_| bad("the URL has a strange path"))?,
        })
    }
}

/// Tells whether such a server is up: as long as its process runs, or always when it has none of ours.
#[derive(Debug)]
pub(crate) struct Plug {
    /// The server's name.
    pub(crate) server: String,
    /// Where to tell.
    pub(crate) board: Arc<Board>,
}

impl Plug {
    /// Tells how the server is.
    pub(crate) fn put_up(&self, up: bool, epoch: u64) {
        let name = self.server.clone();
        self.board.set_server(Server { name, transport: Transport::Http, up, epoch });
    }
}

/// The way to such a server.
#[derive(Debug)]
pub(crate) struct Proxy {
    names: Names,
    target: Target,
    pool: Pool,
    max_message: usize,
    /// What every request carries, whatever it came with.
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Proxy {
    /// A way to `target`.
    pub(crate) fn new(names: Names, target: Target, max_message: usize) -> Self {
        let tls = target.is_secure.then(|| Tls::new(&target.host)).flatten().map(Box::new);
        let pool = Pool::new(target.host.clone(), target.port, tls);
        Self { names, target, pool, max_message, headers: Vec::new() }
    }

    /// The same, every request with these headers.
    pub(crate) fn with(self, headers: Vec<(HeaderName, HeaderValue)>) -> Self {
        Self { headers, ..self }
    }

    /// Passes one request on.
    pub(crate) async fn handle(&self, request: Request<Body>) -> Answer {
        let (head, body) = request.into_parts();
        let body = match whole_body(body, self.max_message).await {
            Ok(body) => body,
            Err(refusal) => return refusal,
        };
        let mut outgoing = Request::new(Full::new(body));
        *outgoing.method_mut() = head.method;
        *outgoing.uri_mut() = self.target.path.clone();
        pass(&head.headers, outgoing.headers_mut());
        outgoing.headers_mut().insert(HOST, self.target.authority.clone());
        // Its own take the place of what came, and may take that of the host too.
        for (name, value) in &self.headers {
            outgoing.headers_mut().insert(name.clone(), value.clone());
        }
        match self.send(outgoing, Instant::now() + may_wait(&head.headers)).await {
            Ok(response) => {
                let (head, body) = response.into_parts();
                let mut answer = Answer::new(Body::new(body));
                *answer.status_mut() = head.status;
                pass(&head.headers, answer.headers_mut());
                answer
            }
            Err(Error::NotSent(error)) => respond::not_executed(&self.problem(Code::ServerUnavailable, &error)),
            Err(Error::Broken(error)) => respond::problem(&self.problem(Code::CallInterrupted, &error)),
        }
    }

    /// Tries until the deadline for as long as the server takes no connection.
    async fn send(
        &self,
        request: Request<Full<Bytes>>,
        deadline: Instant,
    ) -> Result<http::Response<hyper::body::Incoming>, Error> {
        loop {
            match self.pool.send(request.clone()).await {
                // Who has not proven its name will not have done so in a moment.
                Err(Error::NotSent(error))
                    if error.kind() != ErrorKind::InvalidData && Instant::now() + RETRY < deadline =>
                {
                    tokio::time::sleep(RETRY).await;
                }
                done => return done,
            }
        }
    }

    fn problem(&self, code: Code, error: &(dyn std::error::Error + 'static)) -> Problem {
        let Names { instance, server } = &self.names;
        let mut causes = vec![error.to_string()];
        let mut next = error.source();
        while let Some(error) = next {
            causes.push(error.to_string());
            next = error.source();
        }
        let at = String::from_utf8_lossy(self.target.authority.as_bytes()).into_owned();
        let why = causes.last().map(String::as_str).unwrap_or_default();
        Problem::new(code, format!("the MCP server {server:?} of {instance} does not answer at {at}: {why}"))
            .seen("causes", causes)
            .next(format!("linchpin logs {instance}"))
            .next(format!("check that a program listens at {at}"))
    }
}

fn pass(from: &HeaderMap, to: &mut HeaderMap) {
    for (name, value) in from {
        if !NOT_PASSED.contains(name) {
            to.append(name, value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let target = Target::parse("http://[::1]:8080/mcp?x=1").unwrap();
        assert_eq!((target.host.as_str(), target.port), ("::1", 8080));
        assert_eq!(target.path, "/mcp?x=1");
        assert_eq!(Target::parse("http://localhost").unwrap().port, 80);
        assert_eq!(Target::parse("https://example.com/mcp").unwrap().port, 443);
        for bad in [
            "",
            "localhost:80",
            "https://a b/mcp",
            "https://-/",
            "ws://x",
            "http://",
            "file:///x",
            "http://me:hunter2@localhost",
        ] {
            let problem = Target::parse(bad).unwrap_err();
            assert_eq!(problem.code, Code::BadRequest, "{bad}");
            assert!(!problem.to_string().contains("hunter2"), "{problem}");
        }
    }
}
