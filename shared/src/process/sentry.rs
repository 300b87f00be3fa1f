//! Cheap looks at one process: whether it has ended, whether it is stopped.
//!
//! Owns [`Sentry`], for who asks at every request. Invariant: what cannot be told is not said: a process is neither ended
//! nor stopped until that was seen of this very one. Never: waits, or signals.

use super::Identity;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::PidfdFlags;
use std::os::fd::OwnedFd;

/// Tells whether one process has ended, at the cost of one system call.
#[derive(Debug)]
pub struct Sentry {
    process: Identity,
    pidfd: Option<OwnedFd>,
}

impl Sentry {
    /// Whether the process has ended. Where there is no pidfd this is [`Identity::is_alive`].
    #[must_use]
    pub fn has_ended(&self) -> bool {
        let Some(pidfd) = &self.pidfd else { return !self.process.is_alive() };
        // A pidfd becomes readable when its process has ended, waited for or not.
        let mut ended = [PollFd::new(pidfd, PollFlags::IN)];
        poll(&mut ended, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
    }
}

impl Identity {
    /// A look-out for the end of this very process.
    #[must_use]
    pub fn sentry(&self) -> Sentry {
        let pidfd = self.raw_pid().and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok());
        // Checked after opening: a descriptor of a pid that was reused before is not kept.
        let pidfd = pidfd.filter(|_| self.verify().unwrap_or(false));
        Sentry { process: self.clone(), pidfd }
    }

    /// Whether this very process is stopped: by SIGSTOP, by the terminal, or by a debugger. When that cannot be told the
    /// answer is no.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        let stopped = std::fs::read(format!("/proc/{}/stat", self.pid)).is_ok_and(|stat| is_stopped(&stat));
        stopped && self.is_alive()
    }
}

/// Whether the state (field 3) of `/proc/PID/stat` is `T`, stopped by a signal, or `t`, by a debugger.
fn is_stopped(stat: &[u8]) -> bool {
    let after_name = stat.iter().rposition(|&byte| byte == b')').map_or(&[][..], |at| &stat[at + 1..]);
    matches!(after_name.trim_ascii_start().first(), Some(b'T' | b't'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::Signal;
    use std::process::{Child, Command};

    /// Killed and waited for when the test ends, however it ends.
    struct Sleeper(Child);

    impl Drop for Sleeper {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn a_stopped_process_is_told_from_one_that_runs_and_from_one_that_ended() {
        let mut sleeper = Sleeper(Command::new("sleep").arg("600").spawn().unwrap());
        let identity = Identity::of(sleeper.0.id()).unwrap();
        let sentry = identity.sentry();
        assert!(!identity.is_stopped() && !sentry.has_ended());
        assert!(identity.signal(Signal::STOP).unwrap());
        while !identity.is_stopped() {
            std::thread::yield_now();
        }
        assert!(!sentry.has_ended());
        assert!(identity.signal(Signal::CONT).unwrap());
        while identity.is_stopped() {
            std::thread::yield_now();
        }
        sleeper.0.kill().unwrap();
        while identity.is_alive() {
            std::thread::yield_now();
        }
        assert!(sentry.has_ended() && identity.sentry().has_ended() && !identity.is_stopped(), "not waited for");
        sleeper.0.wait().unwrap();
        assert!(sentry.has_ended() && identity.sentry().has_ended());
    }

    #[test]
    fn a_name_does_not_look_like_a_state() {
        assert!(is_stopped(b"7 (a b) T 1 2") && is_stopped(b"7 (x) t 1"));
        assert!(!is_stopped(b"7 (T) T) S 1") && !is_stopped(b"7 (a) R") && !is_stopped(b""));
    }
}
