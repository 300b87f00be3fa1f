//! The MCP gateway: what agents call.
//!
//! Owns [`Gateway`]. Inside, everything that can be is pure: [`protocol::json`] and [`protocol::envelope`] (messages as text, edited in
//! place), [`catalog::naming`], [`protocol::template`], [`protocol::level`], [`protocol::sse`], [`session::id`], [`catalog`] (lists and the merged view). Around
//! them: [`session::client`] (the sessions of agents), [`upstream`] (one session with each server), [`upstream::pool`] (which servers
//! there are), [`relay::dispatch`] (what a request comes to), [`protocol::task_fields`] and [`transport::http`] (Streamable HTTP).
//! Invariant: messages are relayed as they are; only the fields that have to be are rewritten, in place. A server that
//! dies is a pause for its callers or a clear error, never a lost session and never a call made twice.
//! Never: knows how a link works inside.

mod buffers;
pub(crate) mod builtin;
mod catalog;
#[cfg(feature = "fuzzing")]
pub mod fuzz;
pub(crate) mod gateway;
mod metrics;
pub(crate) mod persister;
pub(crate) mod protocol;
pub(crate) mod relay;
pub(crate) mod session;
mod status;
pub(crate) mod transport;
mod upstream;

pub use builtin::HubApi;
pub use gateway::Gateway;
pub use session::id::SessionKey;
pub use status::{ServerStatus, SessionState};
pub use transport::http::routes;
