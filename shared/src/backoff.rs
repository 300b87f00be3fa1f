//! Exponential backoff with jitter.
//!
//! The n-th delay is `min × 2ⁿ`, at most `max`, multiplied by a random factor between ½ and 1. The jitter applies at the
//! cap as well, where many callers retry together. Attempts are forgotten only by [`Backoff::reset`] or after proven
//! health, not because one attempt succeeded: a peer that accepts every connection and drops it again must not be dialled
//! in a hot loop. The time and 64 random bits are arguments.

use std::time::Duration;

/// How delays grow, and when they start again at the minimum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackoffPolicy {
    /// The first delay, before jitter.
    pub min: Duration,
    /// The longest delay, before jitter.
    pub max: Duration,
    /// The time of proven health after which the attempts are forgotten.
    pub reset_after: Duration,
}

/// Counts attempts, and derives the next delay from them.
#[derive(Debug, Clone)]
pub struct Backoff {
    policy: BackoffPolicy,
    attempts: u32,
}

impl Backoff {
    /// Creates a backoff without attempts.
    #[must_use]
    pub const fn new(policy: BackoffPolicy) -> Self {
        Self { policy, attempts: 0 }
    }

    /// The number of attempts since the last reset.
    #[must_use]
    pub const fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Counts one attempt, and returns how long to wait before it. `random` is 64 random bits.
    pub fn next_delay(&mut self, random: u64) -> Duration {
        let whole = self.ceiling();
        self.attempts = self.attempts.saturating_add(1);
        let half = whole / 2;
        half + scale(whole - half, random)
    }

    /// Works like [`Backoff::next_delay`], but a longer pause that the peer suggests takes precedence, up to `max`: a peer
    /// may slow the caller down, but cannot turn it away.
    pub fn suggested_delay(&mut self, suggested: Duration, random: u64) -> Duration {
        self.next_delay(random).max(suggested.min(self.policy.max))
    }

    /// Works like [`Backoff::next_delay`], but the first attempt after a reset has no delay.
    pub fn immediate_or_delay(&mut self, random: u64) -> Duration {
        if self.attempts == 0 {
            self.attempts = 1;
            return Duration::ZERO;
        }
        self.next_delay(random)
    }

    /// Forgets the attempts if health was proven for long enough. Returns whether it did.
    pub fn healthy_for(&mut self, proven: Duration) -> bool {
        let settled = proven >= self.policy.reset_after;
        if settled {
            self.reset();
        }
        settled
    }

    /// Forgets the attempts, for example because the next attempt has another target.
    pub const fn reset(&mut self) {
        self.attempts = 0;
    }

    /// The next delay before jitter.
    fn ceiling(&self) -> Duration {
        let factor = 1_u32.checked_shl(self.attempts).unwrap_or(u32::MAX);
        self.policy.min.saturating_mul(factor).min(self.policy.max)
    }
}

/// `whole × random / u64::MAX`, in whole nanoseconds.
fn scale(whole: Duration, random: u64) -> Duration {
    let nanos = whole.as_nanos() * u128::from(random) / u128::from(u64::MAX);
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const POLICY: BackoffPolicy = BackoffPolicy {
        min: Duration::from_millis(50),
        max: Duration::from_secs(5),
        reset_after: Duration::from_secs(10),
    };

    /// The reference: it doubles the delay step by step, in milliseconds, for every attempt.
    fn reference(attempt: u32, min: u64, max: u64) -> u64 {
        let mut delay = min;
        for _ in 0..attempt {
            if delay >= max {
                break;
            }
            delay *= 2;
        }
        delay.min(max)
    }

    #[test]
    fn the_numbers_of_the_design() {
        let mut backoff = Backoff::new(POLICY);
        let delays: Vec<_> = (0..9).map(|_| backoff.next_delay(u64::MAX).as_millis()).collect();
        assert_eq!(delays, [50, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
    }

    #[test]
    fn the_jitter_holds_at_the_cap() {
        let mut backoff = Backoff { policy: POLICY, attempts: u32::MAX };
        assert_eq!(backoff.next_delay(0), POLICY.max / 2);
        assert_eq!(backoff.next_delay(u64::MAX), POLICY.max);
        assert_eq!(backoff.attempts(), u32::MAX);
    }

    #[test]
    fn only_the_first_attempt_is_immediate() {
        let mut backoff = Backoff::new(POLICY);
        assert_eq!(backoff.immediate_or_delay(0), Duration::ZERO);
        assert_eq!(backoff.immediate_or_delay(u64::MAX), POLICY.min * 2);
        assert!(!backoff.healthy_for(POLICY.reset_after - Duration::from_nanos(1)));
        assert_eq!(backoff.attempts(), 2);
        assert!(backoff.healthy_for(POLICY.reset_after));
        assert_eq!(backoff.immediate_or_delay(0), Duration::ZERO);
    }

    #[test]
    fn a_suggestion_is_honoured_between_our_own_delay_and_the_cap() {
        let seconds = Duration::from_secs;
        for (suggested, random, delay) in [
            (seconds(2), 0, seconds(2)),
            (seconds(60), 0, POLICY.max),
            (Duration::ZERO, u64::MAX, POLICY.min),
            (POLICY.min / 4, 0, POLICY.min / 2),
        ] {
            let mut backoff = Backoff::new(POLICY);
            assert_eq!(backoff.suggested_delay(suggested, random), delay, "{suggested:?}");
            assert_eq!(backoff.attempts(), 1, "it is an attempt like any other");
        }
    }

    proptest! {
        #[test]
        fn every_delay_is_in_the_upper_half_of_the_reference(
            min in 1_u64..10_000, max in 1_u64..10_000_000, randoms in prop::collection::vec(any::<u64>(), 1..80)
        ) {
            let (least, most) = (Duration::from_millis(min), Duration::from_millis(max));
            let mut backoff = Backoff::new(BackoffPolicy { min: least, max: most, reset_after: Duration::ZERO });
            for (attempt, random) in (0..).zip(randoms) {
                let whole = Duration::from_millis(reference(attempt, min, max));
                let delay = backoff.next_delay(random);
                prop_assert!(delay >= whole / 2 && delay <= whole, "{delay:?} of {whole:?}");
            }
        }
    }
}
