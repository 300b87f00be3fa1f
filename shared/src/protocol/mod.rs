//! The messages between hub and instance, format 1.
//!
//! They travel over HTTP/2 without TLS on one loopback connection; the section "Hub and instance" of `ARCHITECTURE.md`
//! describes them. [`hello`] comes first on every connection, and an instance answers nothing else before it is complete.
//! A reader ignores unknown fields, and a writer does not change the meaning of a field within a format. Hub and instance
//! have no message types of their own.

pub mod hello;
pub mod mcp;
pub mod stateless;
pub mod vitals;

/// The format of all messages in this module.
pub const FORMAT: u32 = 1;

/// The paths that an instance serves.
pub mod path {
    /// POST of a [`super::hello::Hello`]. The response is a [`super::hello::Welcome`].
    pub const HELLO: &str = "/.linchpin/hello";
    /// POST of a [`super::hello::Proof`] on the same connection. The response has status 204.
    pub const PROVE: &str = "/.linchpin/prove";
    /// GET of the [`super::vitals::Vitals`]. With `?watch=1`, one JSON line at once and one at every change.
    pub const VITALS: &str = "/.linchpin/vitals";
    /// The prefix of the MCP endpoints, which the name of a server follows. See [`super::mcp`].
    pub const MCP: &str = "/.linchpin/mcp/";
    /// The prefix of `NAME/restart`, whose POST restarts a process. The response has status 202 when the restart has begun.
    pub const PROCESSES: &str = "/.linchpin/processes/";
    /// POST that makes the instance stop all processes, unregister and end. The response has status 202 and comes at once.
    pub const STOP: &str = "/.linchpin/stop";
}
