//! (docs)

pub(crate) mod builtin;
pub(crate) mod call;
mod call_outcome;
pub(crate) mod discover;
pub(crate) mod dispatch;
pub(crate) mod follow_tasks;
pub(crate) mod forward;
pub(crate) mod initialize;
pub(crate) mod input_rounds;
pub(crate) mod list;
pub(crate) mod resources;
pub(crate) mod route;
pub(crate) mod tasks;
pub(crate) mod tool;
