//! The clocks of a lab's processes, moved while they run.
//!
//! Owns [`Clock`] and the file that `tests/preload/clock.c` reads. Invariant: all processes of the lab see the same moved
//! clocks; monotonic time is never moved. Never: moves a clock of the test itself.

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
    /// When it cannot be built.
    pub fn in_lab(lab: Lab) -> Result<(Self, Lab)> {
        let library = preload::library("clock")?;
        let path = lab.dir().join("clock");
        std::fs::write(&path, [0; 16])?;
        let file = File::options().write(true).open(&path)?;
        let lab = lab.with("LD_PRELOAD", &library.to_string_lossy()).with("LAB_CLOCK", &path.to_string_lossy());
        Ok((Self { file, slept: 0 }, lab))
    }

    /// Lets the machine have slept for so long: boot time jumps, monotonic time does not.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn sleep(&mut self, time: Duration) -> Result<()> {
        self.slept += i64::try_from(time.as_nanos())?;
        Ok(self.file.write_all_at(&self.slept.to_ne_bytes(), 0)?)
    }

    /// Sets the time of day so many seconds off the true one.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn time_of_day_off_by(&self, seconds: i64) -> Result<()> {
        let nanos = seconds.checked_mul(1_000_000_000).context("too far")?;
        Ok(self.file.write_all_at(&nanos.to_ne_bytes(), 8)?)
    }
}
