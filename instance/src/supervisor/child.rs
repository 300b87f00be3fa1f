//! The start and the end of one child process.
//!
//! The end is observed on the process itself, never on its pipes, which a grandchild may hold open. The child is reaped
//! only by [`Child::reap`], after its tree is gone, so its group id stays reserved until then. It does not share our
//! terminal: it is in a process group of its own, and the kernel stops a background group that reads the terminal
//! (SIGTTIN). So its standard input is `/dev/null` or a pipe.

use super::reaper::Reaper;
use crate::env::{DETACHED, KEEPER, OWNER};
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

/// How often a child is checked when waiting for its identity did not show its end.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// What to start.
#[derive(Clone)]
pub(crate) struct Program {
    /// The executable that was found for the command.
    pub(crate) path: PathBuf,
    /// The command as it was written: the program, then its arguments.
    pub(crate) command: Vec<OsString>,
    /// The working directory.
    pub(crate) dir: PathBuf,
    /// Variables that the launch options add to our own environment. They may be secret.
    pub(crate) launch_env: BTreeMap<String, String>,
    /// Variables that we add on top of those.
    pub(crate) env: Vec<(&'static str, OsString)>,
    /// The mark that its whole tree carries.
    pub(crate) owner: String,
}

/// Leaves out what may be secret.
impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Program").field("path", &self.path).field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl Program {
    /// Sets a variable for all later starts, or leaves it as it is in our own environment.
    pub(super) fn set(&mut self, name: &'static str, value: Option<OsString>) {
        self.env.retain(|(known, _)| *known != name);
        self.env.extend(value.map(|value| (name, value)));
    }

    /// Adds to a system error what it is about: an upgrade may have removed the executable, a person the directory.
    fn explain(&self, error: &io::Error) -> io::Error {
        let about = if self.dir.is_dir() { &self.path } else { &self.dir };
        io::Error::new(error.kind(), format!("{}: {error}", about.display()))
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProcessExit {
    /// It exited with this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
    /// Unknown: another part of this program waited for it.
    Unknown,
}

/// A running child.
#[derive(Debug)]
pub(super) struct Child {
    process: std::process::Child,
    pid: Pid,
    /// `None` if it ended before it could be identified.
    identity: Option<Identity>,
    reaper: Arc<Reaper>,
    reaped: bool,
}

/// Our ends of a child's pipes.
#[derive(Debug)]
pub(super) struct Pipes {
    /// Its standard input, if that is a pipe.
    pub(super) stdin: Option<OwnedFd>,
    pub(super) stdout: Option<OwnedFd>,
    pub(super) stderr: Option<OwnedFd>,
}

impl Child {
    /// Starts a program in a process group of its own.
    pub(super) fn start(program: &Program, stdin: Stdio, reaper: &Arc<Reaper>) -> io::Result<(Self, Pipes)> {
        let mut command = Command::new(&program.path);
        if let Some((name, arguments)) = program.command.split_first() {
            command.arg0(name).args(arguments);
        }
        command
            .current_dir(&program.dir)
            .envs(&program.launch_env)
            .envs(program.env.iter().map(|(name, value)| (name, value)));
        command.env_remove(DETACHED).env_remove(KEEPER).env(OWNER, &program.owner);
        command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut process = reaper.start(&mut command).map_err(|error| program.explain(&error))?;
        let pipes = Pipes {
            stdin: process.stdin.take().map(OwnedFd::from),
            stdout: process.stdout.take().map(OwnedFd::from),
            stderr: process.stderr.take().map(OwnedFd::from),
        };
        let identity = Identity::of(process.id()).ok();
        let pid = Pid::from_child(&process);
        Ok((Self { process, pid, identity, reaper: Arc::clone(reaper), reaped: false }, pipes))
    }

    /// Returns its pid, which is also the id of its process group.
    pub(super) const fn pid(&self) -> Pid {
        self.pid
    }

    /// Waits for the end of the process without reaping it.
    pub(super) async fn exited(&self) -> ProcessExit {
        ended(self.pid, self.identity.as_ref()).await
    }

    /// Reaps a process that has ended. Call it when its tree is gone, because this frees its group id.
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

/// Waits for the end of a child without reaping it. `identity` is `None` if it ended before it could be identified.
pub(crate) async fn ended(pid: Pid, identity: Option<&Identity>) -> ProcessExit {
    loop {
        if let Some(identity) = identity {
            exited(identity).await;
        }
        if let Some(exit) = exit_of(pid) {
            return exit;
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

fn exit_of(pid: Pid) -> Option<ProcessExit> {
    match waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT) {
        Ok(status) => {
            let status = status?;
            status.exit_status().map(ProcessExit::Code).or_else(|| status.terminating_signal().map(ProcessExit::Signal))
        }
        Err(rustix::io::Errno::CHILD) => Some(ProcessExit::Unknown),
        Err(_) => None,
    }
}

/// A child that is dropped while it runs (the runtime ends, a task panicked) is not left behind.
impl Drop for Child {
    fn drop(&mut self) {
        if !self.reaped {
            // It was not reaped, so the group id is still its own.
            let _ = kill_process_group(self.pid, Signal::KILL);
            self.wait();
        }
    }
}

impl fmt::Display for ProcessExit {
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

/// Returns the name of a signal that ends processes.
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
