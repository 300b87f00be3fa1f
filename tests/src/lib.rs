//! The lab: real hubs, instances, MCP servers and agents in private homes, for the scenarios, the demo and the
//! benchmarks.
//!
//! [`lab::Lab`] is one private home and everything that was started in it; [`agent`] has the MCP clients; [`wait`]
//! waits for conditions. Beside them: [`kit`] knows where the pinned servers and clients are, [`clock`] moves clocks,
//! [`proxy`] and [`sim`] stand between and for instances, [`races`] drives the registry from many processes,
//! [`mutate`] makes random inputs and [`raw`] sends HTTP by hand.
//!
//! No wait is a sleep for luck: it has a condition and a bound, and its error tells the last state and the logs.

pub mod agent;
pub mod clock;
pub mod conformance;
pub mod echo;
pub mod kit;
pub mod lab;
pub mod large;
pub mod mutate;
pub mod preload;
pub mod proxy;
pub mod races;
pub mod raw;
pub mod sim;
pub mod wait;
