//! Invariants of the machine under random inputs in any order.

use super::*;
use proptest::prelude::*;

/// The reference: what must hold for a link after any sequence of inputs, derived from a few values that are kept outside
/// the machine.
#[derive(Debug)]
struct Reference {
    registered: bool,
    generation: u128,
    /// Whether a probe is under way.
    probing: bool,
}

impl Reference {
    fn check(&self, harness: &Harness) -> Result<(), TestCaseError> {
        let machine = &harness.machine;
        let status = machine.status(harness.context);
        let busy =
            machine.dial_attempt().is_some() || machine.connection_number().is_some() || machine.deadline().is_some();
        prop_assert!(busy, "nothing will ever happen: {status:?}");
        let leaving = matches!(status.state, LinkState::Gone | LinkState::Draining);
        prop_assert_eq!(leaving, !self.registered, "{:?}", status);
        prop_assert_eq!(
            machine.accepts_requests(),
            matches!(status.state, LinkState::Active | LinkState::Suspect | LinkState::Draining)
        );
        if machine.accepts_requests() {
            prop_assert!(machine.connection_number().is_some());
            prop_assert!(matches!(status.breaker, BreakerStatus::Closed { .. }), "{status:?}");
        }
        if machine.connection_number().is_some() && matches!(status.state, LinkState::Suspect | LinkState::Tripped) {
            prop_assert!(self.probing || machine.deadline().is_some(), "the doubt will never be settled: {status:?}");
        }
        if let Some(deadline) = machine.deadline() {
            // The longest silence of the poorest link is some ten seconds, and every other bound is a minute or less.
            let most = Duration::from_secs(60);
            prop_assert!(deadline.at <= harness.context.now + most, "{deadline:?}");
        }
        prop_assert_eq!(status.record.generation, Uuid::from_u128(self.generation));
        Ok(())
    }
}

/// An input that is possible now. Results exist only for operations that are under way, as the actor guarantees.
fn input(choice: u8, harness: &Harness, reference: &mut Reference) -> Option<Input> {
    let machine = &harness.machine;
    let (dialling, connected) = (machine.dial_attempt().is_some(), machine.connection_number().is_some());
    Some(match choice {
        0 if dialling => CONNECTED,
        1 if dialling => refused(),
        2 if dialling => Input::DialFailed(failed(FailureKind::HelloTimeout, FailurePhase::Hello)),
        3 if connected => reset(),
        4 if connected => Input::ConnectionLost(failed(FailureKind::Drained, FailurePhase::Serve)),
        5 if connected => Input::ConnectionLost(failed(FailureKind::PingTimeout, FailurePhase::Serve)),
        6 if reference.probing => ANSWERED,
        7 if reference.probing => missed(),
        8 | 9 => Input::Check("a test"),
        10 => Input::Unregistered,
        11 => Input::OwnerDead,
        12 => Input::Registered(record(reference.generation)),
        13 => {
            reference.generation += 1;
            Input::Registered(record(reference.generation))
        }
        14..18 => Input::DeadlineReached,
        _ => return None,
    })
}

proptest! {
    #[test]
    fn the_invariants_hold_for_any_sequence_of_inputs(
        steps in prop::collection::vec((0_u8..20, 0_u64..12_000, any::<u64>()), 0..300)
    ) {
        let mut harness = Harness::new();
        let mut reference = Reference { registered: true, generation: 1, probing: false };
        for (choice, wait, random) in steps {
            harness.pass(Duration::from_millis(wait));
            harness.context.random = random;
            harness.context.process_stopped = random % 5 == 0;
            one(choice, &mut harness, &mut reference);
            reference.check(&harness)?;
        }
    }

    /// After the faults stop, the link connects: within the cap of the backoff if dials failed, and when the breaker allows
    /// it if connections failed.
    #[test]
    fn a_link_connects_within_the_cap_after_faults_stop(
        steps in prop::collection::vec((0_u8..20, 0_u64..12_000, any::<u64>()), 0..200)
    ) {
        let mut harness = Harness::new();
        let mut reference = Reference { registered: true, generation: 1, probing: false };
        for (choice, wait, random) in steps {
            harness.pass(Duration::from_millis(wait));
            harness.context.random = random;
            harness.context.process_stopped = random % 5 == 0;
            one(choice, &mut harness, &mut reference);
        }
        harness.context.process_stopped = false;
        harness.take(Input::Registered(record(reference.generation)));
        let was_waiting = !matches!(harness.machine.status(harness.context).breaker, BreakerStatus::Closed { .. });
        let cap = if was_waiting { Duration::from_secs(60 + 5) } else { Duration::from_secs(5) };
        let took = until_active(&mut harness, reference.probing)?;
        prop_assert!(took <= cap, "{took:?} > {cap:?}: {:?}", harness.machine.status(harness.context));
    }
}

/// Applies one random step.
fn one(choice: u8, harness: &mut Harness, reference: &mut Reference) {
    if choice == 18 {
        harness.context.last_read = harness.machine.connection_number().map(|_| harness.context.now);
        return;
    }
    let Some(input) = input(choice, harness, reference) else { return };
    match &input {
        Input::Unregistered | Input::OwnerDead => reference.registered = false,
        Input::Registered(_) => reference.registered = true,
        Input::ProbeAnswered(_) | Input::ProbeFailed(_) => reference.probing = false,
        Input::Declared(_)
        | Input::DeadlineReached
        | Input::Connected(_)
        | Input::DialFailed(_)
        | Input::ConnectionLost(_)
        | Input::Check(_) => {}
    }
    let held = harness.machine.connection_number();
    let effects = harness.take(input);
    if harness.machine.connection_number() != held {
        reference.probing = false;
        harness.context.last_read = None;
    }
    // A probe replaces one that is under way.
    reference.probing |= effects.contains(&Effect::SendProbe);
}

/// Lets every dial succeed and every probe be answered, and returns how long it takes until requests pass.
fn until_active(harness: &mut Harness, mut probing: bool) -> Result<Duration, TestCaseError> {
    let begun = harness.context.now;
    for _ in 0..100 {
        if harness.machine.state == LinkState::Active {
            return Ok(harness.context.now - begun);
        }
        let effects = if probing {
            harness.take(ANSWERED)
        } else if harness.machine.dial_attempt().is_some() {
            harness.context.last_read = None;
            harness.take(CONNECTED)
        } else {
            let deadline = harness.machine.deadline();
            prop_assert!(deadline.is_some(), "stuck: {:?}", harness.machine.status(harness.context));
            harness
                .pass(deadline.map_or(Duration::ZERO, |next| next.at.saturating_duration_since(harness.context.now)));
            harness.context.last_read = harness.machine.connection_number().map(|_| harness.context.now);
            harness.take(Input::DeadlineReached)
        };
        probing = effects.contains(&Effect::SendProbe);
    }
    Err(TestCaseError::fail(format!("never active: {:?}", harness.machine.status(harness.context))))
}
