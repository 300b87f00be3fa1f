//! What a backend's own messages are about.
//!
//! Owns [`Notification`], read from a notification's envelope and the one or two of its params that routing needs.
//! Never: looks at anything else in it.

use super::json::{Object, Span, quote, splice};
use super::level::Level;
use super::list_kind::ListChange;
use super::stateless::META_SUBSCRIPTION;
use super::task_fields::{TASK_NOTIFICATION, TASK_STATUS_NOTIFICATION};
use std::borrow::Cow;

/// The first thing that a server says on such a stream.
pub(crate) const ACKNOWLEDGED: &str = "notifications/subscriptions/acknowledged";

/// What a notification is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Notification {
    /// A list may have changed.
    Changed(ListChange),
    /// A log message of this level.
    Log(Level),
    /// A resource changed.
    Updated(String),
    /// Progress of the request with this token.
    Progress(Span),
    /// The backend's own request with this id was given up.
    Cancelled(Span),
    /// What became of the task that is named here.
    Task(Span),
    /// The stream of changes with this id is there.
    Acknowledged(Span),
    /// Something else.
    Other,
}

impl Notification {
    /// What the notification with this method and these params is about.
    pub(crate) fn read(text: &str, method: &str, params: Option<Span>) -> Self {
        let param = |key: &str| Object::parse(text, params?).ok()?.get(key);
        let string = |key: &str| param(key)?.string(text);
        let known = match method {
            "notifications/tools/list_changed" => Some(Self::Changed(ListChange::Tools)),
            "notifications/prompts/list_changed" => Some(Self::Changed(ListChange::Prompts)),
            "notifications/resources/list_changed" => Some(Self::Changed(ListChange::Resources)),
            "notifications/message" => string("level").and_then(|level| Level::parse(&level)).map(Self::Log),
            "notifications/resources/updated" => string("uri").map(Self::Updated),
            "notifications/progress" => param("progressToken").map(Self::Progress),
            ACKNOWLEDGED => subscription(text, params).map(Self::Acknowledged),
            "notifications/cancelled" => param("requestId").map(Self::Cancelled),
            TASK_NOTIFICATION | TASK_STATUS_NOTIFICATION => param("taskId").map(Self::Task),
            _ => None,
        };
        known.unwrap_or(Self::Other)
    }
}

/// The stream of changes that a notification belongs to.
fn subscription(text: &str, params: Option<Span>) -> Option<Span> {
    Object::parse(text, params?).ok()?.object(text, "_meta").ok()??.get(META_SUBSCRIPTION)
}

/// A notification without the name of the stream of changes that it came on, which is the hub's.
pub(crate) fn untagged(text: &str, params: Option<Span>) -> Cow<'_, str> {
    let Some(at) = params.filter(|_| subscription(text, params).is_some()) else { return Cow::Borrowed(text) };
    let Ok(object) = Object::parse(text, at) else { return Cow::Borrowed(text) };
    let meta = object.object(text, "_meta").ok().flatten();
    let others = meta.iter().flat_map(|meta| meta.members()).filter(|(key, _)| *key != META_SUBSCRIPTION);
    let others: Vec<_> = others.map(|(key, value)| format!("{}:{}", quote(key), value.of(text))).collect();
    let meta = (!others.is_empty()).then(|| format!(r#""_meta":{{{}}}"#, others.join(",")));
    let rest = object.members().filter(|(key, _)| *key != "_meta");
    let rest = rest.map(|(key, value)| format!("{}:{}", quote(key), value.of(text)));
    let params: Vec<_> = meta.into_iter().chain(rest).collect();
    Cow::Owned(splice(text, &mut [(at, Cow::Owned(format!("{{{}}}", params.join(","))))]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::mcp::protocol::envelope::Envelope;

    fn read(text: &str) -> Notification {
        let Ok(Envelope::Notification { method, params }) = Envelope::parse(text) else { panic!("{text}") };
        Notification::read(text, &method, params)
    }

    #[test]
    fn the_name_of_a_stream_is_taken_out_and_nothing_else() {
        let text = r#"{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":7,"x":1.0},"uri":"a://1"}}"#;
        let of = |text: &str| {
            let Ok(Envelope::Notification { params, .. }) = Envelope::parse(text) else { panic!("{text}") };
            untagged(text, params).into_owned()
        };
        let plain = of(text);
        assert_eq!(plain, text.replace(r#""io.modelcontextprotocol/subscriptionId":7,"#, ""));
        assert_eq!(of(&plain), plain);
        let Notification::Acknowledged(id) = read(&text.replace("resources/updated", "subscriptions/acknowledged"))
        else {
            panic!("{text}")
        };
        assert_eq!(id.of(&text.replace("resources/updated", "subscriptions/acknowledged")), "7");
    }

    #[test]
    fn each_kind_is_known_by_its_method_and_params() {
        let text = r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":5,"progress":1}}"#;
        let Notification::Progress(token) = read(text) else { panic!("{text}") };
        assert_eq!(token.of(text), "5");
        let log = r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"error","data":1}}"#;
        assert_eq!(read(log), Notification::Log(Level::Error));
        assert_eq!(read(&log.replace("error", "loud")), Notification::Other);
        let updated = r#"{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"x://1"}}"#;
        assert_eq!(read(updated), Notification::Updated(String::from("x://1")));
        assert_eq!(read(ListChange::Tools.message()), Notification::Changed(ListChange::Tools));
        let task =
            r#"{"jsonrpc":"2.0","method":"notifications/tasks/status","params":{"taskId":"t","status":"working"}}"#;
        assert!(matches!(read(task), Notification::Task(at) if at.of(task) == "\"t\""));
        assert_eq!(read(r#"{"jsonrpc":"2.0","method":"notifications/progress"}"#), Notification::Other);
    }
}
