//! How well an instance answers, measured by the hub's own small requests.
//!
//! [`Health`] derives a quality from the round trips. The quality decides when the next check-up is due, and how much
//! longer than usual the hub waits for an answer on a poor link. It is in `[0.5, 1]`: one late answer lowers it, and only
//! many fast answers raise it again. The pause between two check-ups is between `base` and `max`.
//!
//! [`Health`] is a plain value without a clock. It does not decide that an instance is dead: the link does.

mod round_trips;

use round_trips::RoundTrips;
use serde::Serialize;
use std::time::Duration;

/// An answer within this time counts as fast. On loopback it takes a tenth of a millisecond, on a busy machine longer.
const GOOD: Duration = Duration::from_millis(50);

/// The weight of one sample in the quality.
const WEIGHT: f64 = 1.0 / 8.0;

/// The quality of a link on which every answer is late. Waiting even longer would show nothing new.
const WORST: f64 = 0.5;

/// The factor by which an answer shortens the pause, down to `base`.
const RECOVER: f64 = 0.9;

/// The bounds of the pause between two check-ups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckupPolicy {
    /// The pause while the instance answers fast.
    pub base: Duration,
    /// The longest pause, which failed check-ups lead to.
    pub max: Duration,
}

/// The health of one instance.
#[derive(Debug, Clone)]
pub struct Health {
    policy: CheckupPolicy,
    interval: Duration,
    fails: u32,
    quality: f64,
    round_trips: RoundTrips,
}

/// The health of an instance as it is published.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct HealthStats {
    /// From 0.5 (every answer is late) to 1 (no answer is late).
    pub quality: f64,
    /// The number of check-ups in a row that were not answered in time.
    pub fails: u32,
    /// The pause before the next check-up, in milliseconds.
    pub interval_ms: u64,
    /// The moving average of the round trips, in microseconds.
    pub round_trip_us: u64,
    /// The median of the last 64 round trips, in microseconds.
    pub p50_us: u64,
    /// The 99th percentile of the last 64 round trips, in microseconds.
    pub p99_us: u64,
}

impl Health {
    /// Creates the health of an instance without any samples.
    #[must_use]
    pub fn new(policy: CheckupPolicy) -> Self {
        Self { policy, interval: policy.base, fails: 0, quality: 1.0, round_trips: RoundTrips::default() }
    }

    /// Records an answer and its round trip.
    pub fn answered(&mut self, took: Duration) {
        self.round_trips.add(took);
        self.fails = 0;
        self.interval = self.interval.mul_f64(RECOVER).max(self.policy.base);
        self.sample((GOOD.as_secs_f64() / took.as_secs_f64().max(f64::EPSILON)).min(1.0));
    }

    /// Records a check-up that was not answered in time.
    pub fn failed(&mut self) {
        self.fails = self.fails.saturating_add(1);
        let factor = 1_u32.checked_shl(self.fails).unwrap_or(u32::MAX);
        self.interval = self.policy.base.saturating_mul(factor).min(self.policy.max);
        self.late();
    }

    /// Records an answer that was late by an unknown time.
    pub fn late(&mut self) {
        self.sample(0.0);
    }

    /// The pause before the next check-up. A poor link is checked less often, because a check-up is traffic as well.
    #[must_use]
    pub fn pause(&self) -> Duration {
        self.interval.div_f64(self.quality).min(self.policy.max)
    }

    /// How long to wait on this link for an answer that a perfect link gives within `usual`.
    ///
    /// The time is `usual` divided by the square of the quality. TCP repeats a lost segment at intervals that double, so
    /// on a link that loses many packets the answers are very late. Without this allowance, a link that loses three
    /// packets of ten would be declared lost, and dialled again over the same network, several times a minute.
    #[must_use]
    pub fn patience(&self, usual: Duration) -> Duration {
        usual.div_f64(self.quality * self.quality)
    }

    /// The health as it is published.
    #[must_use]
    pub fn stats(&self) -> HealthStats {
        let [p50_us, p99_us] = self.round_trips.percentiles([50, 99]).map(micros);
        HealthStats {
            quality: (self.quality * 1000.0).round() / 1000.0,
            fails: self.fails,
            interval_ms: u64::try_from(self.pause().as_millis()).unwrap_or(u64::MAX),
            round_trip_us: micros(self.round_trips.smoothed()),
            p50_us,
            p99_us,
        }
    }

    fn sample(&mut self, sample: f64) {
        self.quality = (self.quality + (sample - self.quality) * WEIGHT).clamp(WORST, 1.0);
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
