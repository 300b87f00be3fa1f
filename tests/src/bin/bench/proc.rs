//! CPU time and memory of a process, from `/proc/PID`, so that the measurement does not disturb the process.

use anyhow::{Context, Result};
use std::time::Duration;

/// The ticks of `/proc/PID/stat` per second: Linux always reports 100.
const USER_HZ: u64 = 100;

/// The CPU time that a process has used (`/proc/PID/stat`, fields 14 and 15).
pub(crate) fn cpu(pid: u32) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields = stat.rsplit_once(") ").context("no command")?.1.split(' ').skip(11).take(2);
    let ticks: u64 = fields.map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    Ok(Duration::from_millis(ticks * 1000 / USER_HZ))
}

/// The current memory of a process.
pub(crate) fn resident_mib(pid: u32) -> Result<f64> {
    field_mib(pid, "VmRSS:")
}

/// Its peak memory since [`forget_peak`].
pub(crate) fn peak_mib(pid: u32) -> Result<f64> {
    field_mib(pid, "VmHWM:")
}

/// Resets the peak (proc(5), `clear_refs`).
pub(crate) fn forget_peak(pid: u32) -> Result<()> {
    std::fs::write(format!("/proc/{pid}/clear_refs"), "5").context("the peak of a process cannot be reset")
}

fn field_mib(pid: u32, field: &str) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)).with_context(|| format!("no {field}"))?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib / 1024.0)
}
