//! A request of an older client as 2026-07-28 has it, and the reverse.
//!
//! Owns [`modernized`]: what older versions say once in a session stands in each request's `_meta` (who asks, what it can
//! do, from which level on it wants to see what is logged), and what the client answered to the server's questions beside
//! it; and [`plain`], which takes it out, because in a session an older server takes it for a contradiction.
//! Invariant: everything else of the request stays as it came, in its order; the client cannot say these members itself.
//! Never: promises what the client cannot do.

use super::capabilities::ClientCapabilities;
use super::envelope::Envelope;
use super::json::{Object, Span, insert, quote, splice};
use super::level::Level;
use super::stateless::{META_CAPABILITIES, META_LEVEL, META_VERSION, VERSION};
use crate::gateway::mcp::session::client::Client;
use std::borrow::Cow;

/// The member of `_meta` that says who asks.
const META_INFO: &str = "io.modelcontextprotocol/clientInfo";

/// What `_meta` says of the hub itself.
pub(crate) fn own_meta(capabilities: ClientCapabilities) -> String {
    let info = format!(r#"{{"name":"linchpin","version":"{}"}}"#, env!("CARGO_PKG_VERSION"));
    members(&info, capabilities, None)
}

/// What `_meta` says of an older client.
pub(crate) fn meta_of(client: &Client) -> String {
    let own = || format!(r#"{{"name":"linchpin","version":"{}"}}"#, env!("CARGO_PKG_VERSION"));
    members(&client.info().unwrap_or_else(own), client.capabilities, client.level())
}

fn members(info: &str, capabilities: ClientCapabilities, level: Option<Level>) -> String {
    let level = level.map(|level| format!(r#","{META_LEVEL}":"{}""#, level.as_str())).unwrap_or_default();
    let can = capabilities.json();
    format!(r#""{META_VERSION}":"{VERSION}","{META_INFO}":{info},"{META_CAPABILITIES}":{can}{level}"#)
}

/// Whether a member of `_meta` says what older versions say in a session.
fn notified(key: &str) -> bool {
    matches!(key, META_VERSION | META_INFO | META_CAPABILITIES | META_LEVEL)
}

/// The request without what 2026-07-28 says in `_meta`.
pub(crate) fn plain(text: String) -> String {
    let edit = || {
        let Ok(Envelope::Request { params, .. }) = Envelope::parse_trusted(&text) else { return None };
        let params = Object::parse(&text, params?).ok()?;
        let (at, meta) = (params.get("_meta")?, params.object(&text, "_meta").ok()??);
        let kept = meta.members().filter(|(key, _)| !notified(key));
        let kept: Vec<_> = kept.map(|(key, value)| format!("{}:{}", quote(key), value.of(&text))).collect();
        Some((at, Cow::Owned(format!("{{{}}}", kept.join(",")))))
    };
    match edit() {
        Some(edit) => splice(&text, &mut [edit]),
        None => text,
    }
}

/// The request with these members of `_meta`, and with `more` members of its params, in place of its own ones.
pub(crate) fn modernized(text: &str, meta: &str, more: &str) -> String {
    let text = text.trim();
    let params = match Envelope::parse_trusted(text) {
        Ok(Envelope::Request { params, .. }) => params,
        Ok(Envelope::Notification { .. } | Envelope::Response { .. }) | Err(_) => return text.to_owned(),
    };
    let mut out = String::from(r#"{"_meta":{"#);
    out.push_str(meta);
    let kept = params.and_then(|at| Object::parse(text, at).ok());
    let earlier = kept.as_ref().and_then(|params| params.object(text, "_meta").ok()?);
    for (key, value) in earlier.iter().flat_map(Object::members).filter(|(key, _)| !notified(key)) {
        out.push_str(&format!(",{}:{}", quote(key), value.of(text)));
    }
    out.push('}');
    if !more.is_empty() {
        out.push(',');
        out.push_str(more);
    }
    let ours = |key: &str| matches!(key, "_meta" | "inputResponses" | "requestState");
    for (key, value) in kept.iter().flat_map(Object::members).filter(|(key, _)| !ours(key)) {
        out.push_str(&format!(",{}:{}", quote(key), value.of(text)));
    }
    out.push('}');
    match params {
        Some(at) => splice(text, &mut [(at, Cow::Owned(out))]),
        None => insert(text, Span::whole(text), &format!(r#""params":{out}"#)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const META: &str = r#""io.modelcontextprotocol/protocolVersion":"2026-07-28""#;

    #[test]
    fn what_is_said_beside_a_request_is_ours_and_the_rest_as_it_came() {
        let plain = r#"{"jsonrpc":"2.0","id":1,"method":"x"}"#;
        assert_eq!(
            modernized(plain, META, ""),
            r#"{"params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}},"jsonrpc":"2.0","id":1,"method":"x"}"#
        );
        let full = r#" {"jsonrpc":"2.0","id":1,"method":"x","params":{"a":1.0,"requestState":"forged","_meta":{"progressToken":7,"io.modelcontextprotocol/protocolVersion":"1"}},"z":[ ]}"#;
        assert_eq!(
            modernized(full, META, r#""requestState":"s""#),
            r#"{"jsonrpc":"2.0","id":1,"method":"x","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","progressToken":7},"requestState":"s","a":1.0},"z":[ ]}"#
        );
    }

    #[test]
    fn an_older_server_sees_nothing_of_it() {
        let text = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"x","params":{{"_meta":{{{META},"progressToken":7}},"a":1.0}}}}"#
        );
        assert_eq!(
            plain(text),
            r#"{"jsonrpc":"2.0","id":1,"method":"x","params":{"_meta":{"progressToken":7},"a":1.0}}"#
        );
        let none = r#"{"jsonrpc":"2.0","id":1,"method":"x"}"#;
        assert_eq!(plain(none.to_owned()), none);
    }

    #[test]
    fn the_hub_says_what_its_lane_can_do() {
        let said = format!("{{{}}}", own_meta(ClientCapabilities::NONE));
        let said: serde_json::Value = serde_json::from_str(&said).unwrap();
        assert_eq!(said["io.modelcontextprotocol/clientInfo"]["name"], "linchpin");
        assert_eq!(said["io.modelcontextprotocol/clientCapabilities"], serde_json::json!({}));
        assert_eq!(said.get("io.modelcontextprotocol/logLevel"), None);
    }
}
