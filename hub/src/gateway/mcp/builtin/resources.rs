//! The hub's own resources: its instances.
//!
//! Owns `linchpin://instances`, `linchpin://instances/NAME` and `linchpin://instances/NAME/logs`, the last as a template.
//! Invariant: they say what the tools say. Never: tells that a log grew; it grows all the time.

use super::{HubApi, Own, answer};
use crate::gateway::mcp::catalog::scope::Scope;
use crate::gateway::mcp::protocol::errors::RpcError;
use linchpin_shared::problem::{Code, Problem};
use serde_json::json;
use std::sync::Arc;

/// What their URIs begin with.
pub(crate) const SCHEME: &str = "linchpin://";

const ALL: &str = "linchpin://instances";

/// The template of the logs.
pub(crate) const LOGS: &str = "linchpin://instances/{name}/logs";

/// Whether it can be subscribed to: the list of all, or one instance.
pub(crate) fn tells(uri: &str) -> bool {
    uri == ALL || uri.strip_prefix(ALL).and_then(|rest| rest.strip_prefix('/')).is_some_and(|name| !name.contains('/'))
}

/// Whether it says something of this instance.
pub(crate) fn is_about(uri: &str, name: &str) -> bool {
    uri == ALL || uri.strip_prefix(ALL).and_then(|rest| rest.strip_prefix('/')) == Some(name)
}

/// The names that begin so, for the argument of a template.
pub(crate) fn completed(template: &str, argument: &str, begun: &str, names: &[&str]) -> Option<String> {
    if template != LOGS || argument != "name" {
        return None;
    }
    let fitting: Vec<_> = names.iter().filter(|name| name.starts_with(begun)).collect();
    // MCP allows a hundred.
    let (shown, total) = (&fitting[..fitting.len().min(100)], fitting.len());
    let completion = json!({"values": shown, "total": total, "hasMore": total > shown.len()});
    Some(json!({"completion": completion}).to_string())
}

/// The resources of these instances, as they stand in the list.
pub(crate) fn listed(instances: &[&str]) -> Vec<String> {
    let one = |uri: String, name: &str, about: String| {
        json!({"uri": uri, "name": name, "description": about, "mimeType": "application/json"}).to_string()
    };
    let all = one(ALL.to_owned(), "instances", String::from("All instances, with their states, processes and servers"));
    let each = instances.iter().map(|name| {
        one(format!("{ALL}/{name}"), name, format!("The instance {name}: its state, processes and servers"))
    });
    std::iter::once(all).chain(each).collect()
}

/// The templates, as they stand in the list.
pub(crate) fn templates() -> Vec<String> {
    let about = "The last lines that the processes of an instance wrote";
    vec![json!({"uriTemplate": LOGS, "name": "logs", "description": about, "mimeType": "text/plain"}).to_string()]
}

/// The result of reading one.
pub(crate) async fn read(facts: Arc<dyn HubApi>, scope: &Scope, uri: &str) -> Result<String, RpcError> {
    let path: Vec<&str> = uri.strip_prefix(ALL).unwrap_or("/?/?").split('/').skip(1).collect();
    let (kind, text) = match path[..] {
        [] if uri == ALL => {
            let all = answer::everything(&*facts, scope);
            ("application/json", json!({"instances": all["instances"]}).to_string())
        }
        [name] => {
            let one = answer::instance(&*facts, scope, name).map_err(RpcError::unknown_resource)?;
            ("application/json", one.to_string())
        }
        [name, "logs"] => {
            let which = json!({"instance": name}).to_string();
            let told = answer::of(Own::Logs, facts, scope, &which).await.map_err(RpcError::unknown_resource)?;
            ("text/plain", told.0)
        }
        _ => {
            let problem = Problem::new(Code::NotFound, format!("the hub has no resource {uri:?}"));
            return Err(RpcError::unknown_resource(problem.next("ask for resources/list")));
        }
    };
    Ok(json!({"contents": [{"uri": uri, "mimeType": kind, "text": text}]}).to_string())
}
