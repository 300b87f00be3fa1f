//! Whether requests may pass: a circuit breaker.
//!
//! Owns the count of consecutive failures and what follows from it. The words: closed = requests pass, open = requests
//! fail at once, half-open = one probe at a time passes.
//! Invariant: between two closings each opening lasts twice as long as the one before, up to the limit.
//! Never: decides what a failure is (see [`crate::failure::Kind::counts_against_peer`]), sleeps or reads a clock.
//!
//! | from | to | cause |
//! |---|---|---|
//! | closed | open | the given number of failures in a row |
//! | open | half-open | its time is over and somebody asks; or evidence that contradicts the failures |
//! | half-open | closed | the given number of successes in a row |
//! | half-open | open | one failure |

use std::time::Duration;
use tokio::time::Instant;

/// The numbers of a breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// How many failures in a row open it.
    pub failures: u32,
    /// How long it stays open the first time.
    pub open: Duration,
    /// How long it stays open at most.
    pub open_max: Duration,
    /// How many successes in a row close it again.
    pub successes: u32,
}

/// What a breaker says to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It may pass.
    Pass,
    /// It may pass as the one probe; its outcome must be reported.
    Probe,
    /// It may not pass.
    Refuse,
}

/// What a breaker is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Requests pass.
    Closed {
        /// Failures in a row so far.
        failures: u32,
    },
    /// Requests fail at once.
    Open {
        /// When a probe may be made.
        until: Instant,
    },
    /// One probe at a time passes.
    HalfOpen {
        /// Successes in a row so far.
        successes: u32,
        /// Whether a probe is under way.
        probing: bool,
    },
}

/// A circuit breaker.
#[derive(Debug, Clone)]
pub struct Breaker {
    policy: Policy,
    state: State,
    /// Openings since it was closed last.
    openings: u32,
}

impl Breaker {
    /// A closed breaker.
    #[must_use]
    pub const fn new(policy: Policy) -> Self {
        Self { policy, state: State::Closed { failures: 0 }, openings: 0 }
    }

    /// What it is doing.
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    /// Whether requests pass.
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed { .. })
    }

    /// Asks for a request to pass.
    pub fn admit(&mut self, now: Instant) -> Admission {
        match self.state {
            State::Closed { .. } => Admission::Pass,
            State::Open { until } if now < until => Admission::Refuse,
            State::HalfOpen { probing: true, .. } => Admission::Refuse,
            State::Open { .. } => self.probe(0),
            State::HalfOpen { successes, probing: false } => self.probe(successes),
        }
    }

    /// Something went well. Says whether this closed the breaker.
    ///
    /// While it is open this says nothing: it is the late answer to a request from before.
    pub const fn success(&mut self) -> bool {
        match self.state {
            State::Closed { .. } => self.state = State::Closed { failures: 0 },
            State::Open { .. } => {}
            State::HalfOpen { successes, .. } if successes + 1 < self.policy.successes => {
                self.state = State::HalfOpen { successes: successes + 1, probing: false };
            }
            State::HalfOpen { .. } => {
                self.reset();
                return true;
            }
        }
        false
    }

    /// Something failed, and the peer is to blame. Says whether this opened the breaker.
    pub fn failure(&mut self, now: Instant) -> bool {
        match self.state {
            State::Closed { failures } if failures + 1 < self.policy.failures => {
                self.state = State::Closed { failures: failures + 1 };
                false
            }
            State::Open { .. } => false,
            State::Closed { .. } | State::HalfOpen { .. } => {
                let longer = 1_u32.checked_shl(self.openings).unwrap_or(u32::MAX);
                let length = self.policy.open.saturating_mul(longer).min(self.policy.open_max);
                self.openings = self.openings.saturating_add(1);
                self.state = State::Open { until: now + length };
                true
            }
        }
    }

    /// The probe ended without saying anything about the peer.
    pub const fn abandoned(&mut self) {
        if let State::HalfOpen { successes, probing: true } = self.state {
            self.state = State::HalfOpen { successes, probing: false };
        }
    }

    /// The failures were contradicted: probes may be made at once, however long it would have stayed open.
    pub const fn contradicted(&mut self) {
        if let State::Open { .. } = self.state {
            self.state = State::HalfOpen { successes: 0, probing: false };
        }
    }

    /// Forgets everything: the peer is another one now.
    pub const fn reset(&mut self) {
        self.state = State::Closed { failures: 0 };
        self.openings = 0;
    }

    const fn probe(&mut self, successes: u32) -> Admission {
        self.state = State::HalfOpen { successes, probing: true };
        Admission::Probe
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const POLICY: Policy =
        Policy { failures: 5, open: Duration::from_secs(10), open_max: Duration::from_secs(60), successes: 3 };

    fn opened(now: Instant) -> Breaker {
        let mut breaker = Breaker::new(POLICY);
        assert_eq!((0..5).filter(|_| breaker.failure(now)).count(), 1);
        breaker
    }

    #[test]
    fn a_success_between_failures_keeps_it_closed() {
        let (mut breaker, now) = (Breaker::new(POLICY), Instant::now());
        for _ in 0..10 {
            (0..4).for_each(|_| assert!(!breaker.failure(now)));
            assert!(!breaker.success());
        }
        assert_eq!(breaker.admit(now), Admission::Pass);
    }

    #[test]
    fn half_open_lets_one_probe_pass_and_closes_after_three() {
        let now = Instant::now();
        let mut breaker = opened(now);
        assert_eq!(breaker.admit(now + POLICY.open - Duration::from_nanos(1)), Admission::Refuse);
        let later = now + POLICY.open;
        assert_eq!(breaker.admit(later), Admission::Probe);
        assert_eq!(breaker.admit(later), Admission::Refuse, "one probe at a time");
        breaker.abandoned();
        for closes in [false, false, true] {
            assert_eq!(breaker.admit(later), Admission::Probe);
            assert_eq!(breaker.success(), closes);
        }
        assert_eq!(breaker.admit(later), Admission::Pass);
    }

    #[test]
    fn each_opening_is_twice_as_long_up_to_the_limit() {
        let mut now = Instant::now();
        let mut breaker = opened(now);
        for seconds in [10, 20, 40, 60, 60] {
            let until = now + Duration::from_secs(seconds);
            assert_eq!(breaker.state(), State::Open { until });
            now = until;
            assert_eq!(breaker.admit(now), Admission::Probe);
            assert!(breaker.failure(now));
        }
    }

    #[test]
    fn evidence_ends_the_waiting_but_not_the_proving() {
        let now = Instant::now();
        let mut breaker = opened(now);
        breaker.contradicted();
        assert_eq!(breaker.admit(now), Admission::Probe);
        assert!(breaker.failure(now));
        assert_eq!(breaker.state(), State::Open { until: now + POLICY.open * 2 });
    }

    /// The reference: the whole history since the last closing, looked at anew each time.
    #[derive(Debug, Default)]
    struct Reference {
        outcomes: Vec<bool>,
        opened_at: Vec<Instant>,
        half_open: bool,
        probing: bool,
    }

    impl Reference {
        fn in_a_row(&self, good: bool) -> usize {
            self.outcomes.iter().rev().take_while(|outcome| **outcome == good).count()
        }

        fn until(&self) -> Option<Instant> {
            let length = (10_u64 << (self.opened_at.len().max(1) - 1).min(30)).min(60);
            self.opened_at.last().map(|at| *at + Duration::from_secs(length))
        }

        fn admit(&mut self, now: Instant) -> Admission {
            let Some(until) = self.until() else { return Admission::Pass };
            if self.probing || (!self.half_open && now < until) {
                return Admission::Refuse;
            }
            (self.half_open, self.probing) = (true, true);
            Admission::Probe
        }

        fn outcome(&mut self, good: bool, now: Instant) {
            let open = !self.opened_at.is_empty() && !self.half_open;
            if open {
                return;
            }
            self.probing = false;
            self.outcomes.push(good);
            if self.half_open && self.in_a_row(true) >= 3 {
                *self = Self::default();
            } else if !good && (self.half_open || self.in_a_row(false) >= 5) {
                self.opened_at.push(now);
                self.half_open = false;
                self.outcomes.clear();
            }
        }
    }

    proptest! {
        #[test]
        fn it_does_what_the_reference_does(
            steps in prop::collection::vec((0_u64..15_000, prop_oneof![4 => Just(0), 5 => Just(1), 4 => Just(2)]), 0..200)
        ) {
            let mut now = Instant::now();
            let (mut breaker, mut reference) = (Breaker::new(POLICY), Reference::default());
            for (wait, step) in steps {
                now += Duration::from_millis(wait);
                match step {
                    0 => prop_assert_eq!(breaker.admit(now), reference.admit(now)),
                    1 => { breaker.failure(now); reference.outcome(false, now); }
                    _ => { breaker.success(); reference.outcome(true, now); }
                }
                prop_assert_eq!(breaker.is_closed(), reference.opened_at.is_empty());
            }
        }
    }
}
