//! Supervised processes: started, watched, restarted, and stopped as whole trees.
//!
//! [`Process`] is the handle of one process. Behind it, one [`actor`] owns everything about the process; others read
//! its state and request restarts. [`restart_policy`] decides; [`child`] and [`tree`] act. A process is `Ended` only
//! when its whole tree is gone, and it is never started a second time while a previous run of it is left.

mod actor;
pub(crate) mod assigned_port;
pub(crate) mod child;
pub(crate) mod output;
mod port_watch;
mod process;
pub(crate) mod reaper;
pub(crate) mod restart_policy;
pub(crate) mod spec;
pub(crate) mod tree;

pub(crate) use process::Process;
pub(crate) use spec::{Spec, SupervisorContext, Wiring};
