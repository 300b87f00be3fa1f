//! Tests that change the machine: what is mounted, and how many files may be watched.
//!
//! Owns running such a test in namespaces of its own, as this binary again. Invariant: nothing of it is seen outside or
//! outlives it; where there can be no such namespaces the test fails and says so.

use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::process::{Command, Stdio};

/// What the test changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Changes {
    /// What is mounted: root needs no user namespace for that.
    Mounts,
    /// How many files a user may watch: that is counted for each user namespace.
    Limits,
}

/// Runs an ignored test of this binary in namespaces where it is root.
pub(crate) fn within(changes: Changes, test: &str) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut command = Command::new("unshare");
    if changes == Changes::Mounts {
        command.arg("--mount");
    }
    if changes == Changes::Limits || !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.arg("--").arg(std::env::current_exe()?);
    command.args(["--exact", test, "--ignored", "--nocapture", "--test-threads=1"]);
    // What is mounted in there is gone when it has ended, and then its directories can be removed.
    let output = command.env("TMPDIR", dir.path()).stdin(Stdio::null()).output().context("unshare (util-linux)")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{test} in namespaces of its own (needs root or user namespaces):\n{said}");
    ensure!(said.contains("1 passed"), "there is no test {test}:\n{said}");
    Ok(())
}

/// Mounts a file system in memory.
pub(crate) fn mount_tmpfs(at: &Path, options: &str) -> Result<()> {
    std::fs::create_dir_all(at)?;
    mount(&["-t", "tmpfs", "-o", &format!("mode=700,{options}"), "tmpfs"], at)
}

/// `mount(8)` with these arguments at this place.
pub(crate) fn mount(arguments: &[&str], at: &Path) -> Result<()> {
    let output = Command::new("mount").args(arguments).arg(at).output().context("mount (util-linux)")?;
    ensure!(output.status.success(), "mount {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
