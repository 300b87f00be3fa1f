//! Tells the children that this process started from those that it adopted, and reaps the latter.
//!
//! As a child subreaper (prctl(2)) a process adopts all descendants whose parents end, so a program that daemonises
//! itself is still found and reaped. Children that we started are reaped by the code that started them. A lock makes
//! sure that a child which is just being started is not taken for an adopted one. Programs with
//! [`DETACHED`](crate::env::DETACHED) in their environment are left alone.

use crate::env::OWNER;
use crate::owner_mark::is_detached;
use crate::process_table::{self, ProcessEntry};
use parking_lot::Mutex;
use rustix::process::{Pid, WaitOptions, set_child_subreaper, waitpid};
use std::collections::BTreeSet;
use std::io;
use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// The pause between two searches for ended children, so that a storm of them is reaped in batches.
const REAP_PAUSE: Duration = Duration::from_millis(200);

/// Reaps adopted children that end. It runs until the process ends.
pub(crate) async fn reap_adopted(reaper: Arc<Reaper>) {
    let mut ended = match signal(SignalKind::child()) {
        Ok(ended) => ended,
        Err(error) => {
            tracing::warn!(%error, "cannot listen for SIGCHLD; adopted children that end stay zombies");
            return;
        }
    };
    while ended.recv().await.is_some() {
        let reaper = Arc::clone(&reaper);
        if let Err(error) = tokio::task::spawn_blocking(move || reaper.reap()).await {
            tracing::warn!(%error, "reaping adopted children failed");
        }
        tokio::time::sleep(REAP_PAUSE).await;
    }
}

/// The children of this process.
#[derive(Debug)]
pub(crate) struct Reaper {
    started: Mutex<BTreeSet<u32>>,
    adopts: bool,
}

impl Reaper {
    /// Makes this process a child subreaper. From then on all its children must be started with [`Reaper::start`].
    pub(crate) fn become_subreaper() -> Self {
        let adopts = set_child_subreaper(Some(rustix::process::getpid()));
        if let Err(error) = adopts {
            tracing::warn!(%error, "cannot become a child subreaper; programs that daemonise themselves are not found");
        }
        Self { started: Mutex::default(), adopts: adopts.is_ok() }
    }

    /// Starts a child and remembers it as our own.
    pub(crate) fn start(&self, command: &mut Command) -> io::Result<Child> {
        let mut started = self.started.lock();
        let child = command.spawn()?;
        started.insert(child.id());
        Ok(child)
    }

    /// Reaps a child that was started here and has ended.
    pub(crate) fn wait(&self, child: &mut Child) -> io::Result<ExitStatus> {
        let mut started = self.started.lock();
        let status = child.wait();
        started.remove(&child.id());
        status
    }

    /// Returns the living adopted children that carry the mark `owner`, or all without one. Detached ones are left out.
    /// A child without any mark belongs to every owner: the process that stops first ends it, rather than to leave it.
    pub(super) fn adopted(&self, table: &[ProcessEntry], owner: Option<&str>) -> Vec<u32> {
        let started = self.started.lock();
        let belongs = |pid: u32| match (owner, process_table::variable(pid, OWNER)) {
            (Some(owner), Some(marked)) => owner == marked,
            (None, _) | (_, None) => true,
        };
        let adopted = table.iter().filter(|entry| !entry.ended && self.is_adopted(entry, &started));
        adopted.map(|entry| entry.pid).filter(|pid| !is_detached(*pid) && belongs(*pid)).collect()
    }

    fn reap(&self) {
        let started = self.started.lock();
        let Ok(table) = process_table::read() else { return };
        for entry in table.iter().filter(|entry| entry.ended && self.is_adopted(entry, &started)) {
            let pid = i32::try_from(entry.pid).ok().and_then(Pid::from_raw);
            if let Err(error) = waitpid(pid, WaitOptions::NOHANG) {
                tracing::debug!(%error, pid = entry.pid, "cannot reap an adopted child");
            }
        }
    }

    fn is_adopted(&self, entry: &ProcessEntry, started: &BTreeSet<u32>) -> bool {
        self.adopts && entry.parent == std::process::id() && !started.contains(&entry.pid)
    }
}
