//! How well an instance answers: the pure half of its check-ups.
//!
//! Owns [`Health`]: the round trips of the hub's own small requests, the quality that follows from them, when the next
//! check-up is due, and how much longer than usual a link of poor quality is waited for.
//! Invariant: quality is in `[0.5, 1]`; one late answer lowers it, only many good ones raise it again. The pause between
//! two check-ups is between `base` and `max`.
//! Never: reads a clock, sends anything, or calls an instance dead. What a link makes of it is the link's.

mod round_trips;

use round_trips::RoundTrips;
use serde::Serialize;
use std::time::Duration;

/// An answer within this is as good as any: on loopback it takes a tenth of a millisecond, on a busy machine some more.
const GOOD: Duration = Duration::from_millis(50);

/// How much one sample moves the quality.
const WEIGHT: f64 = 1.0 / 8.0;

/// The quality of a link on which everything is late. Below it, waiting longer shows nothing new.
const WORST: f64 = 0.5;

/// After a good answer the pause goes back towards `base` by this factor.
const RECOVER: f64 = 0.9;

/// How often check-ups are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// The pause while all is well.
    pub base: Duration,
    /// The longest pause.
    pub max: Duration,
}

/// How well one instance answers.
#[derive(Debug, Clone)]
pub struct Health {
    policy: Policy,
    interval: Duration,
    fails: u32,
    quality: f64,
    round_trips: RoundTrips,
}

/// What others may know of it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Facts {
    /// From 0.5, everything is late, to 1, nothing is.
    pub quality: f64,
    /// Check-ups in a row that were not answered in time.
    pub fails: u32,
    /// The pause to the next check-up, in milliseconds.
    pub interval_ms: u64,
    /// Round trips in microseconds, smoothed.
    pub round_trip_us: u64,
    /// Half of the last 64 round trips took no longer, in microseconds.
    pub p50_us: u64,
    /// Of the last 64 round trips nearly none took longer, in microseconds.
    pub p99_us: u64,
}

impl Health {
    /// Of an instance of which nothing bad is known.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        Self { policy, interval: policy.base, fails: 0, quality: 1.0, round_trips: RoundTrips::default() }
    }

    /// It answered, after so long.
    pub fn answered(&mut self, took: Duration) {
        self.round_trips.add(took);
        self.fails = 0;
        self.interval = self.interval.mul_f64(RECOVER).max(self.policy.base);
        self.sample((GOOD.as_secs_f64() / took.as_secs_f64().max(f64::EPSILON)).min(1.0));
    }

    /// It did not answer a check-up in time.
    pub fn failed(&mut self) {
        self.fails = self.fails.saturating_add(1);
        let factor = 1_u32.checked_shl(self.fails).unwrap_or(u32::MAX);
        self.interval = self.policy.base.saturating_mul(factor).min(self.policy.max);
        self.late();
    }

    /// Something that it always does at once took long: a sample without a number.
    pub fn late(&mut self) {
        self.sample(0.0);
    }

    /// The pause before the next check-up: a poor link is asked less often, for asking is traffic too.
    #[must_use]
    pub fn pause(&self) -> Duration {
        self.interval.div_f64(self.quality).min(self.policy.max)
    }

    /// How long to wait on this link for what a perfect one does within `usual`.
    ///
    /// It grows with the square of what is lost: TCP repeats a lost segment after times that double, so on a link that
    /// loses much the answers are not late by a little. Without this a link that loses three packets of ten would be
    /// called lost, and dialled again through the same loss, several times a minute.
    #[must_use]
    pub fn patience(&self, usual: Duration) -> Duration {
        usual.div_f64(self.quality * self.quality)
    }

    /// What others may know.
    #[must_use]
    pub fn facts(&self) -> Facts {
        let [p50_us, p99_us] = self.round_trips.percentiles([50, 99]).map(micros);
        Facts {
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
