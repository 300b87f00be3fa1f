//! `server/discover`: what there is at an address.
//!
//! Owns the hub's answer, made of what the one server said of itself where there is only one, and of what the hub relays
//! where several are shown together. Invariant: the answer comes from the hub, whatever is up.
//! Never: promises what belongs to sessions.

use super::initialize::own_result;
use crate::gateway::mcp::catalog::scope::Scope;
use crate::gateway::mcp::gateway::Gateway;
use crate::gateway::mcp::protocol::capabilities::ClientCapabilities;
use crate::gateway::mcp::protocol::errors::RpcError;
use crate::gateway::mcp::protocol::list_kind::ListKind;
use crate::gateway::mcp::protocol::stateless::{META_SERVER, VERSION};
use crate::gateway::mcp::protocol::task_fields::EXTENSION;
use crate::gateway::mcp::protocol::version::Version;
use serde_json::{Map, Value, json};

/// What this address has.
pub(crate) async fn discover(gateway: &Gateway, scope: &Scope) -> Result<String, RpcError> {
    if !scope.is_all() {
        gateway.appears(scope).await.map_err(RpcError::unknown)?;
        gateway.settle(ClientCapabilities::NONE, scope, ListKind::Tools).await;
    }
    let catalog = gateway.catalog(ClientCapabilities::NONE);
    let view = catalog.view(scope);
    let about = view.single().and_then(|upstream| upstream.known().about.clone());
    let can = about.as_ref().and_then(|about| about.shown_to_modern());
    let own = || own_result(scope, Version::LATEST);
    let mut said: Map<String, Value> =
        serde_json::from_str(&about.as_ref().map_or_else(own, |about| about.shown(Version::LATEST)))
            .unwrap_or_default();
    let can = can.and_then(|can| serde_json::from_str(&can).ok()).or(said.remove("capabilities"));
    let mut capabilities = can.filter(Value::is_object).unwrap_or_else(|| json!({}));
    // In this version tasks are an extension. One server says itself whether it has it; together they may.
    let tasks = capabilities.as_object_mut().and_then(|all| all.remove("tasks"));
    if tasks.is_some() && about.is_none() {
        capabilities["extensions"] = json!({EXTENSION: {}});
    }
    let versions: Vec<_> = std::iter::once(VERSION).chain(Version::ALL.iter().rev().map(|it| it.as_str())).collect();
    let mut result = json!({
        "resultType": "complete",
        "supportedVersions": versions,
        "capabilities": capabilities,
        "ttlMs": 0,
        "cacheScope": "private",
        "_meta": {META_SERVER: said.remove("serverInfo").unwrap_or_default()},
    });
    if let Some(instructions) = said.remove("instructions") {
        result["instructions"] = instructions;
    }
    Ok(result.to_string())
}
