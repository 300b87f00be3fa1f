//! Random bits for jitter.
//!
//! [`crate::backoff`] is pure: its callers pass random bits in, and draw them here.

use jiff::Timestamp;

/// Returns 64 random bits, for example for [`Backoff::next_delay`](crate::backoff::Backoff::next_delay).
///
/// They are for jitter only, never for secrets: when the system provides no randomness, they come from the clock, so
/// that many processes still do not retry at the same moment.
#[must_use]
pub fn bits() -> u64 {
    getrandom::u64().unwrap_or_else(|_| spread(Timestamp::now().subsec_nanosecond().unsigned_abs()))
}

/// Spreads the few bits of a clock reading over all 64: jitter is a fraction of the whole range.
const fn spread(nanoseconds: u32) -> u64 {
    (nanoseconds as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clock_readings_spread_over_the_whole_range() {
        let upper_half = (0..1000).filter(|reading| spread(reading * 1_000) > u64::MAX / 2).count();
        assert!((300..700).contains(&upper_half), "{upper_half} of 1000");
        assert_ne!(bits(), bits());
    }
}
