//! Silence, probes and processes that are stopped.

use super::*;

const MS: fn(u64) -> Duration = Duration::from_millis;

impl Harness {
    /// Advances until the silence makes the link suspect.
    fn silent(&mut self) {
        assert_eq!(self.due(), [Effect::SendProbe]);
        self.sees(LinkState::Suspect);
    }

    /// Lets the probe that is under way fail.
    fn miss(&mut self) -> Vec<Effect> {
        self.pass(self.machine.probe_timeout());
        self.take(missed())
    }
}

#[test]
fn a_suspect_link_ends_with_an_answer_or_two_missed_probes() {
    let mut harness = Harness::connected();
    assert_eq!(harness.take(Input::Check("a test")), [Effect::SendProbe]);
    assert_eq!(harness.take(Input::Check("a test")), [], "one probe at a time");
    harness.sees(LinkState::Suspect);
    assert!(harness.machine.accepts_requests(), "a doubt stops nobody");
    harness.take(ANSWERED);
    harness.sees(LinkState::Active);

    harness.take(Input::Check("a test"));
    assert_eq!(harness.miss(), []);
    harness.sees(LinkState::Suspect);
    assert_eq!(harness.until(DeadlineReason::Probe), MS(500), "one interval after the first");
    assert_eq!(harness.due(), [Effect::SendProbe]);
    assert_eq!(harness.miss(), [Effect::RequestRescan]);
    harness.sees(LinkState::Retrying);
}

/// Fault 35: the intervals and deadlines of the default settings add up to less than three seconds.
#[test]
fn a_silent_connection_is_lost_in_less_than_three_seconds() {
    let mut harness = Harness::connected();
    let cut = harness.context.now;
    harness.silent();
    assert_eq!(harness.context.now - cut, MS(2400), "a PING after 1 s, and most of the time for its answer");
    assert_eq!(harness.miss(), [Effect::RequestRescan]);
    harness.sees(LinkState::Retrying);
    assert!(harness.context.now - cut < MS(3000), "{:?}", harness.context.now - cut);
    let failure = harness.machine.status(harness.context).last_failure.unwrap();
    assert_eq!(failure.kind, FailureKind::PingTimeout);
}

#[test]
fn any_byte_contradicts_a_probe_that_was_not_answered() {
    let mut harness = Harness::connected();
    harness.silent();
    harness.pass(MS(100));
    harness.context.last_read = Some(harness.context.now);
    assert_eq!(harness.miss(), []);
    harness.sees(LinkState::Active);
    assert_eq!(harness.machine.connection_number(), Some(1));
}

/// Faults 6 and 50: the hub was stopped or starved while a deadline passed.
#[test]
fn a_probe_whose_deadline_is_noticed_late_is_repeated() {
    for away in [2, 30, 600] {
        let mut harness = Harness::connected();
        harness.pass(Duration::from_secs(away + 3));
        assert!(!harness.take(Input::DeadlineReached).contains(&Effect::RequestRescan));
        harness.sees(LinkState::Active);
        harness.take(ANSWERED);

        harness.take(Input::Check("a test"));
        harness.pass(Duration::from_secs(away));
        assert_eq!(
            harness.take(missed()),
            [Effect::SendProbe],
            "asked in vain, but nobody was there to hear the answer"
        );
        harness.sees(LinkState::Suspect);
        harness.take(ANSWERED);
        harness.sees(LinkState::Active);
        assert_eq!(
            (harness.machine.connection_number(), harness.machine.status(harness.context).attempts),
            (Some(1), 0)
        );
    }
}

/// Fault 5.
#[test]
fn a_stopped_process_is_unresponsive_and_keeps_its_connection() {
    let mut harness = Harness::connected();
    harness.silent();
    harness.context.process_stopped = true;
    assert_eq!(harness.miss(), []);
    harness.sees(LinkState::Unresponsive);
    assert!(!harness.machine.accepts_requests() && harness.machine.status(harness.context).why.contains("SIGSTOP"));
    // After ten minutes nothing was tried, counted or lost.
    for _ in 0..2400 {
        assert_eq!(harness.due(), []);
    }
    let status = harness.machine.status(harness.context);
    assert_eq!((harness.machine.connection_number(), status.attempts, status.last_failure), (Some(1), 0, None));
    assert_eq!(status.breaker, BreakerStatus::Closed { failures: 0 });

    harness.context.process_stopped = false;
    assert_eq!(harness.due(), [Effect::SendProbe]);
    harness.sees(LinkState::Suspect);
    harness.take(ANSWERED);
    harness.sees(LinkState::Active);
    assert_eq!(harness.machine.connection_number(), Some(1));
}

#[test]
fn a_stopped_process_is_used_at_once_when_a_byte_arrives() {
    let mut harness = Harness::connected();
    harness.silent();
    harness.context.process_stopped = true;
    harness.miss();
    harness.sees(LinkState::Unresponsive);
    harness.pass(MS(10));
    harness.context.last_read = Some(harness.context.now);
    harness.take(Input::DeadlineReached);
    harness.sees(LinkState::Active);
}

#[test]
fn a_stopped_process_does_not_trip_the_breaker() {
    let mut harness = Harness::new();
    harness.context.process_stopped = true;
    for _ in 0..20 {
        harness.take(Input::DialFailed(failed(FailureKind::HelloTimeout, FailurePhase::Hello)));
        harness.sees(LinkState::Unresponsive);
        harness.due();
        harness.sees(LinkState::Unresponsive);
    }
    assert_eq!(harness.machine.status(harness.context).breaker, BreakerStatus::Closed { failures: 0 });
    harness.take(CONNECTED);
    harness.sees(LinkState::Active);
}

/// Fault 39: the later the answers of a link were, the longer its silence is accepted.
#[test]
fn a_link_that_loses_many_packets_gets_more_time() {
    let mut harness = Harness::connected();
    for _ in 0..20 {
        harness.take(Input::Check("a test"));
        harness.take(Input::ProbeAnswered(MS(400)));
    }
    let cut = harness.context.now;
    harness.silent();
    harness.miss();
    assert!(harness.context.now - cut > MS(6000), "{:?}", harness.context.now - cut);
    harness.sees(LinkState::Retrying);
}

#[test]
fn a_late_check_up_is_harmless_while_bytes_arrive() {
    let mut harness = Harness::connected();
    assert_eq!(harness.until(DeadlineReason::CheckUp), Duration::from_secs(5));
    assert_eq!(harness.due(), [Effect::SendProbe]);
    harness.sees(LinkState::Active);
    harness.pass(MS(1));
    harness.context.last_read = Some(harness.context.now);
    assert_eq!(harness.miss(), []);
    harness.sees(LinkState::Active);
    let health = harness.machine.status(harness.context).health;
    assert!(health.fails == 1 && health.quality < 1.0 && health.interval_ms > 10_000, "{health:?}");
}

#[test]
fn a_silent_connection_ends_in_draining_and_probation_too() {
    let mut draining = Harness::connected();
    draining.take(Input::Unregistered);
    draining.due();
    draining.sees(LinkState::Gone);

    let mut distrusted = Harness::connected();
    for _ in 0..5 {
        distrusted.take(reset());
        if distrusted.machine.dial_attempt().is_none() {
            distrusted.due();
        }
        distrusted.take(CONNECTED);
    }
    distrusted.sees(LinkState::Tripped);
    assert_eq!(distrusted.until_silent_end(), MS(2900));
}

impl Harness {
    fn until_silent_end(&mut self) -> Duration {
        let begun = self.context.now;
        assert_eq!(self.due(), [Effect::RequestRescan]);
        assert!(self.machine.connection_number().is_none());
        self.context.now - begun
    }
}

#[test]
fn a_foreign_program_may_be_silent_but_may_not_refuse() {
    let mut foreign = Record::clone(&record(2));
    foreign.protocol = linchpin_shared::registry::record::Protocol::Http1;
    let mut harness = Harness::new();
    harness.take(Input::Registered(Arc::new(foreign)));
    harness.take(CONNECTED);
    harness.sees(LinkState::Active);
    assert_eq!(harness.until(DeadlineReason::CheckUp), Duration::from_secs(5), "nothing is due before the check-up");
    assert_eq!(harness.due(), [Effect::SendProbe]);
    let refused = Input::ProbeFailed(failed(FailureKind::Refused, FailurePhase::Serve));
    assert_eq!(harness.take(refused), [Effect::RequestRescan], "one refusal is certain");
    harness.sees(LinkState::Retrying);
    harness.due();
    harness.take(CONNECTED);
    harness.take(Input::Unregistered);
    harness.sees(LinkState::Gone);
}
