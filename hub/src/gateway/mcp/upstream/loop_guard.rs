//! A hub that is a server of its own instance: `linchpin run --mcp -- linchpin mcp`, or a URL that leads back here.
//!
//! Owns the mark that the hub puts into what begins a session with a server, and the refusal of what comes back with it.
//! Without that, every list would contain itself once more each time it is fetched, and every call could go round for ever.
//! Invariant: the mark tells nothing but that two messages are of one hub. Never: refuses another hub.

use crate::gateway::mcp::protocol::envelope::Envelope;
use crate::gateway::mcp::protocol::errors::RpcError;
use crate::gateway::mcp::protocol::json::{Object, Span, insert, quote};
use linchpin_shared::problem::{Code, Problem};

/// The member of `_meta` that names the hub which begins a session.
const META_HUB: &str = "linchpin/hub";

/// A request with the name of this hub in its `_meta`.
pub(crate) fn marked(message: String, hub: &str) -> String {
    let Ok(Envelope::Request { params: Some(params), .. }) = Envelope::parse(&message) else { return message };
    let member = format!("{}:{}", quote(META_HUB), quote(hub));
    let meta = Object::parse(&message, params).ok().and_then(|members| members.get("_meta"));
    match meta.filter(|at| at.is_object(&message)) {
        Some(meta) => insert(&message, meta, &member),
        None => insert(&message, params, &format!(r#""_meta":{{{member}}}"#)),
    }
}

/// Refuses what this hub sent itself.
pub(crate) fn refuse(text: &str, params: Option<Span>, hub: &str) -> Result<(), RpcError> {
    let named = || Object::parse(text, params?).ok()?.object(text, "_meta").ok()??.get(META_HUB)?.string(text);
    if named().as_deref() != Some(hub) {
        return Ok(());
    }
    let detail = "the way leads back to this hub: one of its instances has the hub itself as an MCP server";
    Err(RpcError::on_the_way(
        Problem::new(Code::RoutingLoop, detail)
            .next("see which instance says so: linchpin status")
            .next("stop it: linchpin stop NAME; agents reach the hub itself at /mcp or by linchpin mcp"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hub_knows_its_own_mark_and_no_other() {
        for params in [r#"{"protocolVersion":"2025-11-25"}"#, r#"{"_meta":{"a/b":1.0},"x":1}"#, "{}"] {
            let text = marked(format!(r#"{{"jsonrpc":"2.0","id":1,"method":"initialize","params":{params}}}"#), "one");
            let Ok(Envelope::Request { params, .. }) = Envelope::parse(&text) else { panic!("{text}") };
            assert_eq!(refuse(&text, params, "one").unwrap_err().status(), 508, "{text}");
            assert!(refuse(&text, params, "other").is_ok() && refuse(&text, None, "one").is_ok());
        }
    }
}
