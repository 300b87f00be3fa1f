//! The hub: finds instances, holds one connection to each, and offers them to agents, people and programs.

pub mod discovery;
pub mod gateway;
pub mod link;
