//! What the shim reads of a JSON-RPC message: its envelope.
//!
//! A refusal without an id gets the id of its request. Nothing else of a message is changed.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// The members of a message that the shim reads.
#[derive(Deserialize)]
pub(super) struct Envelope<'a> {
    #[serde(borrow)]
    pub(super) id: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) method: Option<Cow<'a, str>>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

/// Whether a message is the response to a request, judged by its envelope.
pub(super) fn is_response(message: &[u8]) -> bool {
    serde_json::from_slice::<Envelope<'_>>(message).is_ok_and(|message| message.method.is_none())
}

/// Returns the hub's answer to the request `id`. If the hub refused a request before it knew the id, the error has
/// none, and the client could not assign it to its request.
pub(super) fn with_id(body: Bytes, id: Option<&RawValue>) -> Bytes {
    let Some(id) = id else { return body };
    match serde_json::from_slice::<Envelope<'_>>(&body) {
        Ok(Envelope { id: None, method: None, error: Some(error) }) => {
            Bytes::from(format!(r#"{{"jsonrpc":"2.0","id":{},"error":{}}}"#, id.get(), error.get()))
        }
        Ok(_) | Err(_) => body,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_refusal_without_an_id_gets_one() {
        let id: Box<RawValue> = serde_json::from_str("\"a\"").unwrap();
        let refused = Bytes::from(r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32000}}"#);
        assert_eq!(with_id(refused.clone(), Some(&id)), r#"{"jsonrpc":"2.0","id":"a","error":{"code":-32000}}"#);
        assert_eq!(with_id(refused.clone(), None), refused);
        for other in [r#"{"id":7,"error":{"code":1}}"#, r#"{"id":7,"result":null}"#, r#"{"method":"x"}"#, "<html>"] {
            assert_eq!(with_id(Bytes::from(other), Some(&id)), other);
        }
    }

    #[test]
    fn a_message_with_a_method_is_not_a_response() {
        assert!(is_response(br#"{"id":1,"result":{}}"#) && !is_response(br#"{"method":"x"}"#) && !is_response(b""));
    }
}
