//! What an instance serves on its endpoint: HTTP/2 without TLS on a loopback port that the system chooses.
//!
//! Until the peer of a connection has proved that it knows the record's secret, it gets nothing but the hello exchange,
//! and only for a limited time; strangers that hold connections open cannot lock a hub out. When the server closes,
//! peers get a GOAWAY and some time, so no response is cut off.

mod listener;
pub(crate) mod middleware;
mod routes;
pub(crate) mod state;
mod verification;

pub(crate) use listener::{Server, bind};
pub(crate) use state::ServerState;
