//! The lab: real hubs, instances, MCP servers and agents in private homes, for the scenarios, the demo and the bench.
//!
//! Owns [`lab::Lab`] (one private home and everything that was started in it), [`agent`] (MCP clients written by hand,
//! so that no SDK hides what travels), [`kit`] (where the pinned servers and clients are), [`clock`] (clocks that a test
//! moves), [`mutate`] (bytes that nobody chose), [`raw`] (HTTP by hand) and [`wait`].
//! Invariant: whatever a lab started, directly or through its children, ends with it, also when the test is killed;
//! and nothing else is ever signalled. Labs know nothing of each other and run side by side.
//! Never: sleeps for luck. A wait has a condition, a bound, and tells the last state and the logs when it fails.

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
