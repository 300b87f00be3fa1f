//! The last 64 round trips of one link, with their moving average and percentiles (by nearest rank).

use std::time::Duration;

const KEPT: usize = 64;

/// The weight with which TCP smooths its own round trips (RFC 6298, section 2).
const WEIGHT: f64 = 1.0 / 8.0;

#[derive(Debug, Clone, Default)]
pub(super) struct RoundTrips {
    last: Vec<Duration>,
    next: usize,
    smoothed: Option<f64>,
}

impl RoundTrips {
    pub(super) fn add(&mut self, took: Duration) {
        let seconds = took.as_secs_f64();
        self.smoothed = Some(self.smoothed.map_or(seconds, |smoothed| smoothed + (seconds - smoothed) * WEIGHT));
        match self.last.get_mut(self.next) {
            Some(oldest) => *oldest = took,
            None => self.last.push(took),
        }
        self.next = (self.next + 1) % KEPT;
    }

    /// The moving average, or zero without samples.
    pub(super) fn smoothed(&self) -> Duration {
        Duration::from_secs_f64(self.smoothed.unwrap_or_default())
    }

    /// The samples that are not exceeded by these percentages of all samples, or zero without samples.
    pub(super) fn percentiles<const N: usize>(&self, percents: [usize; N]) -> [Duration; N] {
        let mut sorted = self.last.clone();
        sorted.sort_unstable();
        percents.map(|percent| {
            let rank = (sorted.len() * percent).div_ceil(100).max(1);
            sorted.get(rank - 1).copied().unwrap_or_default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_samples_count_and_earlier_ones_do_not() {
        let mut trips = RoundTrips::default();
        assert_eq!((trips.percentiles([50, 99]), trips.smoothed()), ([Duration::ZERO; 2], Duration::ZERO));
        let millis = |range: std::ops::RangeInclusive<u64>| range.map(Duration::from_millis);
        millis(1000..=1100).for_each(|took| trips.add(took));
        millis(1..=KEPT as u64).for_each(|took| trips.add(took));
        assert_eq!(trips.percentiles([50, 99]).map(|took| took.as_millis()), [32, 64]);
        assert!(trips.smoothed() < Duration::from_millis(64), "{:?}", trips.smoothed());
    }
}
