//! Who may ask (DESIGN 4.7): Host, Origin and token of every request, checked before any route.
//!
//! Owns the three checks, in this order: the host must be this machine (else a rebound DNS name could reach us), the
//! origin, if any, must be our own page, and all but [`OPEN`] needs the token.
//! Invariant: a request that fails a check reaches no handler. The token is compared in constant time.
//! Never: logs a token, or explains to a stranger what exists here.

use super::reply;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Uri, header};
use axum::middleware::Next;
use axum::response::Response;
use linchpin_shared::problem::{Code, Problem};
use std::net::IpAddr;
use std::sync::Arc;
use subtle::ConstantTimeEq;

/// The paths that need no token: one tells whether the hub is well, one that it is the hub.
const OPEN: [&str; 2] = ["/health", super::proof::PATH];

/// What the guard compares with.
pub struct Guard {
    /// The port we listen on: part of our own origin.
    pub port: u16,
    /// The token; `None` when the settings switch it off.
    pub token: Option<String>,
}

/// The middleware.
pub async fn check(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    match guard.admit(request.uri(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(problem) => {
            tracing::debug!(path = request.uri().path(), code = ?problem.code, "refused a request");
            reply::problem(&problem)
        }
    }
}

impl Guard {
    /// Checks host, origin and token.
    fn admit(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Problem> {
        let host = match uri.authority() {
            Some(authority) => Some(authority.as_str()),
            None => only(headers, &header::HOST),
        };
        if !host.is_some_and(is_this_machine) {
            return Err(Problem::new(Code::ForbiddenHost, "the Host header does not name this machine")
                .next(format!("use http://127.0.0.1:{} or a name under localhost", self.port)));
        }
        if headers.contains_key(header::ORIGIN) && !only(headers, &header::ORIGIN).is_some_and(|o| self.is_ours(o)) {
            return Err(Problem::new(Code::ForbiddenOrigin, "the request comes from another web page")
                .next("call the hub from a program or from its own page"));
        }
        if OPEN.contains(&uri.path()) || self.has_token(headers) {
            return Ok(());
        }
        Err(Problem::new(Code::Unauthorized, "the request carries no valid token")
            .next("send the header Authorization: Bearer with what `linchpin token` prints"))
    }

    /// Our own page: http, this machine, our port.
    fn is_ours(&self, origin: &str) -> bool {
        origin.strip_prefix("http://").is_some_and(|host| {
            let port = host.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
            port == Some(self.port) && is_this_machine(host)
        })
    }

    fn has_token(&self, headers: &HeaderMap) -> bool {
        let Some(token) = &self.token else { return true };
        only(headers, &header::AUTHORIZATION)
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .is_some_and(|(_, given)| given.trim().as_bytes().ct_eq(token.as_bytes()).into())
    }
}

/// The header's value if it stands there exactly once: of two Host headers one would be checked and the other used.
fn only<'h>(headers: &'h HeaderMap, name: &header::HeaderName) -> Option<&'h str> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none()).and_then(|value| value.to_str().ok())
}

/// Whether `host[:port]` is a loopback address, `localhost` or a name under it (RFC 6761, section 6.3).
fn is_this_machine(host: &str) -> bool {
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) if port.is_empty() || port.starts_with(':') => address,
        Some(_) => return false,
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    if let Ok(address) = name.parse::<IpAddr>() {
        return address.is_loopback();
    }
    let name = name.to_ascii_lowercase();
    name == "localhost" || name.strip_suffix(".localhost").is_some_and(|label| !label.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn admit(headers: &[(header::HeaderName, &str)], path: &str) -> Result<(), Code> {
        let guard = Guard { port: 7777, token: Some("t0ken".to_owned()) };
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name.clone(), HeaderValue::from_str(value).unwrap());
        }
        guard.admit(&path.parse().unwrap(), &map).map_err(|problem| problem.code)
    }

    #[test]
    fn hosts() {
        for good in
            ["localhost", "127.0.0.1:7777", "127.9.9.9", "[::1]:7777", "[::1]", "web.shop.localhost:7777", "LOCALHOST"]
        {
            assert!(is_this_machine(good), "{good}");
        }
        for bad in [
            "",
            "evil.example",
            "localhost.evil.example",
            "10.0.0.1",
            "0.0.0.0",
            "[::]:1",
            ".localhost",
            "[::1]x",
            "127.0.0.1.nip.io",
        ] {
            assert!(!is_this_machine(bad), "{bad}");
        }
    }

    #[test]
    fn the_three_checks_in_their_order() {
        let host = (header::HOST, "127.0.0.1:7777");
        let token = (header::AUTHORIZATION, "Bearer t0ken");
        assert_eq!(admit(&[host.clone(), token.clone()], "/status"), Ok(()));
        assert_eq!(admit(&[(header::HOST, "evil.example"), token.clone()], "/status"), Err(Code::ForbiddenHost));
        assert_eq!(admit(std::slice::from_ref(&token), "/status"), Err(Code::ForbiddenHost));
        assert_eq!(admit(&[host.clone(), host.clone(), token.clone()], "/status"), Err(Code::ForbiddenHost));
        for origin in
            ["http://evil.example", "null", "https://localhost:7777", "http://localhost:3000", "http://localhost"]
        {
            let origin = (header::ORIGIN, origin);
            assert_eq!(admit(&[host.clone(), token.clone(), origin], "/health"), Err(Code::ForbiddenOrigin));
        }
        let ours = (header::ORIGIN, "http://localhost:7777");
        assert_eq!(admit(&[host.clone(), token, ours], "/mcp"), Ok(()));
        assert_eq!(admit(std::slice::from_ref(&host), "/mcp"), Err(Code::Unauthorized));
        assert_eq!(admit(&[host.clone(), (header::AUTHORIZATION, "Bearer t0ke")], "/mcp"), Err(Code::Unauthorized));
        assert_eq!(admit(&[host.clone(), (header::AUTHORIZATION, "Basic t0ken")], "/mcp"), Err(Code::Unauthorized));
        assert_eq!(admit(&[host], "/health"), Ok(()));
    }
}
