//! What routing needs to know of a JSON-RPC message, and nothing more.
//!
//! Owns [`Message`]: whether a message is a request, a notification or a response, its id and its progress token.
//! Invariant: looking borrows from the bytes; the bytes themselves pass on unchanged. Two ids are equal exactly if their
//! JSON values are.
//! Never: builds a value tree, or looks into a result.

use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// A request id or a progress token: the JSON text of a number or a string, escapes normalised.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Id(Box<str>);

impl Id {
    fn new(raw: &RawValue) -> Option<Self> {
        let text = raw.get();
        let canonical = match text.as_bytes().first()? {
            b'"' if text.contains('\\') => serde_json::to_string(&string(raw)?).ok()?.into(),
            b'"' => text.into(),
            b'-' | b'0'..=b'9' => number(text).map_or_else(|| text.into(), |number| number.to_string().into()),
            _ => return None,
        };
        Some(Self(canonical))
    }

    /// As JSON.
    pub(super) fn as_json(&self) -> &str {
        &self.0
    }
}

/// A request that may be the first in the life of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opening {
    /// `initialize`, which begins a session.
    Initialize,
    /// `server/discover`, of a version without sessions.
    Discover,
}

/// What a message is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// A request, with the token under which its progress will be told.
    Request {
        /// Its id.
        id: Id,
        /// Whether it may come before all others.
        opening: Option<Opening>,
        /// Its progress token.
        token: Option<Id>,
    },
    /// The answer to the request of this id.
    Response(Id),
    /// Progress of the request with this token.
    Progress(Id),
    /// `notifications/initialized`.
    Initialized,
    /// Any other notification.
    Notification,
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    method: Option<&'a RawValue>,
    #[serde(borrow, default)]
    params: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Params<'a> {
    #[serde(borrow, default)]
    progress_token: Option<&'a RawValue>,
    #[serde(borrow, rename = "_meta", default)]
    meta: Option<&'a RawValue>,
}

/// The integer that is written so, as a peer does that keeps every number as a float: `7.0` for 7. None where the text
/// says it best: an integer as it stands, or what a float does not keep exactly.
fn number(text: &str) -> Option<i64> {
    const EXACT: f64 = (1_u64 << 53) as f64;
    let value: f64 = text.contains(['.', 'e', 'E']).then(|| text.parse().ok())??;
    (value.fract() == 0.0 && value.abs() < EXACT).then_some(value as i64)
}

impl Message {
    /// Looks at a message. `None` when it is not a JSON object, or none that JSON-RPC knows.
    pub(super) fn look(bytes: &[u8]) -> Option<Self> {
        // Serde reads a struct from an array too, and a batch is not a message.
        if !is_object(bytes) {
            return None;
        }
        let envelope: Envelope<'_> = serde_json::from_slice(bytes).ok()?;
        let Some(method) = envelope.method else { return Some(Self::Response(Id::new(envelope.id?)?)) };
        let method = string(method)?;
        if let Some(id) = envelope.id {
            let token = envelope.params.and_then(|params| token(fields(params)?.meta?));
            let opening = match method.as_ref() {
                "initialize" => Some(Opening::Initialize),
                "server/discover" => Some(Opening::Discover),
                _ => None,
            };
            return Some(Self::Request { id: Id::new(id)?, opening, token });
        }
        Some(match method.as_ref() {
            "notifications/initialized" => Self::Initialized,
            "notifications/progress" => envelope.params.and_then(token).map_or(Self::Notification, Self::Progress),
            _ => Self::Notification,
        })
    }
}

/// The progress token in params, or in their `_meta`.
fn token(raw: &RawValue) -> Option<Id> {
    Id::new(fields(raw)?.progress_token?)
}

fn fields(raw: &RawValue) -> Option<Params<'_>> {
    if is_object(raw.get().as_bytes()) { serde_json::from_str(raw.get()).ok() } else { None }
}

fn is_object(bytes: &[u8]) -> bool {
    bytes.trim_ascii_start().first() == Some(&b'{')
}

/// The value of a JSON string, borrowed unless it has escapes.
fn string(raw: &RawValue) -> Option<Cow<'_, str>> {
    let text = raw.get();
    match serde_json::from_str::<&str>(text) {
        Ok(plain) => Some(Cow::Borrowed(plain)),
        Err(_) => serde_json::from_str::<String>(text).ok().map(Cow::Owned),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(json: &str) -> Id {
        Id(json.into())
    }

    fn look(json: &str) -> Option<Message> {
        Message::look(json.as_bytes())
    }

    fn request(id: Id, opening: Option<Opening>, token: Option<Id>) -> Option<Message> {
        Some(Message::Request { id, opening, token })
    }

    #[test]
    fn every_kind_is_told_apart() {
        assert_eq!(look(r#"{"id":1,"method":"x"}"#), request(id("1"), None, None));
        let discover = look(r#"{"id":1,"method":"server/discover"}"#);
        assert_eq!(discover, request(id("1"), Some(Opening::Discover), None));
        assert_eq!(
            look(r#" {"method":"\u0069nitialize","id":"a"}"#),
            request(id("\"a\""), Some(Opening::Initialize), None)
        );
        let call = r#"{"id":1,"method":"x","params":{"n":{"progressToken":9},"_meta":{"progressToken":"t"}}}"#;
        assert_eq!(look(call), request(id("1"), None, Some(id("\"t\""))));
        assert_eq!(look(r#"{"id":1,"method":"x","params":[1]}"#), request(id("1"), None, None));
        assert_eq!(look(r#"{"result":{"method":"no"},"id":-1}"#), Some(Message::Response(id("-1"))));
        assert_eq!(look(r#"{"method":"notifications/initialized"}"#), Some(Message::Initialized));
        let progress = r#"{"method":"notifications/progress","params":{"progressToken":7,"progress":1}}"#;
        assert_eq!(look(progress), Some(Message::Progress(id("7"))));
        assert_eq!(look(r#"{"method":"notifications/progress"}"#), Some(Message::Notification));
    }

    #[test]
    fn ids_are_equal_as_values() {
        assert_eq!(look(r#"{"id":"A","result":1}"#), look(r#"{"id":"\u0041","result":2}"#));
        assert_ne!(look(r#"{"id":"1","result":1}"#), look(r#"{"id":1,"result":1}"#));
        for float in ["7.0", "70e-1", "0.7E1"] {
            assert_eq!(look(&format!(r#"{{"id":{float},"result":1}}"#)), Some(Message::Response(id("7"))), "{float}");
        }
        assert_ne!(look(r#"{"id":7.5,"result":1}"#), look(r#"{"id":7,"result":1}"#));
    }

    #[test]
    fn what_is_no_message_is_none() {
        let junk = ["", "listening on 80", "[1]", r#"[{"id":1,"method":"x"}]"#, "{", r#"{"id":null,"error":{}}"#];
        for text in junk.into_iter().chain([r#"{"id":1,"id":2,"method":"x"}"#, r#"{"id":{},"method":"x"}"#, "{}"]) {
            assert_eq!(look(text), None, "{text}");
        }
    }
}
