//! Every message between hub and instance, format 1.
//!
//! Owns the paths and JSON bodies of DESIGN 4.2. They travel over HTTP/2 without TLS on one loopback connection.
//! Invariant: [`hello`] comes first on every connection; before it is done an instance answers nothing else.
//! A reader ignores fields it does not know; a writer never changes the meaning of a field within a format.
//! Never: speaks HTTP itself, or lets hub and instance have a message type of their own.

pub mod hello;
pub mod mcp;
pub mod stateless;
pub mod vitals;

/// The format of every message here.
pub const FORMAT: u32 = 1;

/// The paths that an instance serves.
pub mod path {
    /// POST [`super::hello::Hello`], answered with [`super::hello::Welcome`].
    pub const HELLO: &str = "/.linchpin/hello";
    /// POST [`super::hello::Proof`] on the same connection, answered with 204.
    pub const PROVE: &str = "/.linchpin/prove";
    /// GET: one [`super::vitals::Vitals`]; with `?watch=1` one JSON line now and one at every change.
    pub const VITALS: &str = "/.linchpin/vitals";
    /// Followed by a server's name: its MCP endpoint, see [`super::mcp`].
    pub const MCP: &str = "/.linchpin/mcp/";
    /// Followed by `NAME/restart`: POST, answered with 202 when the restart has begun.
    pub const PROCESSES: &str = "/.linchpin/processes/";
    /// POST: stop all processes, unregister, end. Answered with 202 at once.
    pub const STOP: &str = "/.linchpin/stop";
}
