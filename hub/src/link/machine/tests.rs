//! The machine alone: no socket, no task, no clock.

use super::*;
use linchpin_shared::failure::{Kind, Phase};
use linchpin_shared::settings::Settings;
use proptest::prelude::*;
use serde_json::json;
use uuid::Uuid;

/// A machine with its own time.
struct Bench {
    machine: Machine,
    now: Moment,
}

fn record(generation: u128) -> Arc<Record> {
    let record = json!({
        "format": 1, "id": Uuid::nil(), "name": "shop", "generation": Uuid::from_u128(generation),
        "endpoint": "http://127.0.0.1:1", "protocol": "h2c", "secret": "s", "project_dir": "/", "version": "1",
        "process": {"pid": 42, "start_ticks": 1, "boot_id": "b", "executable": "/x"},
        "registered_at": "2026-11-20T10:00:00Z"
    });
    Arc::new(Record::parse(record.to_string().as_bytes()).unwrap())
}

fn failed(kind: Kind, phase: Phase) -> Failure {
    Failure::new(kind, phase)
}

fn refused() -> Input {
    Input::DialFailed(failed(Kind::Refused, Phase::Dial))
}

fn reset() -> Input {
    Input::Lost(failed(Kind::Reset, Phase::Serve))
}

const CONNECTED: Input = Input::Connected(Duration::from_millis(1));
const ANSWERED: Input = Input::ProbeAnswered(Duration::from_millis(1));

fn missed() -> Input {
    Input::ProbeFailed(failed(Kind::PingTimeout, Phase::Serve))
}

impl Bench {
    fn new() -> Self {
        // The highest random bits make every delay the longest that it can be.
        let now = Moment { at: Instant::now(), wall: Timestamp::UNIX_EPOCH, random: u64::MAX };
        let params = crate::link::Numbers::from(&Settings::default().link).machine;
        Self { machine: Machine::new(record(1), params, now), now }
    }

    fn connected() -> Self {
        let mut bench = Self::new();
        bench.take(CONNECTED);
        bench.sees(State::Active);
        bench
    }

    fn take(&mut self, input: Input) -> Vec<Effect> {
        self.machine.handle(input, self.now)
    }

    fn pass(&mut self, time: Duration) {
        self.now.at += time;
        self.now.wall += time;
    }

    /// Lets the time of the next deadline come.
    fn due(&mut self) -> Vec<Effect> {
        let deadline = self.machine.deadline().expect("a deadline");
        self.pass(deadline.at.saturating_duration_since(self.now.at));
        self.take(Input::Due)
    }

    fn until_deadline(&self, reason: Reason) -> Duration {
        let deadline = self.machine.deadline().expect("a deadline");
        assert_eq!(deadline.reason, reason);
        deadline.at - self.now.at
    }

    #[track_caller]
    fn sees(&self, state: State) {
        let status = self.machine.status(self.now);
        assert_eq!(status.state, state, "{status:?}");
    }
}

#[test]
fn a_link_dials_at_once_and_then_by_backoff() {
    let mut bench = Bench::new();
    bench.sees(State::Connecting);
    let mut delays = Vec::new();
    for _ in 0..9 {
        assert!(bench.machine.dialling().is_some());
        assert_eq!(bench.take(refused()), [Effect::Nudge]);
        delays.push(bench.until_deadline(Reason::Dial).as_millis());
        bench.due();
    }
    assert_eq!(delays, [200, 400, 800, 1600, 3200, 5000, 5000, 5000, 5000], "the policy for never connected");
}

#[test]
fn a_proven_connection_that_breaks_is_dialled_again_at_once_but_only_once() {
    let mut bench = Bench::connected();
    assert_eq!(bench.take(reset()), [Effect::Nudge]);
    bench.sees(State::Connecting);
    bench.take(CONNECTED);
    bench.take(reset());
    bench.sees(State::Retrying);
    assert_eq!(bench.until_deadline(Reason::Dial), Duration::from_millis(100));
}

#[test]
fn ten_seconds_of_health_forget_earlier_failures_and_nothing_less_does() {
    let mut bench = Bench::connected();
    for (healthy, at_once) in [(9_999, true), (9_999, false), (10_000, true)] {
        bench.pass(Duration::from_millis(healthy));
        bench.take(reset());
        assert_eq!(bench.machine.dialling().is_some(), at_once, "after {healthy} ms");
        if !at_once {
            bench.due();
        }
        bench.take(CONNECTED);
    }
    assert_eq!(bench.until_deadline(Reason::Settle), Duration::from_secs(10));
    bench.due();
    assert_eq!(bench.machine.status(bench.now).attempts, 0);
    assert_eq!(bench.machine.deadline(), None);
}

#[test]
fn five_failures_trip_it_and_dials_go_on() {
    let mut bench = Bench::new();
    for _ in 0..5 {
        bench.take(refused());
        bench.due();
    }
    bench.sees(State::Tripped);
    assert!(bench.machine.dialling().is_some());
}

#[test]
fn a_hello_ends_the_waiting_when_it_was_the_dials_that_failed() {
    let mut bench = Bench::new();
    for _ in 0..7 {
        bench.take(refused());
        bench.due();
    }
    assert_eq!(bench.take(CONNECTED), [Effect::Probe]);
    bench.sees(State::Tripped);
    assert!(!bench.machine.passes());
    assert_eq!(bench.take(ANSWERED), [Effect::Probe]);
    assert_eq!(bench.take(ANSWERED), []);
    bench.sees(State::Active);
}

#[test]
fn a_hello_does_not_when_it_was_connections_that_broke() {
    let mut bench = Bench::connected();
    for _ in 0..5 {
        bench.take(reset());
        if bench.machine.dialling().is_none() {
            bench.due();
        }
        bench.take(CONNECTED);
    }
    bench.sees(State::Tripped);
    assert!(bench.until_deadline(Reason::Probe) > Duration::from_secs(5), "waits until the breaker is half-open");
    assert_eq!(bench.due(), [Effect::Probe]);
    for _ in 0..3 {
        bench.sees(State::Tripped);
        bench.take(ANSWERED);
    }
    bench.sees(State::Active);
}

#[test]
fn a_probe_of_an_earlier_connection_does_not_keep_the_breaker_half_open() {
    let mut bench = Bench::new();
    for _ in 0..7 {
        bench.take(refused());
        bench.due();
    }
    assert_eq!(bench.take(CONNECTED), [Effect::Probe]);
    bench.take(Input::OwnerDead);
    bench.take(Input::Found(record(1)));
    assert_eq!(bench.take(CONNECTED), [Effect::Probe], "its own probe");
}

#[test]
fn drains_never_trip_it_and_need_no_waiting() {
    let mut bench = Bench::connected();
    for _ in 0..20 {
        bench.pass(Duration::from_secs(10));
        bench.take(Input::Lost(failed(Kind::Drained, Phase::Serve)));
        bench.sees(State::Connecting);
        bench.take(CONNECTED);
    }
    assert_eq!(bench.machine.status(bench.now).breaker, BreakerFacts::Closed { failures: 0 });
}

#[test]
fn a_doubt_is_settled_by_an_answer_or_by_two_missed_probes() {
    let mut bench = Bench::connected();
    assert_eq!(bench.take(Input::Check("a test")), [Effect::Probe]);
    assert_eq!(bench.take(Input::Check("a test")), [], "one probe at a time");
    bench.sees(State::Suspect);
    assert!(bench.machine.passes(), "a doubt stops nobody");
    bench.take(ANSWERED);
    bench.sees(State::Active);

    bench.take(Input::Check("a test"));
    bench.pass(Duration::from_millis(500));
    assert_eq!(bench.take(missed()), []);
    bench.sees(State::Suspect);
    assert_eq!(bench.until_deadline(Reason::Probe), Duration::from_millis(500), "one interval after the first");
    assert_eq!(bench.due(), [Effect::Probe]);
    assert_eq!(bench.take(missed()), [Effect::Nudge]);
    bench.sees(State::Retrying);
}

#[test]
fn a_check_brings_the_next_dial_forward() {
    let mut bench = Bench::new();
    bench.take(refused());
    bench.sees(State::Retrying);
    bench.take(Input::Check("the machine woke up"));
    assert!(bench.machine.dialling().is_some_and(|dial| !dial.fresh), "through the limiter");
    assert_eq!(bench.machine.status(bench.now).why, "the machine woke up");
    assert_eq!(bench.machine.status(bench.now).attempts, 1, "nothing is forgotten");
}

#[test]
fn a_vanished_record_drains_and_a_dead_owner_is_gone() {
    let mut bench = Bench::connected();
    bench.take(Input::Unregistered);
    bench.sees(State::Draining);
    assert!(bench.machine.passes());
    bench.take(Input::Found(record(1)));
    bench.sees(State::Active);
    assert_eq!(bench.machine.connection(), Some(1), "on the same connection");

    bench.take(Input::Unregistered);
    bench.take(Input::Lost(failed(Kind::Drained, Phase::Serve)));
    bench.sees(State::Gone);
    assert_eq!(bench.until_deadline(Reason::Forget), Duration::from_secs(60));
    bench.take(Input::Found(record(1)));
    bench.sees(State::Connecting);
    bench.take(CONNECTED);
    bench.take(Input::OwnerDead);
    bench.sees(State::Gone);
    assert_eq!(bench.machine.status(bench.now).last_failure.unwrap().kind, Kind::ProcessGone);
    assert_eq!(bench.due(), [Effect::Forget]);
}

#[test]
fn a_new_generation_is_dialled_at_once_whatever_was_before() {
    let mut bench = Bench::new();
    for _ in 0..8 {
        bench.take(refused());
        bench.due();
    }
    bench.take(refused());
    bench.sees(State::Tripped);
    bench.take(Input::Found(record(2)));
    bench.sees(State::Connecting);
    assert!(bench.machine.dialling().unwrap().fresh, "and does not wait for the limiter");
    bench.take(CONNECTED);
    bench.sees(State::Active);
    let old = bench.machine.connection();
    bench.take(Input::Found(record(3)));
    assert_ne!(bench.machine.connection(), old, "the old connection is let go");
}

#[test]
fn a_foreign_protocol_is_listed_and_says_why() {
    let mut foreign = Record::clone(&record(1));
    foreign.protocol = linchpin_shared::registry::record::Protocol::Http1;
    let mut bench = Bench::new();
    bench.take(Input::Found(Arc::new(foreign)));
    bench.sees(State::Discovered);
    assert!(bench.machine.dialling().is_none());
    assert!(bench.machine.status(bench.now).why.contains("HTTP/1.1"));
}

#[test]
fn the_history_is_bounded_and_a_status_keeps_the_secret() {
    let mut bench = Bench::new();
    for _ in 0..HISTORY {
        bench.take(refused());
        bench.due();
    }
    let history = bench.machine.history();
    assert_eq!(history.len(), HISTORY);
    assert!(history.iter().any(|transition| transition.why.contains("refused")));
    let json = serde_json::to_value(bench.machine.status(bench.now)).unwrap();
    assert!(json.get("record").is_none(), "{json}");
}

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
        steps in prop::collection::vec((0_u8..18, 0_u64..12_000, any::<u64>()), 0..300)
    ) {
        let mut bench = Bench::new();
        let mut reference = Reference { registered: true, generation: 1, probing: false };
        for (choice, wait, random) in steps {
            bench.pass(Duration::from_millis(wait));
            bench.now.random = random;
            let Some(input) = input(choice, &bench, &mut reference) else { continue };
            match &input {
                Input::Unregistered | Input::OwnerDead => reference.registered = false,
                Input::Found(_) => reference.registered = true,
                Input::ProbeAnswered(_) | Input::ProbeFailed(_) => reference.probing = false,
                Input::Due | Input::Connected(_) | Input::DialFailed(_) | Input::Lost(_) | Input::Check(_) => {}
            }
            let held = bench.machine.connection();
            let effects = bench.take(input);
            if bench.machine.connection() != held {
                reference.probing = false;
            }
            // A probe replaces one that is under way.
            reference.probing |= effects.contains(&Effect::Probe);
            reference.check(&bench)?;
        }
    }
}
