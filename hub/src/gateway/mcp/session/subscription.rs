//! `subscriptions/listen`: the stream of changes that a client asked for.
//!
//! Owns [`Subscription`], what one stream wants: it is acknowledged first, and then a notification that was asked for goes out
//! with the id of the request. Invariant: nothing that was not asked for is on the stream.
//! Never: outlives its request.

use crate::gateway::mcp::protocol::envelope::Envelope;
use crate::gateway::mcp::protocol::json::{Object, Span, elements, insert, quote};
use crate::gateway::mcp::protocol::list_kind::ListChange;
use crate::gateway::mcp::protocol::stateless::META_SUBSCRIPTION;
use crate::gateway::mcp::protocol::task_fields::TASK_NOTIFICATION;

/// What one stream wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Subscription {
    id: String,
    topics: Vec<ListChange>,
    /// The resources whose changes are wanted.
    pub(crate) uris: Vec<String>,
    /// The tasks of which news are wanted, by the client's names.
    pub(crate) tasks: Vec<String>,
}

/// What a filter calls each list.
const NAMES: [(ListChange, &str); 3] = [
    (ListChange::Tools, "toolsListChanged"),
    (ListChange::Prompts, "promptsListChanged"),
    (ListChange::Resources, "resourcesListChanged"),
];

impl Subscription {
    /// What the request with this id and these params wants.
    pub(crate) fn read(text: &str, id: Span, params: Option<Span>) -> Option<Self> {
        let filter = Object::parse(text, params?).ok()?.object(text, "notifications").ok()??;
        let wants = |name: &str| filter.get(name).is_some_and(|at| at.of(text) == "true");
        let strings = |name: &str| {
            let all = filter.get(name).and_then(|at| elements(text, at)).unwrap_or_default();
            all.into_iter().filter_map(|at| at.string(text)).collect()
        };
        Some(Self {
            id: id.of(text).to_owned(),
            topics: NAMES.into_iter().filter(|(_, name)| wants(name)).map(|(topic, _)| topic).collect(),
            uris: strings("resourceSubscriptions"),
            tasks: strings("taskIds"),
        })
    }

    /// The first message of the stream, on which there will be news of these tasks.
    pub(crate) fn acknowledgement(&self, tasks: &[String]) -> String {
        let mut filter: Vec<String> = Vec::new();
        for (_, name) in NAMES.into_iter().filter(|(topic, _)| self.topics.contains(topic)) {
            filter.push(format!(r#""{name}":true"#));
        }
        for (name, wanted, agreed) in
            [("resourceSubscriptions", &*self.uris, &*self.uris), ("taskIds", &*self.tasks, tasks)]
        {
            if !wanted.is_empty() {
                let all: Vec<_> = agreed.iter().map(|one| quote(one)).collect();
                filter.push(format!(r#""{name}":[{}]"#, all.join(",")));
            }
        }
        format!(
            r#"{{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{{{},"notifications":{{{}}}}}}}"#,
            self.meta(),
            filter.join(",")
        )
    }

    /// A notification as it stands on the stream; none if it was not asked for.
    pub(crate) fn tagged(&self, message: &str) -> Option<String> {
        let Ok(Envelope::Notification { method, params }) = Envelope::parse_trusted(message) else { return None };
        let topic = ListChange::ALL.into_iter().find(|topic| topic.message().contains(&format!("\"{method}\"")));
        match topic {
            Some(topic) if !self.topics.contains(&topic) => return None,
            Some(_) => {}
            // Which resources and tasks a client is told of is the business of who tells it.
            None if method == "notifications/resources/updated" || method == TASK_NOTIFICATION => {}
            None => return None,
        }
        match params {
            Some(params) if Object::parse(message, params).ok()?.get("_meta").is_none() => {
                Some(insert(message, params, &self.meta()))
            }
            Some(_) => None,
            None => Some(insert(message, Span::whole(message), &format!(r#""params":{{{}}}"#, self.meta()))),
        }
    }

    /// The member that names the stream.
    fn meta(&self) -> String {
        format!(r#""_meta":{{"{META_SUBSCRIPTION}":{}}}"#, self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listen(filter: &str) -> Subscription {
        let text = format!(
            r#"{{"jsonrpc":"2.0","id":"l","method":"subscriptions/listen","params":{{"notifications":{filter}}}}}"#
        );
        let Ok(Envelope::Request { id, params, .. }) = Envelope::parse(&text) else { panic!("{text}") };
        Subscription::read(&text, id, params).unwrap()
    }

    #[test]
    fn what_was_asked_for_is_acknowledged_and_tagged() {
        let listen =
            listen(r#"{"toolsListChanged":true,"promptsListChanged":false,"resourceSubscriptions":["a://1"]}"#);
        assert_eq!(
            listen.acknowledgement(&[]),
            r#"{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":"l"},"notifications":{"toolsListChanged":true,"resourceSubscriptions":["a://1"]}}}"#
        );
        assert_eq!(
            listen.tagged(ListChange::Tools.message()).unwrap(),
            r#"{"params":{"_meta":{"io.modelcontextprotocol/subscriptionId":"l"}},"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#
        );
        assert_eq!(listen.tagged(ListChange::Prompts.message()), None);
        assert_eq!(listen.tagged(r#"{"jsonrpc":"2.0","method":"notifications/message","params":{}}"#), None);
        let updated = r#"{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"a://1"}}"#;
        assert!(
            listen
                .tagged(updated)
                .unwrap()
                .contains(r#"{"_meta":{"io.modelcontextprotocol/subscriptionId":"l"},"uri""#)
        );
    }
}
