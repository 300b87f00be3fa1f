//! The machine alone, without sockets, tasks and clocks.

mod liveness;
mod model;

use super::*;
use crate::link::failure::{FailureKind, FailurePhase};
use linchpin_shared::settings::Settings;
use serde_json::json;
use uuid::Uuid;

/// A machine with a time that the test controls.
struct Harness {
    machine: Machine,
    context: Context,
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

fn failed(kind: FailureKind, phase: FailurePhase) -> Failure {
    Failure::new(kind, phase)
}

fn refused() -> Input {
    Input::DialFailed(failed(FailureKind::Refused, FailurePhase::Dial))
}

fn reset() -> Input {
    Input::ConnectionLost(failed(FailureKind::Reset, FailurePhase::Serve))
}

const CONNECTED: Input = Input::Connected(Duration::from_millis(1));
const ANSWERED: Input = Input::ProbeAnswered(Duration::from_millis(1));

fn missed() -> Input {
    Input::ProbeFailed(failed(FailureKind::PingTimeout, FailurePhase::Serve))
}

impl Harness {
    fn new() -> Self {
        // With the highest random number, every delay has its maximum.
        let context = Context {
            now: Instant::now(),
            wall: Timestamp::UNIX_EPOCH,
            random: u64::MAX,
            last_read: None,
            process_stopped: false,
        };
        let params = crate::link::config::LinkConfig::from(&Settings::default().link).machine;
        Self { machine: Machine::new(record(1), params, context), context }
    }

    fn connected() -> Self {
        let mut harness = Self::new();
        harness.take(CONNECTED);
        harness.sees(LinkState::Active);
        harness
    }

    fn take(&mut self, input: Input) -> Vec<Effect> {
        self.machine.handle(input, self.context)
    }

    fn pass(&mut self, time: Duration) {
        self.context.now += time;
        self.context.wall += time;
    }

    /// Advances to the next deadline.
    fn due(&mut self) -> Vec<Effect> {
        let deadline = self.machine.deadline().expect("a deadline");
        self.pass(deadline.at.saturating_duration_since(self.context.now));
        self.take(Input::DeadlineReached)
    }

    /// Advances until the next deadline is one for this reason, and returns how long that takes from now. Until then the
    /// peer is healthy: its bytes arrive, and it answers its check-ups.
    fn until(&mut self, reason: DeadlineReason) -> Duration {
        let begun = self.context.now;
        loop {
            let deadline = self.machine.deadline().expect("a deadline");
            if deadline.reason == reason {
                return deadline.at - begun;
            }
            assert!(
                matches!(deadline.reason, DeadlineReason::Silence | DeadlineReason::CheckUp),
                "{deadline:?} before {reason:?}"
            );
            self.pass(deadline.at - self.context.now);
            self.context.last_read = Some(self.context.now);
            if self.take(Input::DeadlineReached) == [Effect::SendProbe] {
                self.take(ANSWERED);
            }
        }
    }

    #[track_caller]
    fn sees(&self, state: LinkState) {
        let status = self.machine.status(self.context);
        assert_eq!(status.state, state, "{status:?}");
    }
}

#[test]
fn a_link_dials_at_once_and_then_by_backoff() {
    let mut harness = Harness::new();
    harness.sees(LinkState::Connecting);
    let mut delays = Vec::new();
    for _ in 0..9 {
        assert!(harness.machine.dial_attempt().is_some());
        assert_eq!(harness.take(refused()), [Effect::RequestRescan]);
        delays.push(harness.until(DeadlineReason::Dial).as_millis());
        harness.due();
    }
    assert_eq!(delays, [200, 400, 800, 1600, 3200, 5000, 5000, 5000, 5000], "the policy for never connected");
}

#[test]
fn a_broken_connection_is_dialled_at_once_only_once() {
    let mut harness = Harness::connected();
    assert_eq!(harness.take(reset()), [Effect::RequestRescan]);
    harness.sees(LinkState::Connecting);
    harness.take(CONNECTED);
    harness.take(reset());
    harness.sees(LinkState::Retrying);
    assert_eq!(harness.until(DeadlineReason::Dial), Duration::from_millis(100));
}

#[test]
fn earlier_failures_are_forgotten_after_ten_seconds_of_health() {
    let mut harness = Harness::connected();
    for (healthy, at_once) in [(9_999, true), (9_999, false), (10_000, true)] {
        harness.pass(Duration::from_millis(healthy));
        harness.take(reset());
        assert_eq!(harness.machine.dial_attempt().is_some(), at_once, "after {healthy} ms");
        if !at_once {
            harness.due();
        }
        harness.take(CONNECTED);
    }
    assert!(harness.machine.status(harness.context).attempts > 0);
    assert_eq!(harness.until(DeadlineReason::Settle), Duration::from_secs(10));
    harness.due();
    assert_eq!(harness.machine.status(harness.context).attempts, 0);
}

#[test]
fn five_failures_trip_the_breaker_and_dials_continue() {
    let mut harness = Harness::new();
    for _ in 0..5 {
        harness.take(refused());
        harness.due();
    }
    harness.sees(LinkState::Tripped);
    assert!(harness.machine.dial_attempt().is_some());
}

#[test]
fn a_hello_after_failed_dials_makes_the_breaker_half_open() {
    let mut harness = Harness::new();
    for _ in 0..7 {
        harness.take(refused());
        harness.due();
    }
    assert_eq!(harness.take(CONNECTED), [Effect::SendProbe]);
    harness.sees(LinkState::Tripped);
    assert!(!harness.machine.accepts_requests());
    assert_eq!(harness.take(ANSWERED), [Effect::SendProbe]);
    assert_eq!(harness.take(ANSWERED), []);
    harness.sees(LinkState::Active);
}

#[test]
fn a_hello_after_broken_connections_leaves_the_breaker_open() {
    let mut harness = Harness::connected();
    for _ in 0..5 {
        harness.take(reset());
        if harness.machine.dial_attempt().is_none() {
            harness.due();
        }
        harness.take(CONNECTED);
    }
    harness.sees(LinkState::Tripped);
    assert!(harness.until(DeadlineReason::Probe) > Duration::from_secs(5), "waits until the breaker is half-open");
    assert_eq!(harness.due(), [Effect::SendProbe]);
    for _ in 0..3 {
        harness.sees(LinkState::Tripped);
        harness.take(ANSWERED);
    }
    harness.sees(LinkState::Active);
}

#[test]
fn a_probe_of_an_earlier_connection_is_abandoned() {
    let mut harness = Harness::new();
    for _ in 0..7 {
        harness.take(refused());
        harness.due();
    }
    assert_eq!(harness.take(CONNECTED), [Effect::SendProbe]);
    harness.take(Input::OwnerDead);
    harness.take(Input::Registered(record(1)));
    assert_eq!(harness.take(CONNECTED), [Effect::SendProbe], "its own probe");
}

#[test]
fn an_opening_of_the_breaker_has_a_reason() {
    let mut harness = Harness::connected();
    for number in 1..=5 {
        harness.take(Input::ConnectionLost(
            failed(FailureKind::PingTimeout, FailurePhase::Serve).because(format!("number {number}")),
        ));
        assert_eq!(harness.machine.status(harness.context).trips, u64::from(number == 5));
        harness.due();
        harness.take(CONNECTED);
    }
    let trip = harness.machine.status(harness.context).last_trip.expect("it opened");
    assert_eq!(trip.why, "ping_timeout: number 5");
}

#[test]
fn a_peer_gets_the_pause_that_it_asks_for_within_bounds() {
    for (wanted, delay) in [(1, 1), (4, 4), (3600, 5)] {
        let mut harness = Harness::new();
        harness.context.random = 0;
        let wanted = Some(Duration::from_secs(wanted));
        harness.take(Input::DialFailed(failed(FailureKind::Overloaded, FailurePhase::Hello).retry_after(wanted)));
        assert_eq!(harness.until(DeadlineReason::Dial), Duration::from_secs(delay));
    }
}

#[test]
fn drains_do_not_trip_the_breaker_and_need_no_delay() {
    let mut harness = Harness::connected();
    for _ in 0..20 {
        harness.pass(Duration::from_secs(10));
        harness.take(Input::ConnectionLost(failed(FailureKind::Drained, FailurePhase::Serve)));
        harness.sees(LinkState::Connecting);
        harness.take(CONNECTED);
    }
    assert_eq!(harness.machine.status(harness.context).breaker, BreakerStatus::Closed { failures: 0 });
}

#[test]
fn a_check_brings_the_next_dial_forward() {
    let mut harness = Harness::new();
    harness.take(refused());
    harness.sees(LinkState::Retrying);
    harness.take(Input::Check("the machine woke up"));
    assert!(harness.machine.dial_attempt().is_some_and(|dial| !dial.for_new_record), "through the limiter");
    assert_eq!(harness.machine.status(harness.context).why, "the machine woke up");
    assert_eq!(harness.machine.status(harness.context).attempts, 1, "nothing is forgotten");
}

#[test]
fn a_missing_record_drains_and_a_dead_owner_is_gone() {
    let mut harness = Harness::connected();
    harness.take(Input::Unregistered);
    harness.sees(LinkState::Draining);
    assert!(harness.machine.accepts_requests());
    harness.take(Input::Registered(record(1)));
    harness.sees(LinkState::Active);
    assert_eq!(harness.machine.connection_number(), Some(1), "on the same connection");

    harness.take(Input::Unregistered);
    harness.take(Input::ConnectionLost(failed(FailureKind::Drained, FailurePhase::Serve)));
    harness.sees(LinkState::Gone);
    assert_eq!(harness.until(DeadlineReason::Forget), Duration::from_secs(60));
    harness.take(Input::Registered(record(1)));
    harness.sees(LinkState::Connecting);
    harness.take(CONNECTED);
    harness.take(Input::OwnerDead);
    harness.sees(LinkState::Gone);
    assert_eq!(harness.machine.status(harness.context).last_failure.unwrap().kind, FailureKind::ProcessGone);
    assert_eq!(harness.due(), [Effect::Forget]);
}

#[test]
fn a_new_generation_is_dialled_at_once_after_any_failure() {
    let mut harness = Harness::new();
    for _ in 0..8 {
        harness.take(refused());
        harness.due();
    }
    harness.take(refused());
    harness.sees(LinkState::Tripped);
    harness.take(Input::Registered(record(2)));
    harness.sees(LinkState::Connecting);
    assert!(harness.machine.dial_attempt().unwrap().for_new_record, "and does not wait for the limiter");
    harness.take(CONNECTED);
    harness.sees(LinkState::Active);
    let old = harness.machine.connection_number();
    harness.take(Input::Registered(record(3)));
    assert_ne!(harness.machine.connection_number(), old, "the old connection is dropped");
}

#[test]
fn the_history_is_bounded_and_a_status_has_no_secret() {
    let mut harness = Harness::new();
    for _ in 0..HISTORY {
        harness.take(refused());
        harness.due();
    }
    let history = harness.machine.history();
    assert_eq!(history.len(), HISTORY);
    assert!(history.iter().any(|transition| transition.why.contains("refused")));
    let json = serde_json::to_value(harness.machine.status(harness.context)).unwrap();
    assert!(json.get("record").is_none(), "{json}");
}

#[test]
fn a_declared_server_is_dormant_instead_of_gone() {
    let mut harness = Harness::connected();
    harness.take(Input::Declared(Some(LaunchState::Idle)));
    harness.sees(LinkState::Active);
    harness.take(Input::Unregistered);
    harness.sees(LinkState::Draining);
    harness.take(reset());
    harness.sees(LinkState::Dormant);
    assert!(harness.machine.deadline().is_none() && harness.machine.dial_attempt().is_none());
    harness.take(Input::Declared(Some(LaunchState::Starting)));
    assert_eq!(harness.machine.status(harness.context).start, Some(LaunchState::Starting));
    harness.take(Input::Registered(record(2)));
    assert!(harness.machine.dial_attempt().is_some() && harness.machine.status(harness.context).start.is_none());
    harness.take(CONNECTED);
    harness.take(Input::OwnerDead);
    harness.sees(LinkState::Dormant);
    harness.take(Input::Declared(None));
    harness.sees(LinkState::Gone);
    harness.take(Input::Declared(Some(LaunchState::Idle)));
    harness.sees(LinkState::Dormant);
}

#[test]
fn a_declared_server_that_never_ran_starts_dormant() {
    let harness = Harness::new();
    let params = crate::link::config::LinkConfig::from(&Settings::default().link).machine;
    let mut machine = Machine::dormant(record(0), LaunchState::Idle, params, harness.context);
    assert_eq!((machine.status(harness.context).state, machine.dial_attempt()), (LinkState::Dormant, None));
    for input in [Input::Unregistered, Input::OwnerDead, Input::Check("a test"), Input::DeadlineReached] {
        machine.handle(input, harness.context);
        assert_eq!(machine.status(harness.context).state, LinkState::Dormant);
    }
}
