//! Tests that run again in namespaces of their own, because they change the machine: what is mounted, how many files
//! may be watched, which pids are free, which users there are.
//!
//! Nothing of such a change is visible outside or outlives the test. Where the machine allows no such namespace the
//! test fails and says so.

use anyhow::{Context, Result, bail, ensure};
use std::path::Path;
use std::process::{Command, Stdio};

/// Set in a test that runs in a pid namespace of its own.
const IN_PID_NAMESPACE: &str = "LINCHPIN_TEST_PIDS";

/// What a test changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changes {
    /// What is mounted: root needs no user namespace for that.
    Mounts,
    /// How many files a user may watch, which is counted for each user namespace.
    Limits,
}

/// Runs an ignored test of this binary in namespaces in which it is root.
///
/// # Errors
/// If it fails, there is no such test, or there can be no such namespace.
pub fn within(changes: Changes, test: &str) -> Result<()> {
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
    // The mounts end with the namespace, and only then can the directories below them be removed.
    passes(command.env("TMPDIR", dir.path()), test).context("this test needs root or user namespaces")
}

/// Checks that this command runs exactly the test with this name, and that it passes.
fn passes(command: &mut Command, test: &str) -> Result<()> {
    let output = command.stdin(Stdio::null()).output().context("unshare (util-linux)")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{test} failed in namespaces of its own:\n{said}");
    // A test that is not found counts as success for the test program.
    ensure!(said.contains("1 passed"), "there is no test {test}:\n{said}");
    Ok(())
}

/// Runs a scenario in a pid namespace of its own, in which it may choose pids. Call it as the whole of a `#[test]` with
/// this name.
///
/// # Errors
/// The error of the scenario, or that there can be no such namespace.
pub fn with_own_pids(test: &str, scenario: impl AsyncFnOnce() -> Result<()>) -> Result<()> {
    if std::env::var_os(IN_PID_NAMESPACE).is_some() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        return runtime.block_on(scenario());
    }
    let unshare = |user: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(["--fork", "--kill-child", "--pid", "--mount-proc"]).args(user).arg("--");
        command
    };
    let mut refused = String::new();
    for user in [&[][..], &["--user", "--map-root-user"]] {
        let tried = unshare(user).args(["sh", "-c", "echo 100 > /proc/sys/kernel/ns_last_pid"]).output()?;
        if !tried.status.success() {
            refused.push_str(&String::from_utf8_lossy(&tried.stderr));
            continue;
        }
        let mut again = unshare(user);
        again.arg(std::env::current_exe()?).args([test, "--exact", "--nocapture"]).env(IN_PID_NAMESPACE, "1");
        return passes(&mut again, test);
    }
    bail!("no pid namespace can be had here, as root or in a user namespace: {refused}")
}

/// Whether this process may act as another user. If not, the test with this name has just run where it may.
///
/// # Errors
/// If that run failed.
pub fn may_be_another_user(test: &str) -> Result<bool> {
    if rustix::process::geteuid().is_root() {
        return Ok(true);
    }
    let mut again = Command::new("unshare");
    again.args(["--user", "--map-root-user", "--map-auto", "--"]).arg(std::env::current_exe()?);
    again.args(["--exact", test, "--nocapture"]);
    passes(&mut again, test)
        .context("this test needs a second uid: root, or unshare(1) with subordinate uids (/etc/subuid)")?;
    Ok(false)
}

/// Mounts a file system in memory.
///
/// # Errors
/// With what `mount` printed.
pub fn mount_tmpfs(at: &Path, options: &str) -> Result<()> {
    std::fs::create_dir_all(at)?;
    mount(&["-t", "tmpfs", "-o", &format!("mode=700,{options}"), "tmpfs"], at)
}

/// Runs `mount(8)` with these arguments at this place.
///
/// # Errors
/// With what it printed.
pub fn mount(arguments: &[&str], at: &Path) -> Result<()> {
    let output = Command::new("mount").args(arguments).arg(at).output().context("mount (util-linux)")?;
    ensure!(output.status.success(), "mount {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
