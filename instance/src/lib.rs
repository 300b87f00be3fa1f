//! A program, or a process that it supervises, as a Linchpin instance.
//!
//! There are two ways to be one. As a library, [`Instance`] makes a program known to the hub in two calls. The agent
//! that `linchpin run` becomes (feature `supervisor`) supervises a command, keeps its output and, with the feature
//! `mcp`, serves its MCP server; with `--detach`, a keeper restarts the agent when it dies.
//!
//! An instance listens before it registers, and it stays registered for as long as anything of it runs. It never looks
//! for the hub: the hub finds instances in the registry and connects to them.
//!
//! # Features
//!
//! None is on by default: that is what a program needs which embeds the library.
//!
//! - `supervisor`: the agent, the keeper, `linchpin register`, and the clean-up of processes that a killed agent left.
//! - `mcp`: MCP servers, behind a URL or, with `supervisor`, behind the standard input and output of a process.
//! - `tls`: MCP servers at `https://` URLs; includes `mcp`.
//! - `fuzzing`: the parsers of untrusted bytes, for the fuzz targets.
//!
//! ```no_run
//! # async fn example() -> Result<(), linchpin_shared::problem::Problem> {
//! let instance = linchpin_instance::Instance::builder("shop").service("web", "http://127.0.0.1:5173").start().await?;
//! // … the program's own work …
//! instance.stop().await?;
//! # Ok(())
//! # }
//! ```
#![cfg_attr(
    not(all(feature = "supervisor", feature = "mcp")),
    expect(dead_code, reason = "some helpers serve only these features; with both of them, nothing may be unused")
)]

#[cfg(feature = "supervisor")]
pub mod agent;
mod conflict;
pub mod connection_slots;
mod embed;
pub mod env;
#[cfg(feature = "supervisor")]
pub mod external;
#[cfg(feature = "supervisor")]
pub mod keeper;
#[cfg(feature = "supervisor")]
pub mod leftovers;
mod lifecycle;
#[cfg(feature = "mcp")]
mod mcp;
mod owner_mark;
mod process_table;
mod registrar;
mod respond;
mod server;
#[cfg(feature = "supervisor")]
mod supervisor;
mod vitals_publisher;

pub use conflict::Conflict;
pub use embed::{Builder, Instance};
#[cfg(feature = "fuzzing")]
pub use mcp::fuzz;
