//! JSON-RPC messages, told apart without reading more than their envelope.
//!
//! Owns [`Envelope`]: request, notification or response, with the places of id, params, result and error in the text.
//! Invariant: what passes, from a client or a backend, is one object of bounded depth with every envelope key once;
//! anything else is refused before it can reach the other side. Never: looks inside arguments and results.

use super::json::{Object, Span, Unreadable};

/// The deepest nesting that is let through; JSON readers commonly stop at 128.
pub(crate) const MAX_DEPTH: usize = 128;

/// The longest id, token or method. They are copied more often than once, and told in errors.
pub(crate) const MAX_NAME: usize = 1024;

/// Why a text is no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    /// It cannot be read.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// It is an array of messages.
    #[error("batches are not taken: send one message at a time")]
    Batch,
    /// It is nested deeper than [`MAX_DEPTH`].
    #[error("nested deeper than {MAX_DEPTH} levels")]
    TooDeep,
    /// It is JSON, but no JSON-RPC message.
    #[error("not a JSON-RPC 2.0 message: {0}")]
    NotRpc(&'static str),
}

/// What kind of message a text is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Envelope {
    /// Wants an answer.
    Request {
        /// Its id, a string or a number.
        id: Span,
        /// Its method.
        method: String,
        /// Its parameters, an object.
        params: Option<Span>,
    },
    /// Wants none.
    Notification {
        /// Its method.
        method: String,
        /// Its parameters, an object.
        params: Option<Span>,
    },
    /// Is one.
    Response {
        /// The id of the request, or `null` where the peer could not read it.
        id: Span,
        /// The error, if it is one.
        error: Option<Span>,
        /// The result, if it is one.
        result: Option<Span>,
    },
}

impl Envelope {
    /// Reads what kind of message `text` is.
    pub(crate) fn parse(text: &str) -> Result<Self, Malformed> {
        if too_deep(text) {
            return Err(Malformed::TooDeep);
        }
        Self::parse_trusted(text)
    }

    /// As [`Envelope::parse`] without looking at the depth: for what was parsed before.
    pub(crate) fn parse_trusted(text: &str) -> Result<Self, Malformed> {
        match text.trim_start().as_bytes().first() {
            Some(b'{') => {}
            Some(b'[') => return syntax(text).and(Err(Malformed::Batch)),
            Some(_) => return syntax(text).and(Err(Malformed::NotRpc("not an object"))),
            None => return Err(Unreadable::Syntax(String::from("the body is empty")).into()),
        }
        let object = Object::parse(text, Span::whole(text))?;
        if object.get("jsonrpc").map(|span| span.of(text)) != Some("\"2.0\"") {
            return Err(Malformed::NotRpc("jsonrpc is not \"2.0\""));
        }
        match object.get("method") {
            Some(method) => Self::call(text, &object, method),
            None => Self::response(text, &object),
        }
    }

    fn call(text: &str, object: &Object<'_>, method: Span) -> Result<Self, Malformed> {
        let method = method.string(text).filter(|method| method.len() <= MAX_NAME);
        let method = method.ok_or(Malformed::NotRpc("method is not a string of at most 1024 bytes"))?;
        let params = object.get("params");
        if params.is_some_and(|span| !span.is_object(text)) {
            return Err(Malformed::NotRpc("params is not an object"));
        }
        match object.get("id") {
            Some(id) if !is_id(id.of(text)) => {
                Err(Malformed::NotRpc("id is neither a string nor a number, or longer than 1024 bytes"))
            }
            Some(id) => Ok(Self::Request { id, method, params }),
            None => Ok(Self::Notification { method, params }),
        }
    }

    fn response(text: &str, object: &Object<'_>) -> Result<Self, Malformed> {
        let (result, error) = (object.get("result"), object.get("error"));
        if result.is_some() == error.is_some() {
            return Err(Malformed::NotRpc("neither a method, nor exactly one of result and error"));
        }
        match object.get("id") {
            Some(id) if is_id(id.of(text)) || id.of(text) == "null" => Ok(Self::Response { id, error, result }),
            Some(_) | None => Err(Malformed::NotRpc("a response without an id")),
        }
    }
}

/// Whether this JSON value may be an id, or a token of progress.
pub(crate) fn is_id(json: &str) -> bool {
    let first = json.as_bytes().first();
    json.len() <= MAX_NAME && first.is_some_and(|first| matches!(first, b'"' | b'-' | b'0'..=b'9'))
}

/// Whether `answered` is the id `own`, which is the hub's: a peer that keeps every number as a float writes `7.0` for 7.
pub(crate) fn is_own_id(answered: &str, own: &str) -> bool {
    // The hub's ids are integers below 2^53, which a float keeps exactly.
    let number = |id: &str| id.parse::<f64>().ok().filter(|_| is_id(id));
    answered == own || number(answered).is_some_and(|answered| number(own) == Some(answered))
}

fn syntax(text: &str) -> Result<(), Malformed> {
    serde_json::from_str::<serde::de::IgnoredAny>(text).map_err(Unreadable::from)?;
    Ok(())
}

/// Strings, of which large messages mostly consist, are skipped over and not walked through.
fn too_deep(text: &str) -> bool {
    let (bytes, mut depth, mut at) = (text.as_bytes(), 0_usize, 0);
    while let Some(byte) = bytes.get(at) {
        at += 1;
        match byte {
            b'"' => at = after_string(bytes, at),
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            return true;
        }
    }
    false
}

/// Where a string ends whose content begins at `at`.
fn after_string(bytes: &[u8], mut at: usize) -> usize {
    while let Some(found) = bytes.get(at..).and_then(|rest| memchr::memchr2(b'"', b'\\', rest)) {
        at += found + 1;
        if bytes[at - 1] == b'"' {
            return at;
        }
        at += 1;
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::mcp::protocol::json::{quote, splice};
    use proptest::prelude::*;
    use std::borrow::Cow;

    #[test]
    fn requests_notifications_and_responses() {
        let text = r#"{"jsonrpc":"2.0","id":"a","method":"tools/call","params":{"x":1}}"#;
        let Ok(Envelope::Request { id, method, params }) = Envelope::parse(text) else { panic!("{text}") };
        assert_eq!((id.of(text), method.as_str()), ("\"a\"", "tools/call"));
        assert_eq!(params.unwrap().of(text), r#"{"x":1}"#);

        let text = r#" {"method":"n","jsonrpc":"2.0"}"#;
        assert_eq!(Envelope::parse(text), Ok(Envelope::Notification { method: String::from("n"), params: None }));

        let text = r#"{"jsonrpc":"2.0","id":null,"error":{}}"#;
        assert!(matches!(Envelope::parse(text), Ok(Envelope::Response { error: Some(_), result: None, .. })));
    }

    #[test]
    fn what_is_no_message_is_told_apart() {
        let no = |text: &str| Envelope::parse(text).unwrap_err();
        assert!(matches!(no("{"), Malformed::Unreadable(_)));
        assert!(matches!(no(""), Malformed::Unreadable(_)));
        assert!(matches!(no("[1,"), Malformed::Unreadable(_)));
        assert!(matches!(no(r#"{"jsonrpc":"2.0","method":"x"} y"#), Malformed::Unreadable(_)));
        assert_eq!(no("[]"), Malformed::Batch);
        assert!(matches!(no("7"), Malformed::NotRpc(_)));
        assert!(matches!(
            no(r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"x"}"#),
            Malformed::Unreadable(Unreadable::Duplicate(_))
        ));
        for text in [
            r#"{"id":1,"method":"x"}"#,
            r#"{"jsonrpc":"1.0","id":1,"method":"x"}"#,
            r#"{"jsonrpc":"2.0","id":null,"method":"x"}"#,
            r#"{"jsonrpc":"2.0","id":{},"method":"x"}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":7}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"x","params":[]}"#,
            r#"{"jsonrpc":"2.0","id":1}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":1,"error":{}}"#,
            r#"{"jsonrpc":"2.0","result":1}"#,
        ] {
            assert!(matches!(no(text), Malformed::NotRpc(_)), "{text}");
        }
    }

    #[test]
    fn depth_is_bounded_and_strings_do_not_count() {
        let nested = |n: usize| {
            format!(r#"{{"jsonrpc":"2.0","method":"x","params":{{"a":{}{}}}}}"#, "[".repeat(n), "]".repeat(n))
        };
        assert!(Envelope::parse(&nested(MAX_DEPTH - 2)).is_ok());
        assert_eq!(Envelope::parse(&nested(MAX_DEPTH - 1)), Err(Malformed::TooDeep));
        let quoted = format!(r#"{{"jsonrpc":"2.0","method":"{}\\\"["}}"#, "[".repeat(1000));
        assert!(Envelope::parse(&quoted).is_ok());
        let huge = "[".repeat(1 << 20);
        assert_eq!(Envelope::parse(&huge), Err(Malformed::TooDeep));
        for open in ["\"", "\"\\", "\"\\\\\\", "{\"x\\"] {
            assert!(matches!(Envelope::parse(open), Err(Malformed::NotRpc(_) | Malformed::Unreadable(_))), "{open}");
        }
    }

    #[test]
    fn ids_and_methods_are_bounded() {
        let long = "x".repeat(MAX_NAME);
        for (id, method, good) in
            [("\"1\"", &*long, true), (&*quote(&long), "m", false), ("1", &format!("{long}x"), false)]
        {
            let text = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}"}}"#);
            assert_eq!(Envelope::parse(&text).is_ok(), good);
        }
    }

    #[test]
    fn a_float_may_stand_for_an_id_of_ours() {
        for (answered, same) in
            [("7", true), ("7.0", true), ("70e-1", true), ("\"7\"", false), ("7.5", false), ("", false)]
        {
            assert_eq!(is_own_id(answered, "7"), same, "{answered}");
        }
    }

    #[test]
    fn an_edit_leaves_everything_else_byte_for_byte() {
        let text = r#"{ "params" : {"name":"a__b","n":1.0e2,  "_meta":{"progressToken": 7}},"id":1,"jsonrpc":"2.0","method":"m","x":[ ]}"#;
        let Ok(Envelope::Request { id, params, .. }) = Envelope::parse(text) else { panic!("{text}") };
        let params = Object::parse(text, params.unwrap()).unwrap();
        let meta = params.object(text, "_meta").unwrap().unwrap();
        let mut edits = vec![
            (id, Cow::from("42")),
            (params.get("name").unwrap(), Cow::from(quote("b"))),
            (meta.get("progressToken").unwrap(), Cow::from("42")),
        ];
        assert_eq!(
            splice(text, &mut edits),
            r#"{ "params" : {"name":"b","n":1.0e2,  "_meta":{"progressToken": 42}},"id":42,"jsonrpc":"2.0","method":"m","x":[ ]}"#
        );
    }

    proptest! {
        #[test]
        fn garbage_never_panics(text in ".*") {
            let _ = Envelope::parse(&text);
        }
    }
}
