//! The agent: what `linchpin run` becomes. It supervises one process as one instance.
//!
//! Its life is plan → bind → register → start the process → serve → drain → stop the process → unregister. The record
//! exists for as long as any process of the tree does. Whatever an earlier run of this instance left behind is ended
//! before the process starts, and the process starts only when the name is ours: two of one project would disturb each
//! other.

mod launch_options;
mod options;
mod run;
mod services;
mod signals;
mod wiring;

pub use launch_options::LaunchOptions;
pub use options::{Kind, MAIN, PortChoice, RunOptions};
pub use run::{Ended, run};

pub(crate) use run::{TAKE_OVER_EXTRA, run_with_hooks};
pub(crate) use signals::Signals;
