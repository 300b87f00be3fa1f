//! Who subscribed to the hub's own resources is told when an instance changes.
//!
//! Owns [`News`]: what of each instance was seen last, and a task that looks again now and then while the gateway is
//! there. Invariant: only a change of what matters is told (life, state, processes, servers), not every number that
//! grows; and only of what the subscriber sees. Never: costs more than a look at the sessions while nobody subscribed.

use super::{HubApi, resources};
use crate::gateway::mcp::catalog::filter::OWN;
use crate::gateway::mcp::catalog::server_key::Place;
use crate::gateway::mcp::protocol::capabilities::Lane;
use crate::gateway::mcp::protocol::json::quote;
use crate::gateway::mcp::session::client::Client;
use crate::gateway::mcp::session::store::Table;
use serde_json::Value;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// How often to look. A person or a model reads the change, so it needs no hurry.
const EVERY: Duration = Duration::from_millis(500);

/// Where the subscriptions to the hub's own resources are kept: no instance has this name.
pub(crate) fn place() -> Place {
    Place { instance: "".into(), server: OWN.into(), project: Path::new("/").into(), lane: Lane::Shared }
}

/// What was seen of an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    print: u64,
    project: PathBuf,
}

/// What was seen last, while somebody is subscribed.
#[derive(Debug, Default)]
pub(crate) struct News(Option<HashMap<String, Seen>>);

impl News {
    /// Tells what changes until nobody answers for the hub any more.
    pub(crate) async fn run(mut self, clients: Arc<Table>, facts: Weak<dyn HubApi>) {
        loop {
            tokio::time::sleep(EVERY).await;
            let Some(facts) = facts.upgrade() else { return };
            let subscribed = subscribed(&clients);
            if subscribed.is_empty() {
                self.0 = None;
            } else {
                self.look(&facts.status(), &subscribed);
            }
        }
    }

    fn look(&mut self, status: &Value, subscribed: &[(Arc<Client>, String)]) {
        let now: HashMap<_, _> = status["instances"].as_array().into_iter().flatten().map(seen).collect();
        let Some(before) = self.0.replace(now.clone()) else { return };
        let names = before.keys().chain(now.keys().filter(|name| !before.contains_key(*name)));
        let changed: Vec<_> = names.filter(|name| before.get(*name) != now.get(*name)).collect();
        for (client, uri) in subscribed {
            let visible = |name: &&&String| {
                let seen = now.get(**name).or_else(|| before.get(**name));
                seen.is_some_and(|seen| client.scope.choice.hides(&[name], &seen.project).is_none())
            };
            if changed.iter().filter(visible).any(|name| resources::is_about(uri, name)) {
                client.send(&format!(
                    r#"{{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{{"uri":{}}}}}"#,
                    quote(uri)
                ));
            }
        }
    }
}

/// Who wants to hear of which of them.
fn subscribed(clients: &Table) -> Vec<(Arc<Client>, String)> {
    let place = place();
    let of = |client: Arc<Client>| {
        let own = client.subscriptions().into_iter().filter(|(at, _)| *at == place).map(|(_, uri)| uri);
        own.map(|uri| (Arc::clone(&client), uri)).collect::<Vec<_>>()
    };
    clients.all().into_iter().flat_map(of).collect()
}

/// What of an instance matters.
fn seen(instance: &Value) -> (String, Seen) {
    let mut hasher = DefaultHasher::new();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    (text(&instance["generation"]), text(&instance["state"])).hash(&mut hasher);
    for process in instance["processes"].as_array().into_iter().flatten() {
        (text(&process["name"]), process["state"].to_string(), process["pid"].to_string()).hash(&mut hasher);
    }
    for server in instance["servers"].as_array().into_iter().flatten() {
        (text(&server["name"]), server["up"].to_string(), server["session"].to_string()).hash(&mut hasher);
    }
    (text(&instance["name"]), Seen { print: hasher.finish(), project: text(&instance["project_dir"]).into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn numbers_that_grow_are_no_news() {
        let instance = |state: &str, memory: u64, pid: u64| {
            let process = json!({"name": "p", "state": "running", "pid": pid, "memory": memory});
            seen(&json!({"name": "a", "generation": "g", "state": state, "processes": [process], "servers": []}))
        };
        assert_eq!(instance("active", 1, 1), instance("active", 2, 1));
        assert_ne!(instance("active", 1, 1), instance("active", 1, 2));
        assert_ne!(instance("active", 1, 1), instance("gone", 1, 1));
    }
}
