//! A program of the lab that keeps running: a hub, an instance, a server.
//!
//! Signals go to a process identity, and `kill_9` returns only when the process is gone. The children of the program
//! are not ended here: that is what the product must do.

use anyhow::{Context, Result, ensure};
use linchpin_shared::process::{Identity, Signal};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::process::{Child, Command};

/// How long the kernel may take to end a process.
const KILL_WITHIN: Duration = Duration::from_secs(5);

/// A program of the lab that keeps running.
#[derive(Debug)]
pub struct Running {
    child: Child,
    identity: Identity,
    output: PathBuf,
}

impl Running {
    /// Starts it in a process group of its own, with both streams in `output`.
    ///
    /// # Errors
    /// If it cannot be started or has ended already.
    pub fn start(mut command: Command, output: PathBuf) -> Result<Self> {
        let file = std::fs::File::options().create(true).append(true).open(&output)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {:?}", command.as_std()))?;
        let identity = Identity::of(child.id().context("it was reaped already")?);
        let identity = identity.with_context(|| {
            let said = std::fs::read_to_string(&output).unwrap_or_default();
            format!("{:?} ended at once: {said}", command.as_std())
        })?;
        Ok(Self { child, identity, output })
    }

    /// Its process identity.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Its pid.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.identity.pid
    }

    /// What it printed so far.
    #[must_use]
    pub fn printed(&self) -> String {
        std::fs::read_to_string(&self.output).unwrap_or_default()
    }

    /// The file that takes its output.
    #[must_use]
    pub fn output(&self) -> &Path {
        &self.output
    }

    /// How it ended, if it did.
    ///
    /// # Errors
    /// If the system call fails.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Ends it with SIGKILL and waits until it is gone.
    ///
    /// # Errors
    /// If it had ended before.
    pub async fn kill_9(&mut self) -> Result<()> {
        ensure!(self.identity.signal(Signal::KILL)?, "it had ended before: {}", self.printed());
        self.exit(KILL_WITHIN).await.map(|_| ())
    }

    /// Asks it to end, as a terminal or a service manager would.
    ///
    /// # Errors
    /// If it cannot be signalled.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        ensure!(self.identity.signal(signal)?, "it had ended before: {}", self.printed());
        Ok(())
    }

    /// Waits until it ends.
    ///
    /// # Errors
    /// If it does not; with what it printed.
    pub async fn exit(&mut self, within: Duration) -> Result<ExitStatus> {
        let ended = tokio::time::timeout(within, self.child.wait()).await;
        Ok(ended.with_context(|| format!("{} did not end within {within:?}: {}", self.pid(), self.printed()))??)
    }
}

/// Kills a process of the lab, for example one that `status` shows, and waits until it is gone.
///
/// # Errors
/// If it does not exist, or does not end in time.
pub async fn kill_9(pid: u32) -> Result<()> {
    let identity = Identity::of(pid).with_context(|| format!("there is no process {pid}"))?;
    ensure!(identity.signal(Signal::KILL)?, "process {pid} had ended before");
    gone(&identity, KILL_WITHIN).await
}

/// Waits until a process is gone.
///
/// # Errors
/// If it still runs at the end of the wait.
pub async fn gone(identity: &Identity, within: Duration) -> Result<()> {
    crate::wait::until("a process ends", within, async || {
        ensure!(!identity.is_alive(), "{} still runs", identity.pid);
        Ok(())
    })
    .await
}

/// Whether a process handles a signal; before it does, the signal ends it.
///
/// # Errors
/// If there is no such process.
pub fn catches(pid: u32, signal: Signal) -> Result<bool> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).context("no signals")?;
    Ok(u64::from_str_radix(caught.trim(), 16)? & (1 << (signal.as_raw() - 1)) != 0)
}

/// The peak memory of a process so far, in bytes (`VmHWM`).
///
/// # Errors
/// If there is no such process.
pub fn peak_memory(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
    Ok(peak.context("no VmHWM")?.trim().parse::<u64>()? << 10)
}
