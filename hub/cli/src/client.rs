//! A client of the hub's API.
//!
//! Owns the token's way into a request and an error answer's way into a `Problem`.
//! Invariant: no proxy of the environment is ever used; the hub is on this machine.
//! Never: retries. A verb that fails says so.

use super::Context;
use super::proven::{Prove, Stranger};
use super::reach::reach;
use linchpin_shared::hub_file::HubFile;
use linchpin_shared::problem::{Code, Problem};
use reqwest::{Method, Response};
use serde_json::Value;
use std::time::Duration;

/// How long the hub may take to answer a question about itself.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// A client of the hub that runs.
pub(super) struct Client {
    http: reqwest::Client,
    hub: HubFile,
}

/// How long a connection may idle before it is not used again. The hub closes one after 10 s without a request; a message
/// that crosses that end could not be told from one that was acted on.
const IDLE_CONNECTION: Duration = Duration::from_secs(5);

/// The HTTP client for this hub, over connections that are [`proven`](super::proven). Only what it sends may carry the
/// token.
pub(super) fn http_to(hub: &HubFile) -> Result<reqwest::Client, Problem> {
    built(builder().connector_layer(Prove::to(hub)))
}

/// An HTTP client for who needs no token: the doctor, who asks whoever listens.
pub(super) fn http() -> Result<reqwest::Client, Problem> {
    built(builder())
}

/// Loopback only, so without proxies.
fn builder() -> reqwest::ClientBuilder {
    reqwest::Client::builder().no_proxy().tcp_nodelay(true).pool_idle_timeout(IDLE_CONNECTION)
}

fn built(builder: reqwest::ClientBuilder) -> Result<reqwest::Client, Problem> {
    builder.build().map_err(|error| Problem::new(Code::Internal, format!("cannot make an HTTP client: {error}")))
}

impl Client {
    /// A client of the hub that runs, started if need be.
    pub(super) async fn new(context: &Context) -> Result<Self, Problem> {
        let hub = reach(&context.home, context.autostart).await?;
        Ok(Self { http: http_to(&hub)?, hub })
    }

    /// GET a JSON document.
    pub(super) async fn get(&self, path: &str) -> Result<Value, Problem> {
        body(self.send(Method::GET, path, Some(ANSWER_TIMEOUT)).await?).await
    }

    /// GET a stream that may never end.
    pub(super) async fn stream(&self, path: &str) -> Result<Response, Problem> {
        self.send(Method::GET, path, None).await
    }

    /// POST without a body.
    pub(super) async fn post(&self, path: &str) -> Result<Value, Problem> {
        body(self.send(Method::POST, path, Some(ANSWER_TIMEOUT)).await?).await
    }

    async fn send(&self, method: Method, path: &str, timeout: Option<Duration>) -> Result<Response, Problem> {
        let mut request = self.http.request(method, format!("{}{path}", self.hub.url)).bearer_auth(&self.hub.token);
        if let Some(timeout) = timeout {
            request = request.timeout(timeout);
        }
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status().as_u16();
        let bytes = response.bytes().await.unwrap_or_default();
        Err(serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Problem::new(Code::Internal, format!("the hub answered {status} without a reason"))))
    }

    fn unreachable(&self, error: &reqwest::Error) -> Problem {
        if let Some(stranger) = Stranger::of(error) {
            return stranger.problem(&self.hub);
        }
        let (code, what) = if error.is_timeout() {
            (Code::TimedOut, "the hub did not answer in time")
        } else {
            (Code::HubUnreachable, "the hub's connection failed")
        };
        Problem::new(code, what)
            .seen("url", self.hub.url.clone())
            .seen("pid", self.hub.process.pid)
            .seen("cause", format!("{error:?}"))
            .next("run the command again")
            .next("if it stays: linchpin hub stop, then again")
    }
}

async fn body(response: Response) -> Result<Value, Problem> {
    let bytes = response
        .bytes()
        .await
        .map_err(|error| Problem::new(Code::HubUnreachable, format!("the hub's answer broke off: {error}")))?;
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(&bytes).map_err(|error| Problem::new(Code::Internal, format!("the hub's answer: {error}")))
}

/// A path segment: names are safe as they are, anything else is percent-encoded (RFC 3986, section 2.1).
pub(super) fn segment(text: &str) -> String {
    use std::fmt::Write;
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn segments_cannot_leave_their_place() {
        assert_eq!(super::segment("shop-2"), "shop-2");
        assert_eq!(super::segment("../a b?"), "..%2Fa%20b%3F");
    }
}
