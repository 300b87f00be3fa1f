//! Moves the clocks of a lab's processes while they run.
//!
//! All processes of the lab see the same moved clocks, through the file that `tests/preload/clock.c` reads. Monotonic
//! time and the clocks of the test itself are never moved.

use crate::lab::Lab;
use crate::preload;
use anyhow::{Context, Result};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;

/// The clocks of a lab's processes, all moved together.
#[derive(Debug)]
pub struct Clock {
    file: File,
    slept: i64,
}

impl Clock {
    /// Preloads the shim into everything that the lab starts from now on.
    ///
    /// # Errors
    /// If it cannot be built.
    pub fn in_lab(lab: Lab) -> Result<(Self, Lab)> {
        let library = preload::library("clock")?;
        let path = lab.dir().join("clock");
        std::fs::write(&path, [0; 16])?;
        let file = File::options().write(true).open(&path)?;
        let lab = lab.with("LD_PRELOAD", &library.to_string_lossy()).with("LAB_CLOCK", &path.to_string_lossy());
        Ok((Self { file, slept: 0 }, lab))
    }

    /// Simulates a sleep of the machine: boot time jumps, monotonic time does not.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn sleep(&mut self, time: Duration) -> Result<()> {
        self.slept += i64::try_from(time.as_nanos())?;
        Ok(self.file.write_all_at(&self.slept.to_ne_bytes(), 0)?)
    }

    /// Sets the time of day to this many seconds off the true one.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn time_of_day_off_by(&self, seconds: i64) -> Result<()> {
        let nanos = seconds.checked_mul(1_000_000_000).context("too far")?;
        Ok(self.file.write_all_at(&nanos.to_ne_bytes(), 8)?)
    }
}
