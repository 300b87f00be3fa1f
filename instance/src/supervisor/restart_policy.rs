//! Whether and when a process is started again. Pure: no clock, no randomness of its own.
//!
//! Owns the decision after each life: how it ended, how long it ran and 64 random bits in, the next step out.
//! Invariant: a process that keeps ending is started ever more rarely, up to the longest backoff, and never in a loop
//! without delay; only a life that lasted proves health.
//! Never: gives up on a process that crashed. Who wants that stops the instance.

use super::child::End;
use linchpin_shared::backoff::{self, Backoff};
use std::time::Duration;

/// Why a life is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Cause {
    /// The process ended by itself.
    Exited(End),
    /// It could not be started.
    NotStarted(String),
    /// It lives, but its MCP session cannot go on.
    Broken(&'static str),
    /// Somebody asked for a restart.
    Asked,
    /// The instance stops.
    Stop,
}

/// What follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Start it after this delay.
    Start(Duration),
    /// It is done.
    Done,
}

/// When a process that ended by itself with exit code 0 is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnSuccess {
    /// Never: it did what it was for.
    Done,
    /// Always: a server has no reason to end while its input is open.
    Restart,
}

/// The decision and what it remembers.
#[derive(Debug)]
pub(super) struct Policy {
    on_success: OnSuccess,
    backoff: Backoff,
}

impl Policy {
    /// Remembers nothing yet.
    pub(super) const fn new(on_success: OnSuccess, backoff: backoff::Policy) -> Self {
        Self { on_success, backoff: Backoff::new(backoff) }
    }

    /// What follows a life that is over after it `ran` so long.
    pub(super) fn next(&mut self, cause: &Cause, ran: Duration, random: u64) -> Next {
        match cause {
            Cause::Stop => return Next::Done,
            Cause::Exited(End::Code(0)) if self.on_success == OnSuccess::Done => return Next::Done,
            Cause::Asked => {
                self.backoff.reset();
                return Next::Start(Duration::ZERO);
            }
            Cause::Exited(_) | Cause::NotStarted(_) | Cause::Broken(_) => {}
        }
        self.backoff.healthy_for(ran);
        Next::Start(self.backoff.next_delay(random))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BACKOFF: backoff::Policy = backoff::Policy {
        min: Duration::from_millis(100),
        max: Duration::from_secs(30),
        reset_after: Duration::from_secs(10),
    };
    const CRASH: Cause = Cause::Exited(End::Code(1));

    fn delay(policy: &mut Policy, cause: &Cause, ran: Duration) -> Duration {
        match policy.next(cause, ran, u64::MAX) {
            Next::Start(delay) => delay,
            Next::Done => panic!("done"),
        }
    }

    #[test]
    fn crashes_wait_longer_and_longer_until_a_life_lasted() {
        let mut policy = Policy::new(OnSuccess::Done, BACKOFF);
        assert_eq!(delay(&mut policy, &CRASH, Duration::ZERO), BACKOFF.min);
        assert_eq!(delay(&mut policy, &Cause::Exited(End::Signal(9)), Duration::ZERO), BACKOFF.min * 2);
        assert_eq!(delay(&mut policy, &Cause::NotStarted("x".into()), Duration::ZERO), BACKOFF.min * 4);
        assert_eq!(delay(&mut policy, &Cause::Broken("x"), BACKOFF.reset_after), BACKOFF.min);
    }

    #[test]
    fn asking_is_not_a_crash() {
        let mut policy = Policy::new(OnSuccess::Done, BACKOFF);
        delay(&mut policy, &CRASH, Duration::ZERO);
        assert_eq!(delay(&mut policy, &Cause::Asked, Duration::ZERO), Duration::ZERO);
        assert_eq!(delay(&mut policy, &CRASH, Duration::ZERO), BACKOFF.min);
    }

    #[test]
    fn success_is_the_end_of_a_command_but_not_of_a_server() {
        let success = Cause::Exited(End::Code(0));
        assert_eq!(Policy::new(OnSuccess::Done, BACKOFF).next(&success, Duration::ZERO, 0), Next::Done);
        let mut server = Policy::new(OnSuccess::Restart, BACKOFF);
        assert_eq!(delay(&mut server, &success, Duration::ZERO), BACKOFF.min);
        assert_eq!(server.next(&Cause::Stop, Duration::ZERO, 0), Next::Done);
    }

    proptest! {
        #[test]
        fn a_crash_is_never_followed_by_a_start_without_delay(
            lives in prop::collection::vec((0_u64..20_000, any::<u64>(), 0_u8..3), 1..40)
        ) {
            let mut policy = Policy::new(OnSuccess::Restart, BACKOFF);
            for (ran, random, how) in lives {
                let cause = match how { 0 => CRASH, 1 => Cause::Broken("x"), _ => Cause::Exited(End::Code(0)) };
                let next = policy.next(&cause, Duration::from_millis(ran), random);
                prop_assert!(matches!(next, Next::Start(delay) if delay >= BACKOFF.min / 2 && delay <= BACKOFF.max));
            }
        }
    }
}
