//! The hub's connections to its instances, one persistent connection to each.
//!
//! [`Links`] has one link for each instance that discovery shows and for each declared server, from the first time that
//! it is seen until it has been gone for a while. A link is an actor: `machine` decides without input or output, `actor`
//! acts, `dial` connects and verifies the peer, `classify` names failures, and other rooms use a [`LinkHandle`].
//!
//! While an instance is not proven gone, its link is connected or about to dial. A restarted instance keeps its link, its
//! handle and its history. No other room owns connection state, and a link does not conclude from time alone that an
//! instance is gone.

mod activity;
mod actor;
mod body;
mod classify;
mod common;
mod config;
mod dial;
mod error;
pub mod failure;
mod handle;
mod http1;
mod inbox;
mod launcher;
mod limiter;
mod links;
mod machine;
mod manager;
mod metrics;
mod probe;
mod request_sender;
mod status;
mod tcp;
#[cfg(test)]
mod tests;
mod vitals;

pub use body::{Body, BoxError};
pub use error::SendError;
pub use handle::{LinkHandle, ResponseBody};
pub use launcher::{DeclaredServer, DeclaredServers, LaunchState, Launcher};
pub use links::Links;
#[cfg(test)]
pub(crate) use status::{BreakerStatus, ConnectionStatus};
pub use status::{LinkState, LinkStatus};
