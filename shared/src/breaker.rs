//! A circuit breaker.
//!
//! It counts consecutive failures. While it is closed, requests pass; while it is open, requests fail at once; while it is
//! half-open, one probe at a time passes. Until it closes again, each opening lasts twice as long as the one before, up to
//! a limit. The caller decides what counts as a failure, and passes the time.
//!
//! | from | to | cause |
//! |---|---|---|
//! | closed | open | the given number of failures in a row |
//! | open | half-open | its time is over and a request asks to pass; or the failures were contradicted |
//! | half-open | closed | the given number of successes in a row |
//! | half-open | open | one failure |

use std::time::Duration;
use tokio::time::Instant;

/// When a breaker opens and closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerPolicy {
    /// The number of failures in a row that open the breaker.
    pub failures: u32,
    /// How long it stays open the first time.
    pub open: Duration,
    /// How long it stays open at most.
    pub open_max: Duration,
    /// The number of successes in a row that close it again.
    pub successes: u32,
}

/// The answer of a breaker to a request that asks to pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// The request may pass.
    Pass,
    /// The request may pass as the only probe. Its outcome must be reported.
    Probe,
    /// The request must fail.
    Refuse,
}

/// The state of a breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    /// Requests pass.
    Closed {
        /// The number of failures in a row so far.
        failures: u32,
    },
    /// Requests fail at once.
    Open {
        /// When the first probe may be sent.
        until: Instant,
    },
    /// One probe at a time passes.
    HalfOpen {
        /// The number of successes in a row so far.
        successes: u32,
        /// Whether a probe is under way.
        probing: bool,
    },
}

/// Decides whether requests may pass, from the results of earlier requests.
#[derive(Debug, Clone)]
pub struct Breaker {
    policy: BreakerPolicy,
    state: BreakerState,
    /// The number of openings since the breaker was last closed.
    openings: u32,
}

impl Breaker {
    /// Creates a breaker that is closed.
    #[must_use]
    pub const fn new(policy: BreakerPolicy) -> Self {
        Self { policy, state: BreakerState::Closed { failures: 0 }, openings: 0 }
    }

    /// The state, with the numbers that belong to it.
    #[must_use]
    pub const fn state(&self) -> BreakerState {
        self.state
    }

    /// Whether all requests pass.
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        matches!(self.state, BreakerState::Closed { .. })
    }

    /// Decides whether a request may pass.
    pub fn admit(&mut self, now: Instant) -> Admission {
        match self.state {
            BreakerState::Closed { .. } => Admission::Pass,
            BreakerState::Open { until } if now < until => Admission::Refuse,
            BreakerState::HalfOpen { probing: true, .. } => Admission::Refuse,
            BreakerState::Open { .. } => self.probe(0),
            BreakerState::HalfOpen { successes, probing: false } => self.probe(successes),
        }
    }

    /// Records a success. Returns whether it closed the breaker.
    ///
    /// While the breaker is open, a success is the late answer to an earlier request and changes nothing.
    pub const fn success(&mut self) -> bool {
        match self.state {
            BreakerState::Closed { .. } => self.state = BreakerState::Closed { failures: 0 },
            BreakerState::Open { .. } => {}
            BreakerState::HalfOpen { successes, .. } if successes + 1 < self.policy.successes => {
                self.state = BreakerState::HalfOpen { successes: successes + 1, probing: false };
            }
            BreakerState::HalfOpen { .. } => {
                self.reset();
                return true;
            }
        }
        false
    }

    /// Records a failure of the peer. Returns whether it opened the breaker.
    pub fn failure(&mut self, now: Instant) -> bool {
        match self.state {
            BreakerState::Closed { failures } if failures + 1 < self.policy.failures => {
                self.state = BreakerState::Closed { failures: failures + 1 };
                false
            }
            BreakerState::Open { .. } => false,
            BreakerState::Closed { .. } | BreakerState::HalfOpen { .. } => {
                let longer = 1_u32.checked_shl(self.openings).unwrap_or(u32::MAX);
                let length = self.policy.open.saturating_mul(longer).min(self.policy.open_max);
                self.openings = self.openings.saturating_add(1);
                self.state = BreakerState::Open { until: now + length };
                true
            }
        }
    }

    /// Records that the probe ended without a result about the peer.
    pub const fn abandoned(&mut self) {
        if let BreakerState::HalfOpen { successes, probing: true } = self.state {
            self.state = BreakerState::HalfOpen { successes, probing: false };
        }
    }

    /// Records evidence against the failures: the breaker becomes half-open at once, even if its time is not over.
    pub const fn contradicted(&mut self) {
        if let BreakerState::Open { .. } = self.state {
            self.state = BreakerState::HalfOpen { successes: 0, probing: false };
        }
    }

    /// Forgets all failures, because the peer was replaced.
    pub const fn reset(&mut self) {
        self.state = BreakerState::Closed { failures: 0 };
        self.openings = 0;
    }

    const fn probe(&mut self, successes: u32) -> Admission {
        self.state = BreakerState::HalfOpen { successes, probing: true };
        Admission::Probe
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const POLICY: BreakerPolicy =
        BreakerPolicy { failures: 5, open: Duration::from_secs(10), open_max: Duration::from_secs(60), successes: 3 };

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
            assert_eq!(breaker.state(), BreakerState::Open { until });
            now = until;
            assert_eq!(breaker.admit(now), Admission::Probe);
            assert!(breaker.failure(now));
        }
    }

    #[test]
    fn contradicting_evidence_makes_the_breaker_half_open() {
        let now = Instant::now();
        let mut breaker = opened(now);
        breaker.contradicted();
        assert_eq!(breaker.admit(now), Admission::Probe);
        assert!(breaker.failure(now));
        assert_eq!(breaker.state(), BreakerState::Open { until: now + POLICY.open * 2 });
    }

    /// The reference: it evaluates the whole history since the last closing each time.
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
        fn the_breaker_equals_the_reference(
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
