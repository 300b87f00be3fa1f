//! A program, or a process that it supervises, as a Linchpin instance.
//!
//! Owns both ways to be one. As a library, [`Instance`] makes a program known to the hub in two calls. As the
//! [`agent`] that `linchpin run` becomes, it supervises a command, keeps its output and fronts its MCP server; with
//! `--detach`, a [`keeper`] starts the agent again when it dies.
//! Invariant: an instance listens before it is registered, and is registered for as long as anything of it runs.
//! Never: looks for the hub. The hub finds instances by the registry and comes to them.
//!
//! ```no_run
//! # async fn example() -> Result<(), linchpin_shared::problem::Problem> {
//! let instance = linchpin_instance::Instance::builder("shop").service("web", "http://127.0.0.1:5173").start().await?;
//! // … the program's own work …
//! instance.stop().await?;
//! # Ok(())
//! # }
//! ```

pub mod agent;
mod board;
mod conflict;
mod embed;
pub mod foreign;
pub mod keeper;
pub mod leftovers;
mod mcp;
mod presence;
mod registrar;
mod respond;
pub mod seats;
mod server;
mod supervisor;

pub use conflict::Conflict;
pub use embed::{Builder, Instance};
#[doc(hidden)]
pub use mcp::fuzz;
pub use supervisor::{DETACHED, OWNER};
