//! The environment variables by which the processes of an instance recognise each other.

pub use linchpin_shared::process::OWNER;

use linchpin_shared::process::Identity;

/// Set in the environment of a program that must outlive the process that started it: the hub, and the keeper of an
/// instance. Nothing ends a program that carries it.
pub const DETACHED: &str = "LINCHPIN_DETACHED";

/// Set in the environment of an agent by its keeper, and in that of a keeper by the agent that it adopted. It names the
/// process that set it and counts only where that process is the parent: see [`keeper_mark`].
pub(crate) const KEEPER: &str = "LINCHPIN_KEEPER";

/// The name of the instance, in the environment of its processes.
pub(crate) const INSTANCE: &str = "LINCHPIN_INSTANCE";

/// The port that a process is asked to listen on.
pub(crate) const PORT: &str = "PORT";

/// The value of [`KEEPER`] that names this process.
pub(crate) fn keeper_mark(process: &Identity) -> String {
    format!("{}/{}", process.pid, process.start_ticks)
}
