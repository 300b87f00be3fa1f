//! An MCP server on the standard input and output of a supervised process.
//!
//! [`StdioAttachment`] is the supervisor's side: it starts a [`server_run`] on the pipes of each run of the process.
//! `StdioEndpoint` is the hub's side: it answers HTTP requests with what the current run says. An MCP session lasts
//! exactly as long as one run.

mod attach;
mod endpoint;
mod initialize;
pub(super) mod line_buffer;
pub(super) mod message;
mod message_router;
mod server_run;

pub(crate) use attach::StdioAttachment;
