//! The panic hold (grade P of the ladder): when it is the machine that is sick, leave the instances alone.
//!
//! Owns [`Hold`]. It begins when more than half of at least four links went bad within one window, or when the hub itself
//! was away; it ends when nothing of that happened for a while. While it holds, nothing above reconnecting is done to
//! anybody: no restart, no quarantine.
//! Invariant: a link counts once in a window, however often it went bad. Never: reads a clock, or keeps a link from
//! being dialled.

use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;
use uuid::Uuid;

/// Fewer links than this say nothing about the machine: two of three may well be sick by themselves.
const ENOUGH: usize = 4;

/// What has one cause shows within this time: the PINGs of all links find it within three seconds.
const WINDOW: Duration = Duration::from_secs(5);

/// How long nothing may happen before the hold ends.
const CALM: Duration = Duration::from_secs(10);

/// Whether the ladder is held.
#[derive(Debug, Default)]
pub(super) struct Hold {
    /// When each link went bad last, within the window.
    bad: BTreeMap<Uuid, Instant>,
    held: Option<Held>,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    why: Why,
    /// When something last happened that keeps it.
    last: Instant,
}

/// Why the ladder is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// So many of all links went bad together.
    Links { bad: usize, all: usize },
    /// The hub was away.
    Away,
}

impl Hold {
    /// These links went bad since the last look; so many are there in all.
    pub(super) fn went_bad(&mut self, links: impl IntoIterator<Item = Uuid>, all: usize, now: Instant) {
        self.bad.extend(links.into_iter().map(|link| (link, now)));
        self.bad.retain(|_, since| now.saturating_duration_since(*since) < WINDOW);
        let bad = self.bad.len();
        if all >= ENOUGH && bad * 2 > all {
            self.hold(Why::Links { bad, all }, now);
        }
    }

    /// The hub was away: whatever it finds now may be its own doing.
    pub(super) fn away(&mut self, now: Instant) {
        self.hold(Why::Away, now);
    }

    /// Why the ladder is held now, if it is.
    pub(super) fn held(&mut self, now: Instant) -> Option<Why> {
        self.held = self.held.filter(|held| now.saturating_duration_since(held.last) < CALM);
        self.held.map(|held| held.why)
    }

    fn hold(&mut self, why: Why, now: Instant) {
        self.held = Some(Held { why, last: now });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ids(numbers: std::ops::Range<u128>) -> Vec<Uuid> {
        numbers.map(Uuid::from_u128).collect()
    }

    #[test]
    fn more_than_half_of_at_least_four_hold_and_calm_releases() {
        for (bad, all, held) in [(2, 4, false), (3, 4, true), (3, 3, false), (5, 10, false), (6, 10, true)] {
            let (mut hold, now) = (Hold::default(), Instant::now());
            hold.went_bad(ids(0..bad), all, now);
            assert_eq!(hold.held(now).is_some(), held, "{bad} of {all}");
            assert_eq!(hold.held(now + CALM), None);
        }
    }

    #[test]
    fn what_is_spread_over_time_or_is_one_link_is_not_the_machine() {
        let (mut hold, mut now) = (Hold::default(), Instant::now());
        for link in 0..4 {
            hold.went_bad(ids(link..link + 1), 4, now);
            assert_eq!(hold.held(now), None);
            now += WINDOW / 2;
        }
        for _ in 0..20 {
            hold.went_bad(ids(0..1), 4, now);
            assert_eq!(hold.held(now), None);
        }
    }

    #[test]
    fn an_absence_holds_and_new_trouble_holds_longer() {
        let (mut hold, now) = (Hold::default(), Instant::now());
        hold.away(now);
        assert_eq!(hold.held(now + CALM / 2), Some(Why::Away));
        hold.went_bad(ids(0..4), 4, now + CALM / 2);
        assert_eq!(hold.held(now + CALM), Some(Why::Links { bad: 4, all: 4 }));
        assert_eq!(hold.held(now + CALM + CALM / 2), None);
    }

    proptest! {
        /// Against the plain reading of the rule over the whole history.
        #[test]
        fn it_holds_exactly_while_it_must(
            steps in prop::collection::vec((0_u64..4_000, 0_u128..8, prop::bool::weighted(0.1)), 1..80)
        ) {
            const ALL: usize = 8;
            let start = Instant::now();
            let (mut hold, mut now) = (Hold::default(), start);
            let (mut history, mut trouble): (Vec<(Instant, u128)>, Option<Instant>) = (Vec::new(), None);
            for (wait, link, away) in steps {
                now += Duration::from_millis(wait);
                if away {
                    hold.away(now);
                    trouble = Some(now);
                } else {
                    hold.went_bad([Uuid::from_u128(link)], ALL, now);
                    history.push((now, link));
                    let recent = history.iter().filter(|(at, _)| now - *at < WINDOW).map(|(_, link)| link);
                    if recent.collect::<std::collections::BTreeSet<_>>().len() * 2 > ALL {
                        trouble = Some(now);
                    }
                }
                prop_assert_eq!(hold.held(now).is_some(), trouble.is_some_and(|at| now - at < CALM));
            }
        }
    }
}
