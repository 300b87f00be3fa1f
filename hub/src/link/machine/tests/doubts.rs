//! Silence, probes and processes that are stopped.

use super::*;

const MS: fn(u64) -> Duration = Duration::from_millis;

impl Bench {
    /// Lets the silence go on until it is a doubt.
    fn silent(&mut self) {
        assert_eq!(self.due(), [Effect::Probe]);
        self.sees(State::Suspect);
    }

    /// Lets the probe under way go unanswered.
    fn miss(&mut self) -> Vec<Effect> {
        self.pass(self.machine.probe_timeout());
        self.take(missed())
    }
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
    assert_eq!(bench.miss(), []);
    bench.sees(State::Suspect);
    assert_eq!(bench.until(Reason::Probe), MS(500), "one interval after the first");
    assert_eq!(bench.due(), [Effect::Probe]);
    assert_eq!(bench.miss(), [Effect::Nudge]);
    bench.sees(State::Retrying);
}

/// Fault 35: the numbers of DESIGN 4.3 together are less than three seconds.
#[test]
fn a_connection_that_falls_silent_is_lost_in_less_than_three_seconds() {
    let mut bench = Bench::connected();
    let cut = bench.now.at;
    bench.silent();
    assert_eq!(bench.now.at - cut, MS(2400), "a PING after 1 s, and most of the time for its answer");
    assert_eq!(bench.miss(), [Effect::Nudge]);
    bench.sees(State::Retrying);
    assert!(bench.now.at - cut < MS(3000), "{:?}", bench.now.at - cut);
    let failure = bench.machine.status(bench.now).last_failure.unwrap();
    assert_eq!(failure.kind, Kind::PingTimeout);
}

#[test]
fn whatever_is_heard_contradicts_a_probe_that_was_not_answered() {
    let mut bench = Bench::connected();
    bench.silent();
    bench.pass(MS(100));
    bench.now.heard = Some(bench.now.at);
    assert_eq!(bench.miss(), []);
    bench.sees(State::Active);
    assert_eq!(bench.machine.connection(), Some(1));
}

/// Faults 6 and 50: the hub was stopped or starved while something should have come.
#[test]
fn a_deadline_that_is_noticed_late_is_asked_again() {
    for away in [2, 30, 600] {
        let mut bench = Bench::connected();
        bench.pass(Duration::from_secs(away + 3));
        assert!(!bench.take(Input::Due).contains(&Effect::Nudge));
        bench.sees(State::Active);
        bench.take(ANSWERED);

        bench.take(Input::Check("a test"));
        bench.pass(Duration::from_secs(away));
        assert_eq!(bench.take(missed()), [Effect::Probe], "asked in vain, but nobody was there to hear the answer");
        bench.sees(State::Suspect);
        bench.take(ANSWERED);
        bench.sees(State::Active);
        assert_eq!((bench.machine.connection(), bench.machine.status(bench.now).attempts), (Some(1), 0));
    }
}

/// Fault 5.
#[test]
fn a_process_that_is_stopped_is_unresponsive_and_keeps_its_connection() {
    let mut bench = Bench::connected();
    bench.silent();
    bench.now.stopped = true;
    assert_eq!(bench.miss(), []);
    bench.sees(State::Unresponsive);
    assert!(!bench.machine.passes() && bench.machine.status(bench.now).why.contains("SIGSTOP"));
    // Ten minutes later nothing was tried, counted or lost.
    for _ in 0..2400 {
        assert_eq!(bench.due(), []);
    }
    let status = bench.machine.status(bench.now);
    assert_eq!((bench.machine.connection(), status.attempts, status.last_failure), (Some(1), 0, None));
    assert_eq!(status.breaker, BreakerFacts::Closed { failures: 0 });

    bench.now.stopped = false;
    assert_eq!(bench.due(), [Effect::Probe]);
    bench.sees(State::Suspect);
    bench.take(ANSWERED);
    bench.sees(State::Active);
    assert_eq!(bench.machine.connection(), Some(1));
}

#[test]
fn a_stopped_process_that_is_heard_again_is_used_at_once() {
    let mut bench = Bench::connected();
    bench.silent();
    bench.now.stopped = true;
    bench.miss();
    bench.sees(State::Unresponsive);
    bench.pass(MS(10));
    bench.now.heard = Some(bench.now.at);
    bench.take(Input::Due);
    bench.sees(State::Active);
}

#[test]
fn a_stopped_process_that_never_answered_a_hello_does_not_trip_the_breaker() {
    let mut bench = Bench::new();
    bench.now.stopped = true;
    for _ in 0..20 {
        bench.take(Input::DialFailed(failed(Kind::HelloTimeout, Phase::Hello)));
        bench.sees(State::Unresponsive);
        bench.due();
        bench.sees(State::Unresponsive);
    }
    assert_eq!(bench.machine.status(bench.now).breaker, BreakerFacts::Closed { failures: 0 });
    bench.take(CONNECTED);
    bench.sees(State::Active);
}

/// Fault 39: the longer the link was late before, the longer its silence is waited for.
#[test]
fn a_link_that_loses_much_is_waited_for_longer() {
    let mut bench = Bench::connected();
    for _ in 0..20 {
        bench.take(Input::Check("a test"));
        bench.take(Input::ProbeAnswered(MS(400)));
    }
    let cut = bench.now.at;
    bench.silent();
    bench.miss();
    assert!(bench.now.at - cut > MS(6000), "{:?}", bench.now.at - cut);
    bench.sees(State::Retrying);
}

#[test]
fn a_check_up_that_is_late_while_bytes_come_is_no_doubt() {
    let mut bench = Bench::connected();
    assert_eq!(bench.until(Reason::CheckUp), Duration::from_secs(5));
    assert_eq!(bench.due(), [Effect::Probe]);
    bench.sees(State::Active);
    bench.pass(MS(1));
    bench.now.heard = Some(bench.now.at);
    assert_eq!(bench.miss(), []);
    bench.sees(State::Active);
    let health = bench.machine.status(bench.now).health;
    assert!(health.fails == 1 && health.quality < 1.0 && health.interval_ms > 10_000, "{health:?}");
}

#[test]
fn a_draining_or_distrusted_connection_that_falls_silent_ends_too() {
    let mut draining = Bench::connected();
    draining.take(Input::Unregistered);
    draining.due();
    draining.sees(State::Gone);

    let mut distrusted = Bench::connected();
    for _ in 0..5 {
        distrusted.take(reset());
        if distrusted.machine.dialling().is_none() {
            distrusted.due();
        }
        distrusted.take(CONNECTED);
    }
    distrusted.sees(State::Tripped);
    assert_eq!(distrusted.until_silent_end(), MS(2900));
}

impl Bench {
    fn until_silent_end(&mut self) -> Duration {
        let begun = self.now.at;
        assert_eq!(self.due(), [Effect::Nudge]);
        assert!(self.machine.connection().is_none());
        self.now.at - begun
    }
}

#[test]
fn a_foreign_program_may_be_silent_but_may_not_refuse() {
    let mut foreign = Record::clone(&record(2));
    foreign.protocol = linchpin_shared::registry::record::Protocol::Http1;
    let mut bench = Bench::new();
    bench.take(Input::Found(Arc::new(foreign)));
    bench.take(CONNECTED);
    bench.sees(State::Active);
    assert_eq!(bench.until(Reason::CheckUp), Duration::from_secs(5), "nothing is due before the check-up");
    assert_eq!(bench.due(), [Effect::Probe]);
    let refused = Input::ProbeFailed(failed(Kind::Refused, Phase::Serve));
    assert_eq!(bench.take(refused), [Effect::Nudge], "one refusal is certain");
    bench.sees(State::Retrying);
    bench.due();
    bench.take(CONNECTED);
    bench.take(Input::Unregistered);
    bench.sees(State::Gone);
}
