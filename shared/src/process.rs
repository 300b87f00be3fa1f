//! Who a process is, whether it is alive, and signalling it without hitting another.
//!
//! Owns [`Identity`]: boot id, pid and start ticks, which together name one process for ever.
//! Invariant: a signal is sent only after the identity was checked again, through a pidfd where the kernel has them.
//! Never: acts on a pid alone, or takes a reused pid for the process that had it before.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Names one process for ever.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The process id.
    pub pid: u32,
    /// When it started, in clock ticks since boot (`/proc/PID/stat`, field 22).
    pub start_ticks: u64,
    /// Which boot of the machine (`/proc/sys/kernel/random/boot_id`).
    pub boot_id: String,
    /// Its executable, for people.
    pub executable: PathBuf,
}
