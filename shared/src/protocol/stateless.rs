//! The headers that a stateless MCP request (2026-07-28) has over HTTP.
//!
//! Over HTTP such a request repeats its version, its method and what the method is about in headers. A message that was
//! read from a pipe has none, so the program that forwards it to the hub adds them. The hub checks them against the body.

use super::mcp;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// The header that repeats the method.
pub const METHOD: &str = "mcp-method";

/// The header that repeats the name, URI or task id that the request is about.
pub const NAME: &str = "mcp-name";

/// The member of `_meta` that has the protocol version.
pub const META_VERSION: &str = "io.modelcontextprotocol/protocolVersion";

#[derive(Deserialize)]
struct Message<'m> {
    #[serde(borrow)]
    jsonrpc: &'m RawValue,
    #[serde(borrow)]
    method: Cow<'m, str>,
    #[serde(borrow)]
    params: &'m RawValue,
}

#[derive(Deserialize)]
struct Params<'m> {
    #[serde(borrow, rename = "_meta")]
    meta: &'m RawValue,
    #[serde(borrow, default)]
    name: Option<&'m RawValue>,
    #[serde(borrow, default)]
    uri: Option<&'m RawValue>,
    #[serde(borrow, default, rename = "taskId")]
    task_id: Option<&'m RawValue>,
}

#[derive(Deserialize)]
struct Meta<'m> {
    #[serde(borrow, rename = "io.modelcontextprotocol/protocolVersion")]
    version: Cow<'m, str>,
}

/// Returns the member of the parameters that [`NAME`] repeats for this method, if there is one.
#[must_use]
pub fn subject(method: &str) -> Option<&'static str> {
    match method {
        "tools/call" | "prompts/get" => Some("name"),
        "resources/read" => Some("uri"),
        "tasks/get" | "tasks/update" | "tasks/cancel" => Some("taskId"),
        _ => None,
    }
}

/// Returns the headers with which a message that was read from a pipe continues over HTTP; `None` if it belongs to a
/// session, or is not a message at all.
#[must_use]
pub fn headers(message: &[u8]) -> Option<Vec<(&'static str, String)>> {
    let text = std::str::from_utf8(message).ok()?;
    // For most messages of a session this check is enough. A slash may be written with an escape before it.
    if !text.contains("/protocolVersion") {
        return None;
    }
    let Message { jsonrpc, method, params } = object(text)?;
    if jsonrpc.get() != "\"2.0\"" {
        return None;
    }
    let params: Params<'_> = object(params.get())?;
    let Meta { version } = object(params.meta.get())?;
    let subject = match subject(&method) {
        Some("name") => params.name,
        Some("uri") => params.uri,
        Some("taskId") => params.task_id,
        Some(_) | None => None,
    };
    let subject: Option<String> = subject.and_then(|subject| serde_json::from_str(subject.get()).ok());
    let mut headers = vec![(mcp::OVER_STDIO, String::from("1"))];
    headers.push((mcp::VERSION, encoded(&version).into_owned()));
    headers.push((METHOD, encoded(&method).into_owned()));
    headers.extend(subject.map(|subject| (NAME, encoded(&subject).into_owned())));
    Some(headers)
}

/// Reads an object. Serde alone would also read a struct from an array.
fn object<'m, T: Deserialize<'m>>(json: &'m str) -> Option<T> {
    if json.trim_start().starts_with('{') { serde_json::from_str(json).ok() } else { None }
}

/// Returns a value in the form in which a header can have it; what is not a valid header value becomes `=?base64?…?=`.
#[must_use]
pub fn encoded(value: &str) -> Cow<'_, str> {
    let plain = value.bytes().all(|byte| matches!(byte, b' '..=b'~')) && value.trim() == value;
    if plain && !(value.starts_with("=?base64?") && value.ends_with("?=")) {
        return Cow::Borrowed(value);
    }
    Cow::Owned(format!("=?base64?{}?=", STANDARD.encode(value)))
}

/// Returns what [`encoded`] was given.
#[must_use]
pub fn decoded(header: &str) -> Cow<'_, str> {
    let plain = || Cow::Borrowed(header);
    let Some(encoded) = header.strip_prefix("=?base64?").and_then(|rest| rest.strip_suffix("?=")) else {
        return plain();
    };
    let text = STANDARD.decode(encoded).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    text.map_or_else(plain, Cow::Owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_a_stateless_message_has_headers() {
        let call = r#"{"jsonrpc":"2.0","id":1,"method":"tools\/call","params":{"name":"ä","_meta":{"io.modelcontextprotocol\/protocolVersion":"2026-07-28"}}}"#;
        let expected =
            [(mcp::OVER_STDIO, "1"), (mcp::VERSION, "2026-07-28"), (METHOD, "tools/call"), (NAME, "=?base64?w6Q=?=")];
        assert_eq!(headers(call.as_bytes()).unwrap(), expected.map(|(name, value)| (name, value.to_owned())));
        for other in [
            r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25"}}"#,
            r#"{"/protocolVersion":1}"#,
            r#"["2.0","x",{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}]"#,
            r#"{"jsonrpc":"1.0","method":"x","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"1"}}}"#,
            "x",
        ] {
            assert_eq!(headers(other.as_bytes()), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn an_encoded_value_is_decoded_again(value in ".*") {
            let header = encoded(&value);
            prop_assert!(header.bytes().all(|byte| matches!(byte, b' '..=b'~')));
            prop_assert_eq!(&*decoded(&header), &value);
        }
    }
}
