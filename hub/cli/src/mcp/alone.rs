//! Requests that stand for themselves (MCP 2026-07-28).
//!
//! Owns which of them are under way ([`UnderWay`]), so that one that the agent cancels is given up; the hub sees that by
//! the connection. And the subscriptions, each of which is held over all lives of the hub. Invariant: a subscription is
//! acknowledged once; when the hub that served it was lost, all that it is for is told as changed, because nobody knows
//! what was missed. Never: answers what was cancelled.

use super::{RETRY, Shim, error};
use crate::lost::{Lost, Repeat, silent_hub, unreachable};
use crate::reply::is_answer;
use crate::session::Life;
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

/// The request that begins a subscription.
pub(super) const LISTEN: &str = "subscriptions/listen";

/// How often a subscription meets a hub that has just gone before it is acknowledged.
const TRIES: u32 = 4;

/// The requests under way, by their ids as JSON.
#[derive(Clone, Default)]
pub(super) struct UnderWay(Arc<Mutex<HashMap<String, CancellationToken>>>);

/// One of them, for as long as this is held.
pub(super) struct Entry {
    under_way: UnderWay,
    id: String,
    cancelled: CancellationToken,
}

#[derive(Deserialize)]
struct Cancelled<'a> {
    #[serde(borrow)]
    params: Request<'a>,
}

#[derive(Deserialize)]
struct Request<'a> {
    #[serde(borrow, rename = "requestId")]
    id: &'a RawValue,
}

impl UnderWay {
    /// Notes that this request is under way.
    pub(super) fn begin(&self, id: &RawValue) -> Entry {
        let (id, cancelled) = (id.get().to_owned(), CancellationToken::new());
        self.0.lock().insert(id.clone(), cancelled.clone());
        Entry { under_way: self.clone(), id, cancelled }
    }

    /// Gives up the request that this notification cancels; false if there is none.
    pub(super) fn cancel(&self, notification: &[u8]) -> bool {
        let Ok(said) = serde_json::from_slice::<Cancelled<'_>>(notification) else { return false };
        let found = self.0.lock().remove(said.params.id.get());
        found.inspect(CancellationToken::cancel).is_some()
    }
}

impl Entry {
    /// Does this until it is done or cancelled.
    pub(super) async fn or_cancelled(self, work: impl Future<Output = ()>) {
        self.cancelled.run_until_cancelled(work).await;
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.under_way.0.lock().remove(&self.id);
    }
}

/// An acknowledgement: which subscription it is of, and what that is for.
#[derive(Deserialize)]
struct Acknowledgement<'a> {
    #[serde(borrow)]
    params: Acknowledged<'a>,
}

#[derive(Deserialize)]
struct Acknowledged<'a> {
    #[serde(borrow, rename = "_meta")]
    meta: &'a RawValue,
    notifications: Filter,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Filter {
    tools_list_changed: bool,
    prompts_list_changed: bool,
    resources_list_changed: bool,
    resource_subscriptions: Vec<String>,
}

/// How one life of a subscription ended.
enum Ended {
    /// The hub refused it, and the agent was told.
    Answered,
    /// It broke.
    Broken,
}

impl Shim {
    /// Holds a subscription until the agent has gone.
    pub(super) async fn subscribe(&self, line: &Bytes, id: &RawValue, headers: &HeaderMap) {
        let held = self.gone.run_until_cancelled(self.hold(line, id, headers)).await;
        if let Some(Err(problem)) = held {
            self.answer(error(id, &problem)).await;
        }
    }

    /// Holds a subscription over all lives of the hub; fails only before it is acknowledged.
    async fn hold(&self, line: &Bytes, id: &RawValue, headers: &HeaderMap) -> Result<(), Problem> {
        let mut life = self.session.alone().await?;
        let (mut acknowledged, mut tries) = (false, 0);
        loop {
            let (events, arriving) = mpsc::channel(1);
            let pass = self.pass(arriving, &mut acknowledged);
            let (followed, ended) = tokio::join!(life.follow(line, headers, id, events), pass);
            if matches!(ended, Ended::Answered) {
                return Ok(());
            }
            tries += 1;
            life = match (acknowledged, followed) {
                (true, _) => self.later(life).await,
                (false, Err(Lost::Refused(problem))) => return Err(problem),
                (false, Err(Lost::Silent(pid))) => return Err(silent_hub(pid, Repeat::Safe)),
                (false, Err(Lost::NotExecuted(why) | Lost::Unknown(why) | Lost::Interrupted(why)))
                    if tries == TRIES =>
                {
                    return Err(unreachable(&why));
                }
                (false, Ok(()) | Err(Lost::NotExecuted(_) | Lost::Unknown(_) | Lost::Interrupted(_))) => {
                    self.session.renew(&life, false).await?
                }
            };
        }
    }

    /// The life after the one that served a subscription, however long there is none.
    async fn later(&self, life: Arc<Life>) -> Arc<Life> {
        loop {
            match self.session.next_life(Arc::clone(&life)).await {
                Ok(next) => return next,
                Err(_) => tokio::time::sleep(RETRY).await,
            }
        }
    }

    /// Hands on what a subscription brings in one life of the hub.
    async fn pass(&self, mut arriving: mpsc::Receiver<Bytes>, acknowledged: &mut bool) -> Ended {
        let mut resumes = *acknowledged;
        while let Some(message) = arriving.recv().await {
            match (is_answer(&message), *acknowledged) {
                (true, false) => {
                    self.answer(message).await;
                    return Ended::Answered;
                }
                // For the agent the subscription goes on.
                (true, true) => {
                    tokio::time::sleep(RETRY).await;
                    return Ended::Broken;
                }
                (false, _) if std::mem::take(&mut resumes) => {
                    for message in instead_of(&message) {
                        self.answer(message).await;
                    }
                }
                (false, _) => {
                    *acknowledged = true;
                    self.answer(message).await;
                }
            }
        }
        Ended::Broken
    }
}

/// What stands in the place of a second acknowledgement: all that the subscription is for may have changed.
fn instead_of(acknowledgement: &[u8]) -> Vec<Bytes> {
    let Ok(Acknowledgement { params }) = serde_json::from_slice(acknowledgement) else { return Vec::new() };
    let Acknowledged { meta, notifications: filter } = params;
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
    async fn a_cancelled_request_is_given_up_and_no_other() {
        let under_way = UnderWay::default();
        let (first, second) = (under_way.begin(&raw("1")), under_way.begin(&raw("\"1\"")));
        let cancel = br#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}"#;
        assert!(under_way.cancel(cancel) && !under_way.cancel(cancel));
        first.or_cancelled(std::future::pending()).await;
        let mut done = false;
        second.or_cancelled(async { done = true }).await;
        assert!(done && under_way.0.lock().is_empty());
        assert!(!under_way.cancel(br#"{"method":"notifications/cancelled"}"#));
    }

    #[test]
    fn what_a_resumed_subscription_is_for_may_have_changed() {
        let acknowledgement = br#"{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":7},"notifications":{"toolsListChanged":true,"resourceSubscriptions":["a://\"1"]}}}"#;
        assert_eq!(
            instead_of(acknowledgement),
            [
                r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":7}}}"#,
                r#"{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":7},"uri":"a://\"1"}}"#,
            ]
        );
        assert_eq!(instead_of(b"{}"), Vec::<Bytes>::new());
    }
}
