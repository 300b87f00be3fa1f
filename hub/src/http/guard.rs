//! The guard: checks host, origin and token of every request before any route (ARCHITECTURE.md, "Guard").
//!
//! The host must be this machine, because otherwise a rebound DNS name could reach the hub. The origin, if there is
//! one, must be the hub's own page. Everything but [`PUBLIC_PATHS`] requires the token, which is compared in constant
//! time. A request that fails a check reaches no handler and learns nothing about what exists here. Tokens are never
//! logged.

use super::answer;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::Response;
use linchpin_shared::hub_file::proof;
use linchpin_shared::problem::{Code, Problem};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use subtle::ConstantTimeEq;

/// The paths that need no token. One says whether the hub is healthy, and one proves that it is the hub.
const PUBLIC_PATHS: [&str; 2] = ["/health", proof::PATH];

/// What requests are checked against.
pub struct Guard {
    /// The port of the hub, which is part of its own origin.
    pub port: u16,
    /// The token; `None` if the settings switch it off.
    pub token: Option<String>,
}

/// The middleware.
pub async fn check(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    match guard.admit(&request) {
        Ok(()) => next.run(request).await,
        Err(problem) => {
            tracing::debug!(path = request.uri().path(), code = ?problem.code, "a request was refused");
            answer::problem(&problem)
        }
    }
}

impl Guard {
    /// Checks host, origin and token.
    fn admit(&self, request: &Request) -> Result<(), Problem> {
        let (uri, headers) = (request.uri(), request.headers());
        // An absolute target names a host too. If there were two different names, one would be checked and the other
        // one used.
        let target = uri.authority().is_none_or(|authority| is_this_machine(authority.as_str()));
        let Some(host) = single(headers, &header::HOST).filter(|host| target && is_this_machine(host)) else {
            return Err(Problem::new(
                Code::ForbiddenHost,
                "the request must have exactly one Host header, which names this machine",
            )
            .next(format!("use http://127.0.0.1:{} or a name under localhost", self.port)));
        };
        let from_elsewhere = headers.contains_key(header::ORIGIN)
            && !single(headers, &header::ORIGIN).is_some_and(|origin| self.is_own_origin(origin, host));
        if from_elsewhere || is_cross_site(headers) {
            return Err(Problem::new(
                Code::ForbiddenOrigin,
                "the request comes from a web page that does not belong to the hub",
            )
            .next("call the hub from a program, or from its own page"));
        }
        if PUBLIC_PATHS.contains(&uri.path()) || self.has_token(headers) {
            return Ok(());
        }
        Err(Problem::new(Code::Unauthorized, "the request has no valid token")
            .next("send the token that `linchpin token` prints in the header Authorization (scheme Bearer)"))
    }

    /// Whether the origin is the hub's own page, or has the same address as the request: http, and the port of the hub.
    /// An app that is served under its own name is not the hub's page.
    fn is_own_origin(&self, origin: &str, host: &str) -> bool {
        let Some(from) = origin.strip_prefix("http://") else { return false };
        let page = name_of(from).is_some_and(|name| is_loopback(name) || name.eq_ignore_ascii_case("localhost"));
        let ours = page || from.eq_ignore_ascii_case(host);
        ours && is_this_machine(from) && from.rsplit_once(':').is_some_and(|(_, port)| port.parse() == Ok(self.port))
    }

    fn has_token(&self, headers: &HeaderMap) -> bool {
        let Some(token) = &self.token else { return true };
        single(headers, &header::AUTHORIZATION)
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .is_some_and(|(_, given)| given.trim().as_bytes().ct_eq(token.as_bytes()).into())
    }
}

/// Returns the value of a header that occurs exactly once. Of two Host headers one would be checked and the other one
/// used.
fn single<'h>(headers: &'h HeaderMap, name: &header::HeaderName) -> Option<&'h str> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none()).and_then(|value| value.to_str().ok())
}

/// Whether the browser says that a page of another site sends the request, also where it sends no Origin. Following a
/// link does no harm, because a GET changes nothing.
fn is_cross_site(headers: &HeaderMap) -> bool {
    let is = |name, values: &[&str]| {
        let all = headers.get_all(name).iter();
        all.into_iter().any(|said| values.iter().any(|value| said.as_bytes().eq_ignore_ascii_case(value.as_bytes())))
    };
    is("sec-fetch-site", &["cross-site", "same-site"]) && !is("sec-fetch-mode", &["navigate"])
}

/// Whether `host[:port]` is a loopback address, `localhost`, or a name under it (RFC 6761, section 6.3).
fn is_this_machine(host: &str) -> bool {
    let Some(name) = name_of(host) else { return false };
    let in_a_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let name = name.to_ascii_lowercase();
    let below = name.strip_suffix(".localhost").is_some_and(|label| !label.is_empty() && label.chars().all(in_a_name));
    name == "localhost" || below || is_loopback(&name)
}

fn is_loopback(name: &str) -> bool {
    name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Returns the name in `host[:port]`, without the brackets of an IPv6 address; `None` if it does not have this form.
fn name_of(host: &str) -> Option<&str> {
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => {
            let (address, rest) = rest.split_once(']')?;
            address.parse::<Ipv6Addr>().ok()?;
            (address, if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) })
        }
        None => host.split_once(':').map_or((host, None), |(name, port)| (name, Some(port))),
    };
    let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok();
    port.is_none_or(is_port).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn admit(headers: &[(header::HeaderName, &str)], path: &str) -> Result<(), Code> {
        let guard = Guard { port: 7777, token: Some("t0ken".to_owned()) };
        let mut request = Request::builder().uri(path).body(axum::body::Body::empty()).unwrap();
        for (name, value) in headers {
            request.headers_mut().append(name.clone(), HeaderValue::from_str(value).unwrap());
        }
        guard.admit(&request).map_err(|problem| problem.code)
    }

    #[test]
    fn only_names_of_this_machine_are_accepted() {
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
            "localhost.",
            "localhost.:7777",
            "localhost:",
            "localhost:evil",
            "localhost:99999",
            "localhost:1:2",
            "localhost@evil.example",
            "evil.example@localhost",
            "evil.example@x.localhost",
            "evil.example#.localhost",
            "me:x@127.0.0.1:7777",
            "2130706433",
            "0x7f.0.0.1",
            "127.1",
            "::1",
            "[127.0.0.1]",
            "[::ffff:10.0.0.1]",
            "[fe80::1%25lo]",
        ] {
            assert!(!is_this_machine(bad), "{bad}");
        }
    }

    #[test]
    fn checks_run_in_order() {
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
        // A page on this port that is not ours, and the page of the requested address itself.
        let app = (header::ORIGIN, "http://web.shop.localhost:7777");
        assert_eq!(admit(&[host.clone(), token.clone(), app.clone()], "/mcp"), Err(Code::ForbiddenOrigin));
        let own_host = (header::HOST, "web.shop.localhost:7777");
        assert_eq!(admit(&[own_host, token.clone(), app], "/mcp"), Ok(()));
        let ours = (header::ORIGIN, "http://localhost:7777");
        assert_eq!(admit(&[host.clone(), token, ours], "/mcp"), Ok(()));
        assert_eq!(admit(std::slice::from_ref(&host), "/mcp"), Err(Code::Unauthorized));
        assert_eq!(admit(&[host.clone(), (header::AUTHORIZATION, "Bearer t0ke")], "/mcp"), Err(Code::Unauthorized));
        assert_eq!(admit(&[host.clone(), (header::AUTHORIZATION, "Basic t0ken")], "/mcp"), Err(Code::Unauthorized));
        assert_eq!(admit(&[host], "/health"), Ok(()));
    }
}
