//! MCP 2026-07-28: every request stands for itself.
//!
//! Owns what tells such a request from an older one ([`is`]) and what it must carry ([`RequestMeta`], [`check`]); [`super::result`]
//! gives a result the members that this version wants, [`crate::gateway::mcp::relay::discover`] answers for the hub, [`crate::gateway::mcp::session::subscription`] is the stream of
//! changes, [`crate::gateway::mcp::session::pending_input`] are calls whose older server asks something, [`super::translate`] is an older client's way to a server of this
//! version. Invariant: what the headers say and what the body says is the same, or the request is refused before anything
//! of it happens. Never: remembers anything between two requests.

use super::capabilities::ClientCapabilities;
use super::errors::RpcError;
use super::headers::{METHOD, NAME};
use super::headers::{header, same};
use super::json::{Object, Span};
use super::level::Level;
use super::task_fields::EXTENSION;
use super::version::Version;
use http::HeaderMap;
pub(crate) use linchpin_shared::protocol::stateless::META_VERSION;
use linchpin_shared::protocol::{mcp, stateless};

/// The version.
pub(crate) const VERSION: &str = Version::V2026_07_28.as_str();

pub(super) const META_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";

pub(super) const META_LEVEL: &str = "io.modelcontextprotocol/logLevel";

/// The member of `_meta` in which a server says what it is.
pub(crate) const META_SERVER: &str = "io.modelcontextprotocol/serverInfo";

/// The member of `_meta` by which a notification names the stream that asked for it.
pub(crate) const META_SUBSCRIPTION: &str = "io.modelcontextprotocol/subscriptionId";

/// Methods of older versions that this one does not have.
pub(crate) const REMOVED: [&str; 5] =
    ["initialize", "ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe"];

/// What a request says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RequestMeta {
    /// From which level on its client wants to see what is logged meanwhile; none wants nothing.
    pub(crate) level: Option<Level>,
    /// What its client can do when it is asked.
    pub(crate) capabilities: ClientCapabilities,
    /// Whether its client knows tasks.
    pub(crate) tasks: bool,
}

/// Whether a message is one of this version, or claims to be one of a version that we do not know. A message in a
/// session, or with the header of an older version, is not looked into.
pub(crate) fn is(headers: &HeaderMap, text: &str, params: Option<Span>) -> bool {
    match header(headers, mcp::VERSION) {
        Some(version) if version == VERSION => true,
        Some(version) if Version::parse(version).is_some() => false,
        None if headers.contains_key(mcp::SESSION) => false,
        Some(_) | None => meta(text, params).is_some_and(|meta| meta.get(META_VERSION).is_some()),
    }
}

fn meta(text: &str, params: Option<Span>) -> Option<Object<'_>> {
    Object::parse(text, params?).ok()?.object(text, "_meta").ok()?
}

/// Checks what a request of this method and with these params must carry.
pub(crate) fn check(
    headers: &HeaderMap,
    text: &str,
    method: &str,
    params: Option<Span>,
) -> Result<RequestMeta, RpcError> {
    let missing = |what: &str| RpcError::invalid_params(format!("params._meta must have {what}"));
    let meta = meta(text, params).ok_or_else(|| missing(META_VERSION))?;
    let version = meta.get(META_VERSION).and_then(|at| at.string(text)).ok_or_else(|| missing(META_VERSION))?;
    same(headers, mcp::VERSION, &version)?;
    if version != VERSION {
        return Err(RpcError::unsupported_version(&version));
    }
    let declared = meta.get(META_CAPABILITIES).filter(|at| at.is_object(text));
    let declared = declared.ok_or_else(|| missing(META_CAPABILITIES))?;
    let capabilities = ClientCapabilities::read(text, declared);
    same(headers, METHOD, method)?;
    if let Some(name) = about(text, method, params) {
        same(headers, NAME, &name)?;
    }
    let level = meta.get(META_LEVEL).and_then(|at| Level::parse(&at.string(text)?));
    Ok(RequestMeta { level, capabilities, tasks: knows_tasks(text, declared) })
}

/// Whether the capabilities at `at` have the extension.
fn knows_tasks(text: &str, at: Span) -> bool {
    let extensions = || Object::parse(text, at).ok()?.object(text, "extensions").ok()?;
    extensions().is_some_and(|extensions| extensions.get(EXTENSION).is_some())
}

/// What a request is about, where a header has to say it.
fn about(text: &str, method: &str, params: Option<Span>) -> Option<String> {
    let key = stateless::subject(method)?;
    Object::parse(text, params?).ok()?.get(key)?.string(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::mcp::protocol::envelope::Envelope;
    use http::{HeaderName, HeaderValue};

    const GOOD: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/logLevel":"error"}}}"#;

    fn headers(all: &[(&'static str, &str)]) -> HeaderMap {
        all.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    fn checked(text: &str, all: &[(&'static str, &str)]) -> Result<RequestMeta, i32> {
        let Ok(Envelope::Request { method, params, .. }) = Envelope::parse(text) else { panic!("{text}") };
        check(&headers(all), text, &method, params).map_err(|error| error.code())
    }

    const ALL: [(&str, &str); 3] = [(mcp::VERSION, VERSION), (METHOD, "tools/call"), (NAME, " a ")];

    #[test]
    fn headers_and_body_must_agree() {
        assert_eq!(
            checked(GOOD, &ALL),
            Ok(RequestMeta { level: Some(Level::Error), capabilities: ClientCapabilities::NONE, tasks: false })
        );
        for at in 0..3 {
            let mut wrong = ALL.to_vec();
            wrong[at].1 = "other";
            assert_eq!(checked(GOOD, &wrong), Err(-32020), "{wrong:?}");
            wrong.remove(at);
            assert_eq!(checked(GOOD, &wrong), Err(-32020), "{wrong:?}");
        }
        let newer = GOOD.replace(VERSION, "2027-01-01");
        assert_eq!(checked(&newer, &[(mcp::VERSION, "2027-01-01"), ALL[1], ALL[2]]), Err(-32022));
        assert_eq!(checked(&GOOD.replace("/clientCapabilities", "/x"), &ALL), Err(-32602));
        assert_eq!(checked(&GOOD.replace("_meta", "meta"), &ALL), Err(-32602));
    }

    #[test]
    fn an_older_request_is_told_apart() {
        let of = |text: &str, all: &[(&'static str, &str)]| {
            let Ok(Envelope::Request { params, .. }) = Envelope::parse(text) else { panic!("{text}") };
            is(&headers(all), text, params)
        };
        let old = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{}}"#;
        assert!(of(old, &ALL) && of(GOOD, &[]) && of(GOOD, &[(mcp::VERSION, "2027-01-01")]));
        assert!(!of(old, &[]) && !of(old, &[(mcp::VERSION, "2027-01-01")]));
        assert!(!of(GOOD, &[(mcp::VERSION, "2025-11-25")]) && !of(GOOD, &[(mcp::SESSION, "x")]));
    }

    fn carried(text: &str) -> Option<HeaderMap> {
        let header = |(name, value): (&'static str, String)| {
            (HeaderName::from_static(name), HeaderValue::from_str(&value).unwrap())
        };
        Some(stateless::headers(text.as_bytes())?.into_iter().map(header).collect())
    }

    #[test]
    fn a_message_from_elsewhere_is_given_its_headers() {
        let odd = GOOD.replace("\"a\"", "\"\u{e4}\"").replace("io.modelcontextprotocol/", "io.modelcontextprotocol\\/");
        for text in [GOOD, &odd] {
            let carried = carried(text).unwrap();
            let Ok(Envelope::Request { method, params, .. }) = Envelope::parse(text) else { panic!("{text}") };
            assert!(check(&carried, text, &method, params).is_ok(), "{text} {carried:?}");
        }
        let old = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25"}}"#;
        assert_eq!((carried(old), carried("x"), carried(r#"{"/protocolVersion":1}"#)), (None, None, None));
    }
}
