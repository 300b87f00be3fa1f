//! Beginning a session: `initialize`.
//!
//! Owns what a client is told of the server it talks to: the hub itself where several are shown together, the one
//! server's own words where there is only one. Invariant: the answer does not depend on what happens to be up. A list
//! that is not offered yet is an empty list, and the client is told when it changes.

use crate::gateway::mcp::catalog::scope::{Scope, ScopePath};
use crate::gateway::mcp::gateway::Gateway;
use crate::gateway::mcp::protocol::capabilities::ClientCapabilities;
use crate::gateway::mcp::protocol::errors::RpcError;
use crate::gateway::mcp::protocol::json::{Object, Span};
use crate::gateway::mcp::protocol::list_kind::ListKind;
use crate::gateway::mcp::protocol::version::Version;
use crate::gateway::mcp::session::client::{Client, ClientInfo};
use crate::gateway::mcp::session::store::{StoreFull, fingerprints};
use crate::gateway::mcp::upstream::loop_guard;
use linchpin_shared::problem::{Code, Problem};
use std::sync::Arc;

/// Everything that the hub relays. It is promised at once, because instances come and go within a session.
const CAPABILITIES: &str = r#"{"tools":{"listChanged":true},"prompts":{"listChanged":true},"resources":{"subscribe":true,"listChanged":true},"logging":{},"completions":{},"tasks":{"list":{},"cancel":{},"requests":{"tools":{"call":{}}}}}"#;

/// Begins a session at this address and gives the result of its `initialize`.
pub(crate) async fn begin(
    gateway: &Gateway,
    scope: Scope,
    text: &str,
    params: Option<Span>,
) -> Result<(Arc<Client>, String), RpcError> {
    loop_guard::refuse(text, params, &gateway.clients.key().hub_name())?;
    let asked = params.and_then(|at| Object::parse(text, at).ok()?.get("protocolVersion")?.string(text));
    let asked = asked.ok_or_else(|| RpcError::invalid_params("params.protocolVersion must be a string"))?;
    let version = Version::negotiate(&asked);
    let can = params.and_then(|at| Object::parse(text, at).ok()?.get("capabilities"));
    let capabilities = can.map_or(ClientCapabilities::NONE, |at| ClientCapabilities::read(text, at));
    if !scope.is_all() {
        gateway.appears(&scope).await.map_err(RpcError::unknown)?;
        // The server's own words are worth waiting for.
        gateway.settle(ClientCapabilities::NONE, &scope, ListKind::Tools).await;
    }

    let catalog = gateway.catalog(capabilities);
    let view = catalog.view(&scope);
    let about = view.single().and_then(|upstream| upstream.known().about.clone());
    let result = about.map_or_else(|| own_result(&scope, version), |about| about.shown(version));
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|error| {
        RpcError::on_the_way(Problem::new(Code::Internal, format!("the system has no randomness: {error}")))
    })?;
    let client = gateway
        .clients
        .begin(scope, ClientInfo { version, capabilities }, fingerprints(&view), random)
        .map_err(|StoreFull| {
            let problem = Problem::new(Code::Overloaded, "the hub has too many sessions, all of them in use");
            RpcError::on_the_way(problem.next("end sessions that are not needed"))
        })?;
    if let Some(params) = params {
        client.began_with(params.of(text));
    }
    Ok((client, result))
}

/// What an address says of itself that shows several servers.
pub(crate) fn own_result(scope: &Scope, version: Version) -> String {
    let instructions = match scope.part {
        ScopePath::All if scope.filter.searches() => {
            "The tools of all running projects. Find one with linchpin__search_tools, see how it is called with \
             linchpin__describe_tool, and call it with linchpin__call_tool."
        }
        ScopePath::All if scope.filter.own_tools() => {
            "Tools and prompts of all running projects. A name is INSTANCE__TOOL, or INSTANCE__SERVER__TOOL where an \
             instance has several servers. Instances come and go: list again when the list changes. When one does not \
             answer, linchpin__status, linchpin__explain and linchpin__logs say why, and linchpin__restart may mend it."
        }
        ScopePath::All => {
            "Tools and prompts of all running projects. A name is INSTANCE__TOOL, or INSTANCE__SERVER__TOOL where an \
             instance has several servers. Instances come and go: list again when the list changes."
        }
        ScopePath::Instance(_) | ScopePath::Server(..) => {
            "Tools, prompts and resources of one project, under their own names."
        }
    };
    let mut declared = serde_json::from_str::<serde_json::Value>(CAPABILITIES).unwrap_or_default();
    if let Some(older) = declared.as_object_mut().filter(|_| version != Version::V2025_11_25) {
        older.remove("tasks");
    }
    serde_json::json!({
        "protocolVersion": version.as_str(),
        "capabilities": declared,
        "serverInfo": {"name": "linchpin", "title": "Linchpin", "version": env!("CARGO_PKG_VERSION")},
        "instructions": instructions,
    })
    .to_string()
}
