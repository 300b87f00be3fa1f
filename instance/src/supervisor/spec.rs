//! What to supervise, and what the supervisor needs for it.

use super::assigned_port::AssignedPort;
use super::child::Program;
use super::output::Log;
use super::reaper::Reaper;
use super::restart_policy::OnSuccess;
use crate::vitals_publisher::{ServerVitalsPublisher, VitalsPublisher};
use futures_util::future::BoxFuture;
use linchpin_shared::backoff;
use linchpin_shared::home::Home;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Takes over the standard input and output of a process, anew in each of its runs.
///
/// The supervisor owns this trait, so it does not know what is spoken over the pipes.
pub(crate) trait AttachStdio: fmt::Debug + Send + Sync {
    /// Attaches to the pipes of a process that has just started. `run` counts its runs from 1.
    fn attach(&self, run: u64, stdin: OwnedFd, stdout: OwnedFd, log: Log) -> io::Result<Box<dyn AttachedStdio>>;
}

/// What is attached to the standard input and output of one run.
pub(crate) trait AttachedStdio: Send {
    /// Resolves with the reason when the session cannot go on although the process may.
    ///
    /// # Cancel safety
    /// It may be dropped and called again: the reason is not lost.
    fn broken(&mut self) -> BoxFuture<'_, &'static str>;

    /// Ends the session and closes the standard input. `reason` says, for people, how the run ended.
    fn detach(self: Box<Self>, reason: String) -> BoxFuture<'static, ()>;
}

/// What is connected to a process in each of its runs.
#[derive(Debug)]
pub(crate) enum Wiring {
    /// Its output is shown and logged.
    Output,
    /// Its standard input and output are taken over; its standard error is shown and logged.
    Stdio(Box<dyn AttachStdio>),
    /// Its output is shown and logged, and the server that it runs counts as up for as long as it runs.
    Url(ServerVitalsPublisher),
}

/// A process to supervise.
#[derive(Debug)]
pub(crate) struct Spec {
    pub(crate) name: String,
    pub(crate) program: Program,
    pub(crate) port: AssignedPort,
    pub(crate) wiring: Wiring,
    /// What exit code 0 means.
    pub(crate) on_success: OnSuccess,
    /// How long to wait between runs.
    pub(crate) backoff: backoff::BackoffPolicy,
    /// How long it may take to end after SIGTERM.
    pub(crate) stop_timeout: Duration,
}

/// What a supervisor shares with the rest of the agent.
#[derive(Debug, Clone)]
pub(crate) struct SupervisorContext {
    /// Where the state of the process is published.
    pub(crate) vitals: Arc<VitalsPublisher>,
    pub(crate) reaper: Arc<Reaper>,
    /// Where the output of the process goes.
    pub(crate) log: Log,
    /// The file behind `log`.
    pub(crate) log_file: PathBuf,
    /// The home whose registry tells which instance holds a port.
    pub(crate) home: Home,
}
