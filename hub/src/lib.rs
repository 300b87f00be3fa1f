//! The hub: one process per user that finds, watches, connects and routes; and the command line that talks to it.
//!
//! Owns the rooms of DESIGN section 2. Arrows run one way: [`discovery`] → [`link`] → [`gateway`] → [`api`], put together
//! by [`daemon`]; [`ondemand`] starts what is declared when it is used first; [`network`] and [`recovery`] stand beside links and only ask; [`journal`] keeps what has to outlive the
//! hub; [`cli`] stands outside and uses the hub's API only; `words` has how the API's answers look as text.
//! Invariant: every fact has one owner; everybody else reads a watch.

pub mod api;
pub mod cli;
pub mod daemon;
pub mod declared;
pub mod discovery;
pub mod gateway;
pub mod health;
#[cfg(test)]
mod home_compatibility;
pub mod journal;
pub mod link;
pub mod network;
pub mod ondemand;
pub mod recovery;
pub mod table;
mod words;
