//! How MCP travels between hub and instance.
//!
//! Owns the rule: each server of an instance is a Streamable HTTP endpoint (MCP 2025-11-25, "Transports") at
//! [`super::path::MCP`]`<server>` on the link, whatever stands behind it. The instance turns a stdio child into such an
//! endpoint and passes a server with a URL through; so the hub has one kind of upstream.
//! Where MCP leaves a gap, the instance says with [`NOT_EXECUTED`] whether a failed request surely had no effect.
//! Never: interprets tools, prompts or resources.

/// The header of the session, as MCP has it.
pub const SESSION: &str = "mcp-session-id";
/// The header of the negotiated version, as MCP has it.
pub const VERSION: &str = "mcp-protocol-version";
/// On an error answer of the instance: `1` when the server surely saw nothing of the request, so it may be repeated.
pub const NOT_EXECUTED: &str = "linchpin-not-executed";
/// On a request to the hub: its client speaks over stdio, where arguments are not repeated in headers.
pub const OVER_STDIO: &str = "linchpin-over-stdio";
/// On a request: how long, in milliseconds, the instance may wait for a server that is starting.
pub const WAIT_MS: &str = "linchpin-wait-ms";
