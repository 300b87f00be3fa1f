//! The headers with which MCP travels between hub and instance.
//!
//! Each server of an instance is a Streamable HTTP endpoint (MCP 2025-11-25, "Transports") at
//! [`super::path::MCP`]`<server>` on the link. The instance offers a stdio child as such an endpoint, and relays to a
//! server with a URL, so the hub has only one kind of upstream. MCP does not say whether a failed request had an effect,
//! so the instance says it with [`NOT_EXECUTED`].

/// The header of MCP with the session id.
pub const SESSION: &str = "mcp-session-id";
/// The header of MCP with the negotiated protocol version.
pub const VERSION: &str = "mcp-protocol-version";
/// A header of error responses of an instance. It is `1` if the server certainly did not receive the request, so that the
/// request may be repeated.
pub const NOT_EXECUTED: &str = "linchpin-not-executed";
/// A header of requests to the hub whose client uses stdio, where arguments are not repeated in headers.
pub const OVER_STDIO: &str = "linchpin-over-stdio";
/// A header of requests: how long the instance may wait for a server that is starting, in milliseconds.
pub const WAIT_MS: &str = "linchpin-wait-ms";
