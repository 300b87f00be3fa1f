//! One life of a supervised process: its start and its end.
//!
//! Owns [`Child`]. Invariant: its end is seen on the process itself, never on its pipes, which a grandchild may hold; and
//! it is waited for only by [`Child::reap`], after its tree is gone.
//! Never: shares the terminal with us. The child is in a process group of its own, and the kernel stops a background
//! group that reads the terminal (SIGTTIN); so its standard input is `/dev/null`, or for MCP a pipe.

use super::mark::{DETACHED, OWNER};
use super::reaper::Reaper;
use crate::conflict::KEEPER;
use linchpin_shared::process::{Identity, exited};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// How often a child is looked at when waiting for its identity did not show its end.
const LOOK: Duration = Duration::from_millis(20);

/// What to start.
#[derive(Clone)]
pub(crate) struct Program {
    /// The executable, found already.
    pub(crate) path: PathBuf,
    /// The command's own word for it, and its arguments.
    pub(crate) words: Vec<OsString>,
    /// The working directory.
    pub(crate) dir: PathBuf,
    /// Variables that it was handed, on top of our own environment. They may be secret.
    pub(crate) handed: BTreeMap<String, String>,
    /// Our own variables, on top of those.
    pub(crate) env: Vec<(&'static str, OsString)>,
    /// The mark that all that come of it carry.
    pub(crate) owner: String,
}

/// Without what may be secret.
impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Program").field("path", &self.path).field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl Program {
    /// Sets a variable for all starts from now on, or leaves it as it is in our own environment.
    pub(super) fn set(&mut self, name: &'static str, value: Option<OsString>) {
        self.env.retain(|(known, _)| *known != name);
        self.env.extend(value.map(|value| (name, value)));
    }

    /// The system's error, with what it is about: an upgrade may have removed the executable, somebody the directory.
    fn tell(&self, error: &io::Error) -> io::Error {
        let about = if self.dir.is_dir() { &self.path } else { &self.dir };
        io::Error::new(error.kind(), format!("{}: {error}", about.display()))
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// With this exit code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// Unknown: somebody else waited for it.
    Unknown,
}

/// A running child.
#[derive(Debug)]
pub(super) struct Child {
    process: std::process::Child,
    pid: Pid,
    /// None if it ended before we could look.
    identity: Option<Identity>,
    reaper: Arc<Reaper>,
    reaped: bool,
}

/// Our ends of a child's pipes.
#[derive(Debug)]
pub(super) struct Pipes {
    /// Its standard input, if it was to get one.
    pub(super) stdin: Option<OwnedFd>,
    /// Its standard output.
    pub(super) stdout: Option<OwnedFd>,
    /// Its standard error.
    pub(super) stderr: Option<OwnedFd>,
}

impl Child {
    /// Starts a program in a process group of its own.
    pub(super) fn start(program: &Program, stdin: Stdio, reaper: &Arc<Reaper>) -> io::Result<(Self, Pipes)> {
        let mut command = Command::new(&program.path);
        if let Some((name, arguments)) = program.words.split_first() {
            command.arg0(name).args(arguments);
        }
        command
            .current_dir(&program.dir)
            .envs(&program.handed)
            .envs(program.env.iter().map(|(name, value)| (name, value)));
        command.env_remove(DETACHED).env_remove(KEEPER).env(OWNER, &program.owner);
        command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut process = reaper.start(&mut command).map_err(|error| program.tell(&error))?;
        let pipes = Pipes {
            stdin: process.stdin.take().map(OwnedFd::from),
            stdout: process.stdout.take().map(OwnedFd::from),
            stderr: process.stderr.take().map(OwnedFd::from),
        };
        let identity = Identity::of(process.id()).ok();
        let pid = Pid::from_child(&process);
        Ok((Self { process, pid, identity, reaper: Arc::clone(reaper), reaped: false }, pipes))
    }

    /// Its process id, which is also that of its group.
    pub(super) const fn pid(&self) -> Pid {
        self.pid
    }

    /// Waits for the end of the process and leaves it to be reaped.
    pub(super) async fn exited(&self) -> End {
        ended(self.pid, self.identity.as_ref()).await
    }

    /// Waits for a process that has ended. Call it when its tree is gone: this frees its group id.
    pub(super) fn reap(mut self) {
        self.wait();
    }

    fn wait(&mut self) {
        self.reaped = true;
        if let Err(error) = self.reaper.wait(&mut self.process) {
            tracing::debug!(%error, "cannot wait for a child");
        }
    }
}

/// Waits for the end of a child of ours and leaves it to be reaped. `identity` is none if it could not be looked at.
pub(crate) async fn ended(pid: Pid, identity: Option<&Identity>) -> End {
    loop {
        if let Some(identity) = identity {
            exited(identity).await;
        }
        if let Some(end) = end_of(pid) {
            return end;
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn end_of(pid: Pid) -> Option<End> {
    match waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT) {
        Ok(status) => {
            let status = status?;
            status.exit_status().map(End::Code).or_else(|| status.terminating_signal().map(End::Signal))
        }
        Err(rustix::io::Errno::CHILD) => Some(End::Unknown),
        Err(_) => None,
    }
}

/// A child that is dropped in mid-life (the runtime ends, a task panicked) is not left behind.
impl Drop for Child {
    fn drop(&mut self) {
        if !self.reaped {
            // It was not waited for, so the group is still its own.
            let _ = kill_process_group(self.pid, Signal::KILL);
            self.wait();
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit {code}"),
            Self::Signal(number) => match signal_name(*number) {
                Some(name) => write!(f, "signal {number} ({name})"),
                None => write!(f, "signal {number}"),
            },
            Self::Unknown => f.write_str("unknown: another part of this program waited for it"),
        }
    }
}

/// The names of signals that end processes.
const fn signal_name(number: i32) -> Option<&'static str> {
    Some(match number {
        libc::SIGHUP => "SIGHUP",
        libc::SIGINT => "SIGINT",
        libc::SIGQUIT => "SIGQUIT",
        libc::SIGILL => "SIGILL",
        libc::SIGTRAP => "SIGTRAP",
        libc::SIGABRT => "SIGABRT",
        libc::SIGBUS => "SIGBUS",
        libc::SIGFPE => "SIGFPE",
        libc::SIGKILL => "SIGKILL",
        libc::SIGSEGV => "SIGSEGV",
        libc::SIGPIPE => "SIGPIPE",
        libc::SIGALRM => "SIGALRM",
        libc::SIGTERM => "SIGTERM",
        libc::SIGUSR1 => "SIGUSR1",
        libc::SIGUSR2 => "SIGUSR2",
        libc::SIGXCPU => "SIGXCPU",
        libc::SIGXFSZ => "SIGXFSZ",
        _ => return None,
    })
}
