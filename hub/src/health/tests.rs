use super::*;
use proptest::prelude::*;

const POLICY: CheckupPolicy = CheckupPolicy { base: Duration::from_secs(5), max: Duration::from_secs(60) };
const FAST: Duration = Duration::from_micros(100);

#[test]
fn pauses_double_with_failures_and_shrink_with_answers() {
    let mut health = Health::new(POLICY);
    let pauses: Vec<_> = (0..5)
        .map(|_| {
            health.failed();
            health.interval.as_secs()
        })
        .collect();
    assert_eq!(pauses, [10, 20, 40, 60, 60]);
    health.answered(FAST);
    assert_eq!((health.interval.as_secs(), health.fails), (54, 0));
    (0..40).for_each(|_| health.answered(FAST));
    assert_eq!(health.interval, POLICY.base);
}

#[test]
fn a_late_answer_is_forgotten_only_after_many_fast_ones() {
    let mut health = Health::new(POLICY);
    health.late();
    let after_one = health.quality;
    assert!(after_one < 0.9, "{after_one}");
    assert!(health.pause() > POLICY.base && health.patience(GOOD) > GOOD);
    health.answered(FAST);
    assert!(health.quality > after_one && health.quality < 0.95);
    (0..60).for_each(|_| health.answered(FAST));
    assert!(health.quality > 0.999);
    assert_eq!(health.stats().p99_us, 100);
}

/// If three packets of ten are lost in each direction, TCP delays every second answer by 200 ms or more.
#[test]
fn a_link_that_loses_a_third_gets_several_times_the_patience() {
    let mut health = Health::new(POLICY);
    for round in 0..40 {
        health.answered(if round % 2 == 0 { FAST } else { Duration::from_millis(200) });
    }
    let usual = Duration::from_millis(750);
    assert!(health.patience(usual) > usual * 2, "{:?} at {}", health.patience(usual), health.quality);
}

proptest! {
    #[test]
    fn the_bounds_hold_for_any_samples(steps in prop::collection::vec((0_u8..3, 0_u64..10_000_000), 0..300)) {
        let mut health = Health::new(POLICY);
        for (step, took) in steps {
            let before = health.quality;
            match step {
                0 => health.answered(Duration::from_micros(took)),
                1 => health.failed(),
                _ => health.late(),
            }
            prop_assert!((WORST..=1.0).contains(&health.quality));
            prop_assert!((health.quality - before).abs() <= WEIGHT);
            prop_assert!(health.pause() >= POLICY.base && health.pause() <= POLICY.max);
            prop_assert!(health.patience(GOOD) >= GOOD && health.patience(GOOD) <= GOOD * 12);
        }
    }
}
