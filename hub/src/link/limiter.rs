//! How fast all links together may dial.
//!
//! Owns the next free place in one queue for every link: a reservation says when its holder may dial, in the order in
//! which they were asked for, so a storm of five hundred lost links becomes an even trickle that starves nobody.
//! Invariant: in any stretch of time `t` at most `burst + t × rate` dials begin.
//! Never: sleeps or reads a clock. A reservation that is given up is not handed back; the trickle only gets thinner.

use std::time::Duration;
use tokio::time::Instant;

/// The queue of dials.
#[derive(Debug)]
pub(super) struct Limiter {
    /// The time from one dial to the next.
    gap: Duration,
    /// How far the queue may be behind before it is used without waiting.
    slack: Duration,
    /// When the next dial would begin if all of them were spread evenly.
    next: Option<Instant>,
}

impl Limiter {
    /// A queue of so many dials a second.
    ///
    /// A fifth of a second's dials may begin at once, so that the few links of an ordinary machine never wait, and no
    /// second ever sees more than 1.2 times the rate.
    pub(super) fn new(per_second: u32) -> Self {
        let rate = per_second.max(1);
        Self { gap: Duration::from_secs(1) / rate, slack: Duration::from_secs(1) * (rate / 5) / rate, next: None }
    }

    /// Takes the next place and says when to dial.
    pub(super) fn reserve(&mut self, now: Instant) -> Instant {
        let earliest = now.checked_sub(self.slack).unwrap_or(now);
        let place = self.next.map_or(earliest, |next| next.max(earliest));
        self.next = Some(place + self.gap);
        place.max(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_storm_is_spread_and_an_idle_queue_does_not_wait() {
        let (mut limiter, now) = (Limiter::new(50), Instant::now());
        let last = (0..500).map(|_| limiter.reserve(now)).last().unwrap();
        assert!(last >= now + Duration::from_secs(9) && last <= now + Duration::from_secs(10));
        let later = last + Duration::from_secs(1);
        assert_eq!(limiter.reserve(later), later);
    }

    proptest! {
        #[test]
        fn no_second_sees_more_than_the_rate_and_its_burst(
            rate in 1_u32..200, waits in prop::collection::vec(0_u64..60, 1..400)
        ) {
            let mut now = Instant::now();
            let mut limiter = Limiter::new(rate);
            let mut dials = Vec::new();
            for wait in waits {
                now += Duration::from_millis(wait);
                let at = limiter.reserve(now);
                prop_assert!(at >= now && dials.last().is_none_or(|last| *last <= at), "in order");
                dials.push(at);
            }
            // One more than the quotient: both ends of the second may hold a dial.
            let most = (rate + rate / 5 + 1) as usize;
            for (first, start) in dials.iter().enumerate() {
                let within = dials[first..].iter().take_while(|at| **at < *start + Duration::from_secs(1)).count();
                prop_assert!(within <= most, "{within} > {most}");
            }
        }
    }
}
