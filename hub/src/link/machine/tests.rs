//! The machine alone: no socket, no task, no clock.

mod doubts;
mod model;

use super::*;
use linchpin_shared::failure::{Kind, Phase};
use linchpin_shared::settings::Settings;
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
        let now =
            Moment { at: Instant::now(), wall: Timestamp::UNIX_EPOCH, random: u64::MAX, heard: None, stopped: false };
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

    /// Lets the time of the next deadline for this reason come, and says how long that is from now. Until then the peer
    /// is well: it is heard, and answers its check-ups.
    fn until(&mut self, reason: Reason) -> Duration {
        let begun = self.now.at;
        loop {
            let deadline = self.machine.deadline().expect("a deadline");
            if deadline.reason == reason {
                return deadline.at - begun;
            }
            assert!(matches!(deadline.reason, Reason::Silence | Reason::CheckUp), "{deadline:?} before {reason:?}");
            self.pass(deadline.at - self.now.at);
            self.now.heard = Some(self.now.at);
            if self.take(Input::Due) == [Effect::Probe] {
                self.take(ANSWERED);
            }
        }
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
        delays.push(bench.until(Reason::Dial).as_millis());
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
    assert_eq!(bench.until(Reason::Dial), Duration::from_millis(100));
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
    assert!(bench.machine.status(bench.now).attempts > 0);
    assert_eq!(bench.until(Reason::Settle), Duration::from_secs(10));
    bench.due();
    assert_eq!(bench.machine.status(bench.now).attempts, 0);
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
    assert!(bench.until(Reason::Probe) > Duration::from_secs(5), "waits until the breaker is half-open");
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
fn a_breaker_that_opens_says_why() {
    let mut bench = Bench::connected();
    for number in 1..=5 {
        bench.take(Input::Lost(failed(Kind::PingTimeout, Phase::Serve).because(format!("number {number}"))));
        assert_eq!(bench.machine.status(bench.now).trips, u64::from(number == 5));
        bench.due();
        bench.take(CONNECTED);
    }
    let trip = bench.machine.status(bench.now).last_trip.expect("it opened");
    assert_eq!(trip.why, "ping_timeout: number 5");
}

#[test]
fn a_peer_that_names_a_time_is_left_alone_for_it_within_bounds() {
    for (wanted, delay) in [(1, 1), (4, 4), (3600, 5)] {
        let mut bench = Bench::new();
        bench.now.random = 0;
        let wanted = Some(Duration::from_secs(wanted));
        bench.take(Input::DialFailed(failed(Kind::Overloaded, Phase::Hello).retry_after(wanted)));
        assert_eq!(bench.until(Reason::Dial), Duration::from_secs(delay));
    }
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
    assert_eq!(bench.until(Reason::Forget), Duration::from_secs(60));
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

#[test]
fn what_is_declared_sleeps_instead_of_being_gone_and_any_record_wakes_it() {
    let mut bench = Bench::connected();
    bench.take(Input::Declared(Some(Start::Idle)));
    bench.sees(State::Active);
    bench.take(Input::Unregistered);
    bench.sees(State::Draining);
    bench.take(reset());
    bench.sees(State::Dormant);
    assert!(bench.machine.deadline().is_none() && bench.machine.dialling().is_none());
    bench.take(Input::Declared(Some(Start::Starting)));
    assert_eq!(bench.machine.status(bench.now).start, Some(Start::Starting));
    bench.take(Input::Found(record(2)));
    assert!(bench.machine.dialling().is_some() && bench.machine.status(bench.now).start.is_none());
    bench.take(CONNECTED);
    bench.take(Input::OwnerDead);
    bench.sees(State::Dormant);
    bench.take(Input::Declared(None));
    bench.sees(State::Gone);
    bench.take(Input::Declared(Some(Start::Idle)));
    bench.sees(State::Dormant);
}

#[test]
fn what_was_never_seen_begins_asleep() {
    let bench = Bench::new();
    let params = crate::link::Numbers::from(&Settings::default().link).machine;
    let mut machine = Machine::dormant(record(0), Start::Idle, params, bench.now);
    assert_eq!((machine.status(bench.now).state, machine.dialling()), (State::Dormant, None));
    for input in [Input::Unregistered, Input::OwnerDead, Input::Check("a test"), Input::Due] {
        machine.handle(input, bench.now);
        assert_eq!(machine.status(bench.now).state, State::Dormant);
    }
}
