//! What routing needs to know about a JSON-RPC message: its kind, its id and its progress token.
//!
//! Parsing borrows from the bytes, which are passed on unchanged, and builds no value tree. Two ids are equal exactly
//! when their JSON values are.

use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// A request id or a progress token: the JSON text of a number or a string, with normalised escapes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(in crate::mcp) struct JsonId(Box<str>);

impl JsonId {
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

    /// Returns it as JSON.
    pub(in crate::mcp) fn as_json(&self) -> &str {
        &self.0
    }
}

/// A request that may be the first that a run of a server receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::mcp) enum FirstRequest {
    /// `initialize`, which starts a session.
    Initialize,
    /// `server/discover`, of a protocol version without sessions.
    Discover,
}

/// The kind of a message.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::mcp) enum Message {
    Request {
        id: JsonId,
        /// Set when it may precede all other requests.
        first: Option<FirstRequest>,
        /// The token of its progress notifications.
        token: Option<JsonId>,
    },
    /// The response to the request with this id.
    Response(JsonId),
    /// A progress notification for the request with this token.
    Progress(JsonId),
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

/// Returns the integer that a number means whose peer keeps all numbers as floats: `7.0` for 7. `None` where the text
/// is kept instead: for a plain integer, and for what a float does not represent exactly.
fn number(text: &str) -> Option<i64> {
    const EXACT: f64 = (1_u64 << 53) as f64;
    let value: f64 = text.contains(['.', 'e', 'E']).then(|| text.parse().ok())??;
    (value.fract() == 0.0 && value.abs() < EXACT).then_some(value as i64)
}

impl Message {
    /// Parses a message. `None` when it is not a JSON object, or not one that JSON-RPC defines.
    pub(in crate::mcp) fn parse(bytes: &[u8]) -> Option<Self> {
        // Serde reads a struct from an array too, but a batch is not a message.
        if !is_object(bytes) {
            return None;
        }
        let envelope: Envelope<'_> = serde_json::from_slice(bytes).ok()?;
        let Some(method) = envelope.method else { return Some(Self::Response(JsonId::new(envelope.id?)?)) };
        let method = string(method)?;
        if let Some(id) = envelope.id {
            let token = envelope.params.and_then(|params| token(fields(params)?.meta?));
            let first = match method.as_ref() {
                "initialize" => Some(FirstRequest::Initialize),
                "server/discover" => Some(FirstRequest::Discover),
                _ => None,
            };
            return Some(Self::Request { id: JsonId::new(id)?, first, token });
        }
        Some(match method.as_ref() {
            "notifications/initialized" => Self::Initialized,
            "notifications/progress" => envelope.params.and_then(token).map_or(Self::Notification, Self::Progress),
            _ => Self::Notification,
        })
    }
}

/// Returns the progress token in these params, or in their `_meta`.
fn token(raw: &RawValue) -> Option<JsonId> {
    JsonId::new(fields(raw)?.progress_token?)
}

fn fields(raw: &RawValue) -> Option<Params<'_>> {
    if is_object(raw.get().as_bytes()) { serde_json::from_str(raw.get()).ok() } else { None }
}

fn is_object(bytes: &[u8]) -> bool {
    bytes.trim_ascii_start().first() == Some(&b'{')
}

/// Returns the value of a JSON string, borrowed unless it contains escapes.
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

    fn id(json: &str) -> JsonId {
        JsonId(json.into())
    }

    fn parse(json: &str) -> Option<Message> {
        Message::parse(json.as_bytes())
    }

    fn request(id: JsonId, first: Option<FirstRequest>, token: Option<JsonId>) -> Option<Message> {
        Some(Message::Request { id, first, token })
    }

    #[test]
    fn every_kind_is_recognised() {
        assert_eq!(parse(r#"{"id":1,"method":"x"}"#), request(id("1"), None, None));
        let discover = parse(r#"{"id":1,"method":"server/discover"}"#);
        assert_eq!(discover, request(id("1"), Some(FirstRequest::Discover), None));
        assert_eq!(
            parse(r#" {"method":"\u0069nitialize","id":"a"}"#),
            request(id("\"a\""), Some(FirstRequest::Initialize), None)
        );
        let call = r#"{"id":1,"method":"x","params":{"n":{"progressToken":9},"_meta":{"progressToken":"t"}}}"#;
        assert_eq!(parse(call), request(id("1"), None, Some(id("\"t\""))));
        assert_eq!(parse(r#"{"id":1,"method":"x","params":[1]}"#), request(id("1"), None, None));
        assert_eq!(parse(r#"{"result":{"method":"no"},"id":-1}"#), Some(Message::Response(id("-1"))));
        assert_eq!(parse(r#"{"method":"notifications/initialized"}"#), Some(Message::Initialized));
        let progress = r#"{"method":"notifications/progress","params":{"progressToken":7,"progress":1}}"#;
        assert_eq!(parse(progress), Some(Message::Progress(id("7"))));
        assert_eq!(parse(r#"{"method":"notifications/progress"}"#), Some(Message::Notification));
    }

    #[test]
    fn ids_are_equal_as_values() {
        assert_eq!(parse(r#"{"id":"A","result":1}"#), parse(r#"{"id":"\u0041","result":2}"#));
        assert_ne!(parse(r#"{"id":"1","result":1}"#), parse(r#"{"id":1,"result":1}"#));
        for float in ["7.0", "70e-1", "0.7E1"] {
            assert_eq!(parse(&format!(r#"{{"id":{float},"result":1}}"#)), Some(Message::Response(id("7"))), "{float}");
        }
        assert_ne!(parse(r#"{"id":7.5,"result":1}"#), parse(r#"{"id":7,"result":1}"#));
    }

    #[test]
    fn anything_else_is_no_message() {
        let junk = ["", "listening on 80", "[1]", r#"[{"id":1,"method":"x"}]"#, "{", r#"{"id":null,"error":{}}"#];
        for text in junk.into_iter().chain([r#"{"id":1,"id":2,"method":"x"}"#, r#"{"id":{},"method":"x"}"#, "{}"]) {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
