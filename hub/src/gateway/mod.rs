//! What agents and browsers call.

pub mod mcp;
