//! Where an MCP server listens.

use super::tls::Tls;
use http::{HeaderValue, Uri};
use linchpin_shared::problem::{Code, Problem};
use linchpin_shared::redact;

/// Why an `https://` URL is rejected whose host [`Tls`] does not accept.
const BAD_TLS_HOST: &str = if cfg!(feature = "tls") {
    "the URL has a host that no certificate could name"
} else {
    "this program was built without TLS, so it cannot use the URL"
};

/// The parsed URL of an MCP server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServerUrl {
    pub(super) host: String,
    pub(super) port: u16,
    /// The value of the Host header.
    pub(super) authority: HeaderValue,
    /// The path with the query.
    pub(super) path: Uri,
    /// Whether it is an `https://` URL.
    pub(super) is_secure: bool,
}

impl ServerUrl {
    /// Parses an `http://` URL, or with the feature `tls` also an `https://` one.
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
            return Err(bad("the URL contains a user, who would not be sent and might be shown in errors"));
        }
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        if is_secure && Tls::new(&host).is_none() {
            return Err(bad(BAD_TLS_HOST));
        }
        Ok(Self {
            host,
            port: authority.port_u16().unwrap_or(if is_secure { 443 } else { 80 }),
            is_secure,
            authority: HeaderValue::from_str(authority.as_str()).map_err(|_| bad("the URL has an invalid host"))?,
            path: path.parse().map_err(|_| bad("the URL has an invalid path"))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_http_urls_without_a_user_are_accepted() {
        let url = ServerUrl::parse("http://[::1]:8080/mcp?x=1").unwrap();
        assert_eq!((url.host.as_str(), url.port), ("::1", 8080));
        assert_eq!(url.path, "/mcp?x=1");
        assert_eq!(ServerUrl::parse("http://localhost").unwrap().port, 80);
        assert_eq!(ServerUrl::parse("https://example.com/mcp").unwrap().port, 443);
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
            let problem = ServerUrl::parse(bad).unwrap_err();
            assert_eq!(problem.code, Code::BadRequest, "{bad}");
            assert!(!problem.to_string().contains("hunter2"), "{problem}");
        }
    }
}
