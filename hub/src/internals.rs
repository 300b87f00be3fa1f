//! What the hub's own tests and benchmarks use. It is no part of the crate's interface and may change at any time.

pub use crate::api::{ApiParts, ApiState, routes};
pub use crate::discovery::Discovery;
pub use crate::gateway::mcp::{Gateway, SessionKey, SessionState, routes as mcp_routes};
pub use crate::http::guard::Guard;
pub use crate::journal::Journal;
pub use crate::link::{Body, LinkHandle, Links};
pub use crate::network::Network;
pub use crate::recovery::Recovery;
