//! Cleans up after a lab whose process was killed: `lab-reaper MARK DIRECTORY`.
//!
//! It waits until its standard input closes, which the kernel does when the process of the lab ends in any way, then
//! ends every process that carries the mark and removes the directory of the lab. It touches nothing else.

use anyhow::{Context, Result};
use linchpin_tests::lab::leftovers::Mark;
use std::io::Read;
use std::path::PathBuf;

/// Rounds of 10 ms within which everything must end.
const ROUNDS: u32 = 1000;

fn main() -> Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let mark = arguments.next().and_then(|mark| mark.into_string().ok()).context("no mark")?;
    let dir = PathBuf::from(arguments.next().context("no directory")?);
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Mark::new(mark).end_all(ROUNDS)?;
    if dir.exists() {
        std::fs::remove_dir_all(&dir)?;
    }
    Ok(())
}
