//! Agents at work: through each endpoint of the hub and through `linchpin mcp`, by hand and with real clients.

mod endpoints;
mod filter;
mod inspector;
mod mcpdo;
mod python;
mod shim;
mod stateless_shim;
mod tasks;
