//! Which children this process started itself, and which came to it.
//!
//! Owns the distinction. As a child subreaper (prctl(2)) a process becomes the parent of all descendants whose parents
//! end, so that a program which daemonised itself is still found and waited for.
//! Invariant: only children that came to us are waited for here; those that we started are waited for by who started
//! them. Starting and looking exclude each other, so neither can be taken for the other.
//! Never: touches a program that left on purpose: one with [`super::DETACHED`] in its environment.

use super::mark::{OWNER, left_on_purpose};
use super::table::{self, Entry};
use parking_lot::Mutex;
use rustix::process::{Pid, WaitOptions, set_child_subreaper, waitpid};
use std::collections::BTreeSet;
use std::io;
use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// How long to wait between two looks at children that ended: a storm of them is reaped in bundles.
const PAUSE: Duration = Duration::from_millis(200);

/// Waits for the children that come to this process and end, for ever.
pub(crate) async fn collect(reaper: Arc<Reaper>) {
    let mut ended = match signal(SignalKind::child()) {
        Ok(ended) => ended,
        Err(error) => {
            tracing::warn!(%error, "cannot listen for SIGCHLD; ended children that came to us stay listed");
            return;
        }
    };
    while ended.recv().await.is_some() {
        let reaper = Arc::clone(&reaper);
        if let Err(error) = tokio::task::spawn_blocking(move || reaper.collect()).await {
            tracing::warn!(%error, "collecting ended children failed");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The children of this process.
#[derive(Debug)]
pub(crate) struct Reaper {
    started: Mutex<BTreeSet<u32>>,
    adopts: bool,
}

impl Reaper {
    /// Makes this process a child subreaper. From then on it must start all its children through this.
    pub(crate) fn adopting() -> Self {
        let adopts = set_child_subreaper(Some(rustix::process::getpid()));
        if let Err(error) = adopts {
            tracing::warn!(%error, "cannot become a child subreaper; programs that daemonise themselves will be missed");
        }
        Self { started: Mutex::default(), adopts: adopts.is_ok() }
    }

    /// Starts a child.
    pub(crate) fn start(&self, command: &mut Command) -> io::Result<Child> {
        let mut started = self.started.lock();
        let child = command.spawn()?;
        started.insert(child.id());
        Ok(child)
    }

    /// Waits for a child that was started here and has ended.
    pub(crate) fn wait(&self, child: &mut Child) -> io::Result<ExitStatus> {
        let mut started = self.started.lock();
        let status = child.wait();
        started.remove(&child.id());
        status
    }

    /// The living children that came to us and belong to `owner`; without one, all. Those that left on purpose belong
    /// to nobody, and one that carries no mark is ended by whoever stops first: better than to leave it.
    pub(super) fn strays(&self, table: &[Entry], owner: Option<&str>) -> Vec<u32> {
        let started = self.started.lock();
        let belongs = |pid: u32| match (owner, table::variable(pid, OWNER)) {
            (Some(owner), Some(marked)) => owner == marked,
            (None, _) | (_, None) => true,
        };
        let came = table.iter().filter(|entry| !entry.ended && self.came(entry, &started));
        came.map(|entry| entry.pid).filter(|pid| !left_on_purpose(*pid) && belongs(*pid)).collect()
    }

    /// Waits for the children that came to us and have ended.
    pub(crate) fn collect(&self) {
        let started = self.started.lock();
        let Ok(table) = table::read() else { return };
        for entry in table.iter().filter(|entry| entry.ended && self.came(entry, &started)) {
            let pid = i32::try_from(entry.pid).ok().and_then(Pid::from_raw);
            if let Err(error) = waitpid(pid, WaitOptions::NOHANG) {
                tracing::debug!(%error, pid = entry.pid, "cannot wait for a child that came to us");
            }
        }
    }

    fn came(&self, entry: &Entry, started: &BTreeSet<u32>) -> bool {
        self.adopts && entry.parent == std::process::id() && !started.contains(&entry.pid)
    }
}
