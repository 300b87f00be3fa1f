//! Limits how fast all links together may dial.
//!
//! All links share one queue. A reservation says when its holder may dial, and reservations are served in the order in
//! which they were made. So five hundred links that are lost together dial at an even rate, and none of them starves. In
//! any period of length `t` at most `burst + t × rate` dials begin. A reservation that is not used is not returned.

use std::time::Duration;
use tokio::time::Instant;

/// The queue of the dials of all links.
#[derive(Debug)]
pub(super) struct DialLimiter {
    /// The time from one dial to the next.
    gap: Duration,
    /// How much unused time is kept for a burst.
    burst: Duration,
    /// When the next dial would begin if all dials were spread evenly.
    next: Option<Instant>,
}

impl DialLimiter {
    /// Creates a queue that allows `per_second` dials a second.
    ///
    /// A fifth of the dials of a second may begin at once. So the few links of an ordinary machine do not wait, and no
    /// second sees more than 1.2 times the rate.
    pub(super) fn new(per_second: u32) -> Self {
        let rate = per_second.max(1);
        Self { gap: Duration::from_secs(1) / rate, burst: Duration::from_secs(1) * (rate / 5) / rate, next: None }
    }

    /// Reserves the next place in the queue and returns when its holder may dial.
    pub(super) fn reserve(&mut self, now: Instant) -> Instant {
        let earliest = now.checked_sub(self.burst).unwrap_or(now);
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
    fn a_storm_is_spread_and_an_idle_queue_does_not_delay() {
        let (mut limiter, now) = (DialLimiter::new(50), Instant::now());
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
            let mut limiter = DialLimiter::new(rate);
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
