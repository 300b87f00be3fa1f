//! MCP servers behind an instance, each as a Streamable HTTP endpoint (MCP 2025-11-25, "Transports").
//!
//! A server is reached through the standard input and output of a supervised process ([`stdio`]) or at a URL
//! ([`proxy`]). Messages are passed on as the bytes that arrived; of each, only what routing needs is parsed. A failed
//! request is reported as not executed only when the server certainly saw nothing of it, and a request that may have
//! been executed is never repeated. Tools, prompts and resources are not interpreted here.

#[cfg(feature = "fuzzing")]
pub mod fuzz;
pub(crate) mod proxy;
mod request;
#[cfg(feature = "supervisor")]
pub(crate) mod stdio;

pub(crate) use request::ServerName;
