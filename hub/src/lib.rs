//! The hub: one process per user that finds instances, watches them, connects to them and routes requests to them.
//!
//! Imports point one way: `discovery` → `link` → `gateway` → `api`, put together by `daemon`; `http` serves what they
//! answer. `launcher` starts declared servers when they are first used. `network` and `recovery` stand beside the links
//! and only ask them to check themselves. `journal` keeps what must outlive the hub. Every fact has one owner, and everybody
//! else reads a watch.
//!
//! The command line is another crate, which uses the hub's HTTP interface. Of this crate it needs what is public here: the
//! way to run a hub in its own process, and [`render`].
#![expect(
    unreachable_pub,
    reason = "the rooms declare as `pub` what other rooms use; the interface of the crate is in this file"
)]
#![cfg_attr(not(feature = "internals"), expect(dead_code, reason = "some of it is there for tests and benchmarks"))]

mod api;
mod daemon;
pub mod declared;
mod discovery;
mod gateway;
mod health;
#[cfg(test)]
mod home_compatibility;
mod http;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod internals;
mod journal;
mod launcher;
mod link;
mod network;
mod recovery;
pub mod render;

pub use daemon::bind::preferred_port;
pub use daemon::{HubOptions, run};
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub use gateway::mcp::fuzz;
