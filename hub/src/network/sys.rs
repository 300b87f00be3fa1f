//! The two clocks whose difference is sleep, read through libc.
//!
//! Owns [`read`]. Invariant: through libc's `clock_gettime`, which a preloaded shim can stand in for; rustix makes the
//! system call itself. Never: fails. A clock that the system does not have stands still, and then nothing ever slept.
#![expect(unsafe_code, reason = "libc has no safe clock_gettime")]

use super::heartbeat::Reading;
use std::time::Duration;

/// The clock that goes on while the machine sleeps. What Linux calls boot time is macOS's monotonic clock, and the one
/// that stops there is its raw uptime.
#[cfg(target_os = "macos")]
const CLOCKS: [libc::clockid_t; 2] = [libc::CLOCK_MONOTONIC, libc::CLOCK_UPTIME_RAW];
#[cfg(not(target_os = "macos"))]
const CLOCKS: [libc::clockid_t; 2] = [libc::CLOCK_BOOTTIME, libc::CLOCK_MONOTONIC];

/// Both clocks now.
pub(super) fn read() -> Reading {
    let [boot, monotonic] = CLOCKS.map(now);
    Reading { boot, monotonic }
}

fn now(clock: libc::clockid_t) -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a timespec that lives through the call, and any clock id may be asked for.
    let read = unsafe { libc::clock_gettime(clock, &raw mut time) };
    if read != 0 {
        return Duration::ZERO;
    }
    Duration::new(u64::try_from(time.tv_sec).unwrap_or_default(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clocks_go_on_and_boot_time_is_never_behind() {
        let (first, second) = (read(), read());
        assert!(second.boot >= first.boot && second.monotonic >= first.monotonic && first.boot > Duration::ZERO);
        // Read in this order, so boot time may be behind by the time between the two reads.
        assert!(first.boot + Duration::from_secs(1) >= first.monotonic);
    }
}
