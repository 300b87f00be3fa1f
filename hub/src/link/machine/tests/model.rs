//! What holds whatever happens, in any order.

use super::*;
use proptest::prelude::*;

/// The reference: what must be true of a link whatever happened, from a few facts that are kept apart from the machine.
#[derive(Debug)]
struct Reference {
    registered: bool,
    generation: u128,
    /// Whether a probe is under way.
    probing: bool,
}

impl Reference {
    fn check(&self, bench: &Bench) -> Result<(), TestCaseError> {
        let machine = &bench.machine;
        let status = machine.status(bench.now);
        let busy = machine.dialling().is_some() || machine.connection().is_some() || machine.deadline().is_some();
        prop_assert!(busy, "nothing will ever happen: {status:?}");
        let leaving = matches!(status.state, State::Gone | State::Draining);
        prop_assert_eq!(leaving, !self.registered, "{:?}", status);
        prop_assert_eq!(machine.passes(), matches!(status.state, State::Active | State::Suspect | State::Draining));
        if machine.passes() {
            prop_assert!(machine.connection().is_some());
            prop_assert!(matches!(status.breaker, BreakerFacts::Closed { .. }), "{status:?}");
        }
        if machine.connection().is_some() && matches!(status.state, State::Suspect | State::Tripped) {
            prop_assert!(self.probing || machine.deadline().is_some(), "the doubt will never be settled: {status:?}");
        }
        if let Some(deadline) = machine.deadline() {
            // Patience with the poorest link is some ten seconds; everything else has shorter bounds or a minute.
            let most = Duration::from_secs(60);
            prop_assert!(deadline.at <= bench.now.at + most, "{deadline:?}");
        }
        prop_assert_eq!(status.record.generation, Uuid::from_u128(self.generation));
        Ok(())
    }
}

/// What may happen now: answers come only to what is under way, as the actor guarantees.
fn input(choice: u8, bench: &Bench, reference: &mut Reference) -> Option<Input> {
    let machine = &bench.machine;
    let (dialling, connected) = (machine.dialling().is_some(), machine.connection().is_some());
    Some(match choice {
        0 if dialling => CONNECTED,
        1 if dialling => refused(),
        2 if dialling => Input::DialFailed(failed(Kind::HelloTimeout, Phase::Hello)),
        3 if connected => reset(),
        4 if connected => Input::Lost(failed(Kind::Drained, Phase::Serve)),
        5 if connected => Input::Lost(failed(Kind::PingTimeout, Phase::Serve)),
        6 if reference.probing => ANSWERED,
        7 if reference.probing => missed(),
        8 | 9 => Input::Check("a test"),
        10 => Input::Unregistered,
        11 => Input::OwnerDead,
        12 => Input::Found(record(reference.generation)),
        13 => {
            reference.generation += 1;
            Input::Found(record(reference.generation))
        }
        14..18 => Input::Due,
        _ => return None,
    })
}

proptest! {
    #[test]
    fn nothing_that_can_happen_breaks_what_must_hold(
        steps in prop::collection::vec((0_u8..20, 0_u64..12_000, any::<u64>()), 0..300)
    ) {
        let mut bench = Bench::new();
        let mut reference = Reference { registered: true, generation: 1, probing: false };
        for (choice, wait, random) in steps {
            bench.pass(Duration::from_millis(wait));
            bench.now.random = random;
            bench.now.stopped = random % 5 == 0;
            one(choice, &mut bench, &mut reference);
            reference.check(&bench)?;
        }
    }

    /// After faults stop, the link is connected: within the cap of the backoff if it was the dials that failed, and when
    /// the breaker lets it if it was connections.
    #[test]
    fn when_faults_stop_it_is_connected_within_the_cap(
        steps in prop::collection::vec((0_u8..20, 0_u64..12_000, any::<u64>()), 0..200)
    ) {
        let mut bench = Bench::new();
        let mut reference = Reference { registered: true, generation: 1, probing: false };
        for (choice, wait, random) in steps {
            bench.pass(Duration::from_millis(wait));
            bench.now.random = random;
            bench.now.stopped = random % 5 == 0;
            one(choice, &mut bench, &mut reference);
        }
        bench.now.stopped = false;
        bench.take(Input::Found(record(reference.generation)));
        let was_waiting = !matches!(bench.machine.status(bench.now).breaker, BreakerFacts::Closed { .. });
        let cap = if was_waiting { Duration::from_secs(60 + 5) } else { Duration::from_secs(5) };
        let took = until_active(&mut bench, reference.probing)?;
        prop_assert!(took <= cap, "{took:?} > {cap:?}: {:?}", bench.machine.status(bench.now));
    }
}

/// One step of the world. Answers come only to what is under way.
fn one(choice: u8, bench: &mut Bench, reference: &mut Reference) {
    if choice == 18 {
        bench.now.heard = bench.machine.connection().map(|_| bench.now.at);
        return;
    }
    let Some(input) = input(choice, bench, reference) else { return };
    match &input {
        Input::Unregistered | Input::OwnerDead => reference.registered = false,
        Input::Found(_) => reference.registered = true,
        Input::ProbeAnswered(_) | Input::ProbeFailed(_) => reference.probing = false,
        Input::Declared(_)
        | Input::Due
        | Input::Connected(_)
        | Input::DialFailed(_)
        | Input::Lost(_)
        | Input::Check(_) => {}
    }
    let held = bench.machine.connection();
    let effects = bench.take(input);
    if bench.machine.connection() != held {
        reference.probing = false;
        bench.now.heard = None;
    }
    // A probe replaces one that is under way.
    reference.probing |= effects.contains(&Effect::Probe);
}

/// A peer that is well from now on: every dial succeeds, every probe is answered. How long until requests pass.
fn until_active(bench: &mut Bench, mut probing: bool) -> Result<Duration, TestCaseError> {
    let begun = bench.now.at;
    for _ in 0..100 {
        if bench.machine.state == State::Active {
            return Ok(bench.now.at - begun);
        }
        let effects = if probing {
            bench.take(ANSWERED)
        } else if bench.machine.dialling().is_some() {
            bench.now.heard = None;
            bench.take(CONNECTED)
        } else {
            let deadline = bench.machine.deadline();
            prop_assert!(deadline.is_some(), "stuck: {:?}", bench.machine.status(bench.now));
            bench.pass(deadline.map_or(Duration::ZERO, |next| next.at.saturating_duration_since(bench.now.at)));
            bench.now.heard = bench.machine.connection().map(|_| bench.now.at);
            bench.take(Input::Due)
        };
        probing = effects.contains(&Effect::Probe);
    }
    Err(TestCaseError::fail(format!("never active: {:?}", bench.machine.status(bench.now))))
}
