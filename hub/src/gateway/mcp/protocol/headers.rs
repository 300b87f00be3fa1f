//! The HTTP headers of MCP 2026-07-28 that repeat what stands in the body, and how a value is written in one.

use super::errors::RpcError;
use http::HeaderMap;
use linchpin_shared::protocol::stateless::decoded;
pub(crate) use linchpin_shared::protocol::stateless::{METHOD, NAME, encoded};

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
