//! "Was I away?": the pure half of noticing sleep and stalls.
//!
//! Owns [`Heartbeat`]: two clocks at each beat. The machine slept when boot time grew more than monotonic time; the hub
//! was stopped or starved when a beat came much too late. Wall-clock time plays no part: people and NTP set it.
//! Invariant: each absence is told once. Never: reads a clock, or says anything about anybody else.

use serde::{Serialize, Serializer};
use std::time::Duration;

/// From one beat to the next. A wake is noticed within it, and two short wake-ups a second cost nothing to speak of.
pub(super) const PERIOD: Duration = Duration::from_millis(500);

/// Shorter absences are what every busy machine has, and harm no deadline.
const NOTICED: Duration = Duration::from_secs(1);

/// Two clocks at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reading {
    /// It goes on while the machine sleeps.
    pub(super) boot: Duration,
    /// It stops while the machine sleeps.
    pub(super) monotonic: Duration,
}

/// How long the hub was away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Away {
    /// How long the machine slept.
    #[serde(rename = "asleep_ms", serialize_with = "millis")]
    pub asleep: Duration,
    /// How long the hub got no time to run although the machine was awake.
    #[serde(rename = "stalled_ms", serialize_with = "millis")]
    pub stalled: Duration,
}

/// The last beat.
#[derive(Debug)]
pub(super) struct Heartbeat(Reading);

impl Heartbeat {
    pub(super) const fn new(now: Reading) -> Self {
        Self(now)
    }

    /// The next beat; what was missed since the last one.
    pub(super) fn beat(&mut self, now: Reading) -> Option<Away> {
        let last = std::mem::replace(&mut self.0, now);
        let monotonic = now.monotonic.saturating_sub(last.monotonic);
        let away = Away {
            asleep: now.boot.saturating_sub(last.boot).saturating_sub(monotonic),
            stalled: monotonic.saturating_sub(PERIOD),
        };
        (away.asleep >= NOTICED || away.stalled >= NOTICED).then_some(away)
    }
}

impl Away {
    /// Why links are asked, for people.
    pub(super) fn why(self) -> &'static str {
        if self.asleep >= NOTICED { "the machine slept" } else { "the hub was stopped or starved for a while" }
    }
}

fn millis<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn at(boot: Duration, monotonic: Duration) -> Reading {
        Reading { boot, monotonic }
    }

    fn beating() -> (Heartbeat, Reading) {
        let start = at(HOUR * 100, HOUR * 90);
        (Heartbeat::new(start), start)
    }

    #[test]
    fn beats_in_time_tell_nothing() {
        let (mut heart, mut now) = beating();
        for _ in 0..1000 {
            now = at(now.boot + PERIOD, now.monotonic + PERIOD);
            assert_eq!(heart.beat(now), None);
        }
    }

    /// Fault 48: a sleep of eight hours is sleep, and no stall.
    #[test]
    fn sleep_is_told_once_and_is_no_stall() {
        let (mut heart, now) = beating();
        let woken = at(now.boot + PERIOD + HOUR * 8, now.monotonic + PERIOD);
        assert_eq!(heart.beat(woken), Some(Away { asleep: HOUR * 8, stalled: Duration::ZERO }));
        assert_eq!(heart.beat(at(woken.boot + PERIOD, woken.monotonic + PERIOD)), None);
    }

    /// Fault 49: two hundred short wakes of a minute of sleep each are two hundred absences, each its own.
    #[test]
    fn dark_wakes_are_each_told() {
        let (mut heart, mut now) = beating();
        for _ in 0..200 {
            now = at(now.boot + PERIOD + HOUR / 60, now.monotonic + PERIOD);
            assert_eq!(heart.beat(now).map(|away| away.asleep), Some(HOUR / 60));
            now = at(now.boot + PERIOD, now.monotonic + PERIOD);
            assert_eq!(heart.beat(now), None);
        }
    }

    /// Faults 6 and 50: stopped for 1 s, 30 s and 10 min, and starved for 5 s.
    #[test]
    fn stalls_are_told() {
        for seconds in [1, 5, 30, 600] {
            let (mut heart, now) = beating();
            let gap = Duration::from_secs(seconds);
            let late = at(now.boot + PERIOD + gap, now.monotonic + PERIOD + gap);
            assert_eq!(heart.beat(late), Some(Away { asleep: Duration::ZERO, stalled: gap }));
        }
    }

    proptest! {
        #[test]
        fn whatever_the_clocks_do_nothing_is_made_up(
            steps in prop::collection::vec((0_u64..5_000, 0_u64..5_000, 0_u64..2_000), 1..50)
        ) {
            let (mut heart, mut now) = beating();
            for (awake, slept, back) in steps {
                let [awake, slept, back] = [awake, slept, back].map(Duration::from_millis);
                now = at((now.boot + awake + slept).saturating_sub(back), now.monotonic + awake);
                let away = heart.beat(now);
                if let Some(away) = away {
                    prop_assert!(away.asleep <= slept && away.stalled <= awake, "{away:?}");
                }
                prop_assert!(away.is_some() || (slept < NOTICED + back && awake < NOTICED + PERIOD), "missed");
            }
        }
    }
}
