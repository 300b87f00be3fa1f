//! Answers as 2026-07-28 wants them.
//!
//! Owns [`finished`] and the HTTP status of an answer. A backend that speaks this version gives its results complete, and
//! they pass untouched; what is missing is added in front of the rest.
//! Invariant: an answer that has the members already is the same text. Never: changes what a result says.

use super::envelope::Envelope;
use super::json::{Object, Span, edited, insert};
use axum::http::StatusCode;

/// A result that may be kept by nobody: what it shows may change at any moment, and a client that listens is told.
const HINTS: &str = r#""ttlMs":0,"cacheScope":"private""#;

/// The error of older versions for a resource that does not exist, and the one of this version.
const NO_RESOURCE: (&str, &str) = ("-32002", "-32602");

/// The answer to a request of this method.
pub(crate) fn finished(answer: String, method: &str) -> String {
    match Envelope::parse_trusted(&answer) {
        Ok(Envelope::Response { result: Some(result), .. }) if result.is_object(&answer) => {
            let Ok(members) = Object::parse(&answer, result) else { return answer };
            let mut missing: Vec<&str> = Vec::new();
            if members.get("resultType").is_none() {
                missing.push(r#""resultType":"complete""#);
            }
            if has_hints(method) && members.get("ttlMs").is_none() {
                missing.push(HINTS);
            }
            if missing.is_empty() { answer } else { insert(answer, result, &missing.join(",")) }
        }
        Ok(Envelope::Response { error: Some(error), .. }) => match code(&answer, error) {
            Some(at) if at.of(&answer) == NO_RESOURCE.0 => edited(answer, vec![(at, NO_RESOURCE.1.into())]),
            Some(_) | None => answer,
        },
        Ok(Envelope::Response { .. } | Envelope::Request { .. } | Envelope::Notification { .. }) | Err(_) => answer,
    }
}

/// The status with which an answer travels.
pub(crate) fn status(answer: &str) -> StatusCode {
    let Ok(Envelope::Response { error: Some(error), .. }) = Envelope::parse_trusted(answer) else {
        return StatusCode::OK;
    };
    match code(answer, error).map(|at| at.of(answer)) {
        Some("-32601") => StatusCode::NOT_FOUND,
        Some("-32020" | "-32021" | "-32022") => StatusCode::BAD_REQUEST,
        Some(_) | None => StatusCode::OK,
    }
}

fn code(answer: &str, error: Span) -> Option<Span> {
    Object::parse(answer, error).ok()?.get("code")
}

fn has_hints(method: &str) -> bool {
    matches!(method, "tools/list" | "prompts/list" | "resources/list" | "resources/templates/list" | "resources/read")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_added_and_nothing_else_changed() {
        let of = |answer: &str, method: &str| finished(answer.to_owned(), method);
        assert_eq!(
            of(r#"{"jsonrpc":"2.0","id":1,"result":{ "tools":[1.0]}}"#, "tools/list"),
            r#"{"jsonrpc":"2.0","id":1,"result":{"resultType":"complete","ttlMs":0,"cacheScope":"private", "tools":[1.0]}}"#
        );
        assert_eq!(
            of(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#, "tools/call"),
            r#"{"jsonrpc":"2.0","id":1,"result":{"resultType":"complete"}}"#
        );
        for same in [
            r#"{"jsonrpc":"2.0","id":1,"result":{"resultType":"input_required","requestState":"x"}}"#,
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32000,"message":"x"}}"#,
        ] {
            assert_eq!(of(same, "tools/call"), same);
        }
        let missing = r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32002,"message":"x"}}"#;
        assert_eq!(of(missing, "resources/read"), missing.replace("-32002", "-32602"));
    }

    #[test]
    fn some_errors_have_a_status() {
        let with = |code: i32| status(&format!(r#"{{"jsonrpc":"2.0","id":1,"error":{{"code":{code},"message":""}}}}"#));
        assert_eq!(
            (with(-32601), with(-32021), with(-32602)),
            (StatusCode::NOT_FOUND, StatusCode::BAD_REQUEST, StatusCode::OK)
        );
        assert_eq!(status(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#), StatusCode::OK);
    }
}
