//! The rule that protects instances when the machine, not they, is the likely cause of a failure.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;
use tokio::time::Instant;
use uuid::Uuid;

/// With fewer links than this, nothing follows about the machine: two of three may well fail independently.
const MIN_LINKS: usize = 4;

/// Failures within this window may have one cause: the PINGs of all links find it within three seconds.
const WINDOW: Duration = Duration::from_secs(5);

/// How long nothing may fail before the hold ends.
const CALM: Duration = Duration::from_secs(10);

/// Stops all recovery actions above reconnecting while most links fail together.
///
/// This is Envoy's panic threshold. A hold begins when more than half of at least four links failed within one window, or
/// when the hub itself was away. It ends after a period without such events. During a hold no instance is restarted or
/// quarantined; links are dialled all the same. A link counts once in a window, however often it failed.
#[derive(Debug, Default)]
pub(super) struct RecoveryHold {
    /// When each link failed last, within the window.
    failed: BTreeMap<Uuid, Instant>,
    active: Option<ActiveHold>,
}

#[derive(Debug, Clone, Copy)]
struct ActiveHold {
    reason: HoldReason,
    /// The last event that prolonged the hold.
    last_event: Instant,
}

/// Why recovery actions are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HoldReason {
    /// This many of all links failed together.
    LinksFailed { failed: usize, all: usize },
    /// The hub was stopped, starved, or asleep with the machine.
    HubWasAway,
}

impl fmt::Display for HoldReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LinksFailed { failed, all } => {
                write!(f, "{failed} of {all} links failed together: the machine is suspected, not the instances")
            }
            Self::HubWasAway => {
                f.write_str("the hub itself was away: the machine slept, or the hub was stopped or starved")
            }
        }
    }
}

impl RecoveryHold {
    /// Notes the links that failed since the last call. `all` is the number of all links.
    pub(super) fn links_failed(&mut self, links: impl IntoIterator<Item = Uuid>, all: usize, now: Instant) {
        self.failed.extend(links.into_iter().map(|link| (link, now)));
        self.failed.retain(|_, at| now.saturating_duration_since(*at) < WINDOW);
        let failed = self.failed.len();
        if all >= MIN_LINKS && failed * 2 > all {
            self.hold(HoldReason::LinksFailed { failed, all }, now);
        }
    }

    /// Notes that the hub was away, because the failures that it finds now may have its absence as their cause.
    pub(super) fn hub_was_away(&mut self, now: Instant) {
        self.hold(HoldReason::HubWasAway, now);
    }

    /// The reason of the active hold.
    pub(super) fn reason(&mut self, now: Instant) -> Option<HoldReason> {
        self.active = self.active.filter(|active| now.saturating_duration_since(active.last_event) < CALM);
        self.active.map(|active| active.reason)
    }

    fn hold(&mut self, reason: HoldReason, now: Instant) {
        self.active = Some(ActiveHold { reason, last_event: now });
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
    fn a_hold_needs_more_than_half_of_at_least_four_links() {
        for (failed, all, held) in [(2, 4, false), (3, 4, true), (3, 3, false), (5, 10, false), (6, 10, true)] {
            let (mut hold, now) = (RecoveryHold::default(), Instant::now());
            hold.links_failed(ids(0..failed), all, now);
            assert_eq!(hold.reason(now).is_some(), held, "{failed} of {all}");
            assert_eq!(hold.reason(now + CALM), None);
        }
    }

    #[test]
    fn failures_over_time_or_of_one_link_do_not_hold() {
        let (mut hold, mut now) = (RecoveryHold::default(), Instant::now());
        for link in 0..4 {
            hold.links_failed(ids(link..link + 1), 4, now);
            assert_eq!(hold.reason(now), None);
            now += WINDOW / 2;
        }
        for _ in 0..20 {
            hold.links_failed(ids(0..1), 4, now);
            assert_eq!(hold.reason(now), None);
        }
    }

    #[test]
    fn an_absence_of_the_hub_holds_and_failures_prolong_the_hold() {
        let (mut hold, now) = (RecoveryHold::default(), Instant::now());
        hold.hub_was_away(now);
        assert_eq!(hold.reason(now + CALM / 2), Some(HoldReason::HubWasAway));
        hold.links_failed(ids(0..4), 4, now + CALM / 2);
        assert_eq!(hold.reason(now + CALM), Some(HoldReason::LinksFailed { failed: 4, all: 4 }));
        assert_eq!(hold.reason(now + CALM + CALM / 2), None);
    }

    proptest! {
        /// Compares the hold with a direct evaluation of the rule over the whole history.
        #[test]
        fn the_hold_equals_the_reference(
            steps in prop::collection::vec((0_u64..4_000, 0_u128..8, prop::bool::weighted(0.1)), 1..80)
        ) {
            const ALL: usize = 8;
            let start = Instant::now();
            let (mut hold, mut now) = (RecoveryHold::default(), start);
            let (mut history, mut trouble): (Vec<(Instant, u128)>, Option<Instant>) = (Vec::new(), None);
            for (wait, link, away) in steps {
                now += Duration::from_millis(wait);
                if away {
                    hold.hub_was_away(now);
                    trouble = Some(now);
                } else {
                    hold.links_failed([Uuid::from_u128(link)], ALL, now);
                    history.push((now, link));
                    let recent = history.iter().filter(|(at, _)| now - *at < WINDOW).map(|(_, link)| link);
                    if recent.collect::<std::collections::BTreeSet<_>>().len() * 2 > ALL {
                        trouble = Some(now);
                    }
                }
                prop_assert_eq!(hold.reason(now).is_some(), trouble.is_some_and(|at| now - at < CALM));
            }
        }
    }
}
