//! What the shim must know of a message from the hub.
//!
//! Owns telling an answer from another message, putting the id of its request on a refusal that has none, and the form
//! of a line. Invariant: nothing but such an id and the white space between tokens is ever changed.
//! Never: looks at results.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    method: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

/// Whether a message answers a request, as far as its envelope tells.
pub(super) fn is_answer(message: &[u8]) -> bool {
    serde_json::from_slice::<Envelope<'_>>(message).is_ok_and(|message| message.method.is_none())
}

/// The hub's answer to the request `id`. What it refused before it knew the id is an error without one, which nobody who
/// asked could take for theirs.
pub(super) fn addressed(body: Bytes, id: Option<&RawValue>) -> Bytes {
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
    fn only_a_refusal_without_an_id_is_given_one() {
        let id: Box<RawValue> = serde_json::from_str("\"a\"").unwrap();
        let refused = Bytes::from(r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32000}}"#);
        assert_eq!(addressed(refused.clone(), Some(&id)), r#"{"jsonrpc":"2.0","id":"a","error":{"code":-32000}}"#);
        assert_eq!(addressed(refused.clone(), None), refused);
        for other in [r#"{"id":7,"error":{"code":1}}"#, r#"{"id":7,"result":null}"#, r#"{"method":"x"}"#, "<html>"] {
            assert_eq!(addressed(Bytes::from(other), Some(&id)), other);
        }
    }

    #[test]
    fn what_has_a_method_is_no_answer() {
        assert!(is_answer(br#"{"id":1,"result":{}}"#) && !is_answer(br#"{"method":"x"}"#) && !is_answer(b""));
    }
}
