//! Stateless requests of the agent (MCP 2026-07-28).
//!
//! [`InFlightRequests`] has those that are in flight, so that a request that the agent cancels is dropped; the hub
//! notices that by the closed connection, and a cancelled request is not answered. A subscription is held over all
//! connections to the hub. It is acknowledged once; if the hub that served it is lost, everything that it covers is
//! reported as changed, because the missed changes are unknown.

use super::{RETRY, Shim, error};
use crate::jsonrpc::is_response;
use crate::send_error::{Repeat, SendError, unreachable, unresponsive};
use crate::session::HubConnection;
use bytes::Bytes;
use linchpin_shared::problem::Problem;
use parking_lot::Mutex;
use reqwest::header::HeaderMap;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// The request that starts a subscription.
pub(super) const LISTEN: &str = "subscriptions/listen";

/// How many times a subscription may meet a hub that has just gone before it is acknowledged.
const TRIES: u32 = 4;

/// The requests in flight, by their ids as JSON.
#[derive(Clone, Default)]
pub(super) struct InFlightRequests(Arc<Mutex<HashMap<String, CancellationToken>>>);

/// A request in flight, for as long as this exists.
pub(super) struct InFlightRequest {
    requests: InFlightRequests,
    id: String,
    cancelled: CancellationToken,
}

#[derive(Deserialize)]
struct CancelNotification<'a> {
    #[serde(borrow)]
    params: CancelParams<'a>,
}

#[derive(Deserialize)]
struct CancelParams<'a> {
    #[serde(borrow, rename = "requestId")]
    id: &'a RawValue,
}

impl InFlightRequests {
    /// Adds a request.
    pub(super) fn begin(&self, id: &RawValue) -> InFlightRequest {
        let (id, cancelled) = (id.get().to_owned(), CancellationToken::new());
        self.0.lock().insert(id.clone(), cancelled.clone());
        InFlightRequest { requests: self.clone(), id, cancelled }
    }

    /// Drops the request that this notification cancels; returns false if there is none.
    pub(super) fn cancel(&self, notification: &[u8]) -> bool {
        let Ok(said) = serde_json::from_slice::<CancelNotification<'_>>(notification) else { return false };
        let found = self.0.lock().remove(said.params.id.get());
        found.inspect(CancellationToken::cancel).is_some()
    }
}

impl InFlightRequest {
    /// Runs this until it is done or cancelled.
    pub(super) async fn or_cancelled(self, work: impl Future<Output = ()>) {
        self.cancelled.run_until_cancelled(work).await;
    }
}

impl Drop for InFlightRequest {
    fn drop(&mut self) {
        self.requests.0.lock().remove(&self.id);
    }
}

/// An acknowledgement: which subscription it belongs to, and what that covers.
#[derive(Deserialize)]
struct AckNotification<'a> {
    #[serde(borrow)]
    params: AckParams<'a>,
}

#[derive(Deserialize)]
struct AckParams<'a> {
    #[serde(borrow, rename = "_meta")]
    meta: &'a RawValue,
    notifications: SubscriptionFilter,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SubscriptionFilter {
    tools_list_changed: bool,
    prompts_list_changed: bool,
    resources_list_changed: bool,
    resource_subscriptions: Vec<String>,
}

/// How the stream of a subscription ended.
enum StreamEnd {
    /// The hub refused the subscription, and the agent got its answer.
    Refused,
    /// The connection broke.
    Broken,
}

impl Shim {
    /// Holds a subscription until the agent has gone.
    pub(super) async fn subscribe(&self, line: &Bytes, id: &RawValue, headers: &HeaderMap) {
        let held = self.agent_gone.run_until_cancelled(self.hold(line, id, headers)).await;
        if let Some(Err(problem)) = held {
            self.reply(error(id, &problem)).await;
        }
    }

    /// Holds a subscription over all connections to the hub. It fails only before the subscription is acknowledged.
    async fn hold(&self, line: &Bytes, id: &RawValue, headers: &HeaderMap) -> Result<(), Problem> {
        let mut connection = self.session.stateless_connection().await?;
        let (mut acknowledged, mut tries) = (false, 0);
        loop {
            let (events, arriving) = mpsc::channel(1);
            let forward = self.forward(arriving, &mut acknowledged);
            let (followed, ended) = tokio::join!(connection.follow(line, headers, id, events), forward);
            if matches!(ended, StreamEnd::Refused) {
                return Ok(());
            }
            tries += 1;
            connection = match (acknowledged, followed) {
                (true, _) => self.next_connection(connection).await,
                (false, Err(SendError::Refused(problem))) => return Err(problem),
                (false, Err(SendError::Unresponsive(pid))) => return Err(unresponsive(pid, Repeat::Safe)),
                (
                    false,
                    Err(SendError::NotExecuted(why) | SendError::SessionLost(why) | SendError::Interrupted(why)),
                ) if tries == TRIES => {
                    return Err(unreachable(&why));
                }
                (
                    false,
                    Ok(()) | Err(SendError::NotExecuted(_) | SendError::SessionLost(_) | SendError::Interrupted(_)),
                ) => self.session.renew(&connection, false).await?,
            };
        }
    }

    /// Returns the next connection for a subscription, and waits for as long as there is none.
    async fn next_connection(&self, connection: Arc<HubConnection>) -> Arc<HubConnection> {
        loop {
            match self.session.next_connection(Arc::clone(&connection)).await {
                Ok(next) => return next,
                Err(_) => tokio::time::sleep(RETRY).await,
            }
        }
    }

    /// Forwards what a subscription delivers over one connection.
    async fn forward(&self, mut arriving: mpsc::Receiver<Bytes>, acknowledged: &mut bool) -> StreamEnd {
        let mut resumes = *acknowledged;
        while let Some(message) = arriving.recv().await {
            match (is_response(&message), *acknowledged) {
                (true, false) => {
                    self.reply(message).await;
                    return StreamEnd::Refused;
                }
                // The agent still has its subscription.
                (true, true) => {
                    tokio::time::sleep(RETRY).await;
                    return StreamEnd::Broken;
                }
                (false, _) if std::mem::take(&mut resumes) => {
                    for message in changes_after(&message) {
                        self.reply(message).await;
                    }
                }
                (false, _) => {
                    *acknowledged = true;
                    self.reply(message).await;
                }
            }
        }
        StreamEnd::Broken
    }
}

/// Returns what replaces a second acknowledgement: everything that the subscription covers may have changed.
fn changes_after(acknowledgement: &[u8]) -> Vec<Bytes> {
    let Ok(AckNotification { params }) = serde_json::from_slice(acknowledgement) else { return Vec::new() };
    let AckParams { meta, notifications: filter } = params;
    let message = |method: &str, more: String| {
        Bytes::from(format!(
            r#"{{"jsonrpc":"2.0","method":"notifications/{method}","params":{{"_meta":{}{more}}}}}"#,
            meta.get()
        ))
    };
    let lists = [
        (filter.tools_list_changed, "tools/list_changed"),
        (filter.prompts_list_changed, "prompts/list_changed"),
        (filter.resources_list_changed, "resources/list_changed"),
    ];
    let mut messages: Vec<_> = lists.into_iter().filter(|it| it.0).map(|it| message(it.1, String::new())).collect();
    for uri in filter.resource_subscriptions {
        let uri = serde_json::Value::from(uri);
        messages.push(message("resources/updated", format!(r#","uri":{uri}"#)));
    }
    messages
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(json: &str) -> Box<RawValue> {
        RawValue::from_string(json.to_owned()).unwrap()
    }

    #[tokio::test]
    async fn only_the_cancelled_request_is_dropped() {
        let requests = InFlightRequests::default();
        let (first, second) = (requests.begin(&raw("1")), requests.begin(&raw("\"1\"")));
        let cancel = br#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}"#;
        assert!(requests.cancel(cancel) && !requests.cancel(cancel));
        first.or_cancelled(std::future::pending()).await;
        let mut done = false;
        second.or_cancelled(async { done = true }).await;
        assert!(done && requests.0.lock().is_empty());
        assert!(!requests.cancel(br#"{"method":"notifications/cancelled"}"#));
    }

    #[test]
    fn a_resumed_subscription_reports_changes() {
        let acknowledgement = br#"{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":7},"notifications":{"toolsListChanged":true,"resourceSubscriptions":["a://\"1"]}}}"#;
        assert_eq!(
            changes_after(acknowledgement),
            [
                r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":7}}}"#,
                r#"{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":7},"uri":"a://\"1"}}"#,
            ]
        );
        assert_eq!(changes_after(b"{}"), Vec::<Bytes>::new());
    }
}
