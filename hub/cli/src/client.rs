//! A client of the hub's API.
//!
//! It adds the token to a request and turns an error answer into a `Problem`. It never uses a proxy of the environment,
//! because the hub is on this machine. It does not retry: a verb that fails reports it.

use super::Context;
use super::reach::reach_hub;
use super::verify_hub::{UnverifiedPeer, VerifyHub};
use linchpin_shared::hub_file::HubFile;
use linchpin_shared::problem::{Code, Problem};
use reqwest::{Method, Response};
use serde_json::Value;
use std::time::Duration;

/// How long the hub may take to answer a question about itself.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// A client of the running hub.
pub(super) struct ApiClient {
    http: reqwest::Client,
    hub: HubFile,
}

/// How long a connection may be idle before it is closed. The hub closes one after 10 s without a request; if a request
/// were sent at that moment, it would be unclear whether the hub acted on it.
const IDLE_CONNECTION: Duration = Duration::from_secs(5);

/// Returns an HTTP client for this hub. It verifies every new connection, see [`VerifyHub`], and only what it sends may
/// carry the token.
pub(super) fn http_to(hub: &HubFile) -> Result<reqwest::Client, Problem> {
    build(builder().connector_layer(VerifyHub::new(hub)))
}

/// Returns an HTTP client for requests without a token. The doctor uses it, because it must also reach a program that
/// is not the hub.
pub(super) fn http() -> Result<reqwest::Client, Problem> {
    build(builder())
}

/// Only loopback addresses are called, so no proxy is used.
fn builder() -> reqwest::ClientBuilder {
    reqwest::Client::builder().no_proxy().tcp_nodelay(true).pool_idle_timeout(IDLE_CONNECTION)
}

fn build(builder: reqwest::ClientBuilder) -> Result<reqwest::Client, Problem> {
    builder.build().map_err(|error| Problem::new(Code::Internal, format!("cannot build an HTTP client: {error}")))
}

impl ApiClient {
    /// Returns a client of the running hub, and starts one first if there is none.
    pub(super) async fn new(context: &Context) -> Result<Self, Problem> {
        let hub = reach_hub(&context.home, context.autostart).await?;
        Ok(Self { http: http_to(&hub)?, hub })
    }

    /// Sends a GET request for a JSON document.
    pub(super) async fn get(&self, path: &str) -> Result<Value, Problem> {
        body(self.send(Method::GET, path, Some(ANSWER_TIMEOUT)).await?).await
    }

    /// Sends a GET request whose response may be endless.
    pub(super) async fn stream(&self, path: &str) -> Result<Response, Problem> {
        self.send(Method::GET, path, None).await
    }

    /// Sends a POST request without a body.
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
            .unwrap_or_else(|_| Problem::new(Code::Internal, format!("the hub answered {status} without saying why"))))
    }

    fn unreachable(&self, error: &reqwest::Error) -> Problem {
        if let Some(peer) = UnverifiedPeer::find_in(error) {
            return peer.problem(&self.hub);
        }
        let (code, what) = if error.is_timeout() {
            (Code::TimedOut, "the hub did not answer in time")
        } else {
            (Code::HubUnreachable, "the connection to the hub failed")
        };
        Problem::new(code, what)
            .seen("url", self.hub.url.clone())
            .seen("pid", self.hub.process.pid)
            .seen("cause", format!("{error:?}"))
            .next("run the command again")
            .next("if it fails again: linchpin hub stop, and then run the command once more")
    }
}

async fn body(response: Response) -> Result<Value, Problem> {
    let bytes = response.bytes().await.map_err(|error| {
        Problem::new(Code::HubUnreachable, format!("the connection broke during the hub's answer: {error}"))
    })?;
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(&bytes)
        .map_err(|error| Problem::new(Code::Internal, format!("the hub's answer is not valid JSON: {error}")))
}

/// Encodes a path segment. Names stay as they are, and anything else is percent-encoded (RFC 3986, section 2.1).
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
    fn a_segment_cannot_contain_a_path() {
        assert_eq!(super::segment("shop-2"), "shop-2");
        assert_eq!(super::segment("../a b?"), "..%2Fa%20b%3F");
    }
}
