//! The HTTP headers of MCP 2026-07-28 that repeat what stands in the body, and how a value is written in one.

use super::errors::RpcError;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use std::borrow::Cow;

/// The header of the method.
pub(crate) const METHOD: &str = "mcp-method";

/// The header of what the method is about.
pub(crate) const NAME: &str = "mcp-name";

/// The prefix of the headers that repeat arguments of a tool (`x-mcp-header`).
pub(crate) const PARAM_PREFIX: &str = "mcp-param-";

/// The headers of a request that repeat arguments of a tool.
pub(crate) fn params(headers: &HeaderMap) -> HeaderMap {
    let params = headers.iter().filter(|(name, _)| name.as_str().starts_with(PARAM_PREFIX));
    params.map(|(name, value)| (name.clone(), value.clone())).collect()
}

pub(super) fn same(headers: &HeaderMap, name: &str, body: &str) -> Result<(), RpcError> {
    match header(headers, name) {
        Some(said) if decoded(said) == body => Ok(()),
        Some(said) => Err(RpcError::header_mismatch(&format!("the header {name} says {said:?}, the body {body:?}"))),
        None => Err(RpcError::header_mismatch(&format!("the header {name} is missing, the body says {body:?}"))),
    }
}

pub(super) fn header<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim)
}

/// What a header says; a value that is no header value travels as `=?base64?…?=`.
fn decoded(said: &str) -> Cow<'_, str> {
    let plain = || Cow::Borrowed(said);
    let Some(encoded) = said.strip_prefix("=?base64?").and_then(|rest| rest.strip_suffix("?=")) else { return plain() };
    let text = STANDARD.decode(encoded).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    text.map_or_else(plain, Cow::Owned)
}

/// A value as it travels in a header.
pub(crate) fn encoded(value: &str) -> Cow<'_, str> {
    let plain = value.bytes().all(|byte| matches!(byte, b' '..=b'~')) && value.trim() == value;
    if plain && !(value.starts_with("=?base64?") && value.ends_with("?=")) {
        return Cow::Borrowed(value);
    }
    Cow::Owned(format!("=?base64?{}?=", STANDARD.encode(value)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_travels_in_a_header_reads_back(value in ".*") {
            let encoded = encoded(&value);
            prop_assert!(http::HeaderValue::from_str(&encoded).is_ok());
            prop_assert_eq!(&*decoded(&encoded), &value);
        }
    }
}
