//! Whether and when a process is restarted. Pure: the time that a run lasted and random bits are passed in.
//!
//! A process that keeps ending is restarted ever more rarely, up to the longest backoff, and never in a loop without
//! delay. Only a run that lasted proves health. A process that crashes is never given up: to end it, stop the instance.

use super::child::ProcessExit;
use linchpin_shared::backoff::{self, Backoff};
use std::fmt;
use std::time::Duration;

/// Why a run has ended or must end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RunEnd {
    /// The process ended by itself.
    Exited(ProcessExit),
    /// The process could not be started.
    NotStarted(String),
    /// The process runs, but its MCP session cannot go on.
    SessionBroken(&'static str),
    /// A restart was requested.
    RestartRequested,
    /// The instance stops.
    StopRequested,
}

/// How a run ended, for people.
impl fmt::Display for RunEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(exit) => exit.fmt(f),
            Self::NotStarted(why) => f.write_str(why),
            Self::SessionBroken(why) => f.write_str(why),
            Self::RestartRequested => f.write_str("restarted on request"),
            Self::StopRequested => f.write_str("stopped on request"),
        }
    }
}

/// What follows the end of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NextStep {
    /// Start the process after this delay.
    Start(Duration),
    /// Do not start it any more.
    Finish,
}

/// What follows when a process ends by itself with exit code 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnSuccess {
    /// It has done its work.
    Finish,
    /// It is restarted: a server has no reason to end while its input is open.
    Restart,
}

/// Decides after each run, and remembers the attempts so far.
#[derive(Debug)]
pub(super) struct RestartPolicy {
    on_success: OnSuccess,
    backoff: Backoff,
}

impl RestartPolicy {
    pub(super) const fn new(on_success: OnSuccess, backoff: backoff::BackoffPolicy) -> Self {
        Self { on_success, backoff: Backoff::new(backoff) }
    }

    /// Decides what follows a run that lasted this long.
    pub(super) fn next(&mut self, end: &RunEnd, lasted: Duration, random: u64) -> NextStep {
        match end {
            RunEnd::StopRequested => return NextStep::Finish,
            RunEnd::Exited(ProcessExit::Code(0)) if self.on_success == OnSuccess::Finish => return NextStep::Finish,
            RunEnd::RestartRequested => {
                self.backoff.reset();
                return NextStep::Start(Duration::ZERO);
            }
            RunEnd::Exited(_) | RunEnd::NotStarted(_) | RunEnd::SessionBroken(_) => {}
        }
        self.backoff.healthy_for(lasted);
        NextStep::Start(self.backoff.next_delay(random))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BACKOFF: backoff::BackoffPolicy = backoff::BackoffPolicy {
        min: Duration::from_millis(100),
        max: Duration::from_secs(30),
        reset_after: Duration::from_secs(10),
    };
    const CRASH: RunEnd = RunEnd::Exited(ProcessExit::Code(1));

    fn delay(policy: &mut RestartPolicy, end: &RunEnd, lasted: Duration) -> Duration {
        match policy.next(end, lasted, u64::MAX) {
            NextStep::Start(delay) => delay,
            NextStep::Finish => panic!("finished"),
        }
    }

    #[test]
    fn crashes_are_retried_ever_later_until_a_run_lasted() {
        let mut policy = RestartPolicy::new(OnSuccess::Finish, BACKOFF);
        assert_eq!(delay(&mut policy, &CRASH, Duration::ZERO), BACKOFF.min);
        assert_eq!(delay(&mut policy, &RunEnd::Exited(ProcessExit::Signal(9)), Duration::ZERO), BACKOFF.min * 2);
        assert_eq!(delay(&mut policy, &RunEnd::NotStarted("x".into()), Duration::ZERO), BACKOFF.min * 4);
        assert_eq!(delay(&mut policy, &RunEnd::SessionBroken("x"), BACKOFF.reset_after), BACKOFF.min);
    }

    #[test]
    fn a_requested_restart_is_not_a_crash() {
        let mut policy = RestartPolicy::new(OnSuccess::Finish, BACKOFF);
        delay(&mut policy, &CRASH, Duration::ZERO);
        assert_eq!(delay(&mut policy, &RunEnd::RestartRequested, Duration::ZERO), Duration::ZERO);
        assert_eq!(delay(&mut policy, &CRASH, Duration::ZERO), BACKOFF.min);
    }

    #[test]
    fn success_ends_a_command_but_not_a_server() {
        let success = RunEnd::Exited(ProcessExit::Code(0));
        assert_eq!(RestartPolicy::new(OnSuccess::Finish, BACKOFF).next(&success, Duration::ZERO, 0), NextStep::Finish);
        let mut server = RestartPolicy::new(OnSuccess::Restart, BACKOFF);
        assert_eq!(delay(&mut server, &success, Duration::ZERO), BACKOFF.min);
        assert_eq!(server.next(&RunEnd::StopRequested, Duration::ZERO, 0), NextStep::Finish);
    }

    proptest! {
        #[test]
        fn a_crash_is_never_followed_by_an_immediate_start(
            runs in prop::collection::vec((0_u64..20_000, any::<u64>(), 0_u8..3), 1..40)
        ) {
            let mut policy = RestartPolicy::new(OnSuccess::Restart, BACKOFF);
            for (lasted, random, how) in runs {
                let end = match how {
                    0 => CRASH,
                    1 => RunEnd::SessionBroken("x"),
                    _ => RunEnd::Exited(ProcessExit::Code(0)),
                };
                let next = policy.next(&end, Duration::from_millis(lasted), random);
                let allowed = BACKOFF.min / 2..=BACKOFF.max;
                prop_assert!(matches!(next, NextStep::Start(delay) if allowed.contains(&delay)));
            }
        }
    }
}
