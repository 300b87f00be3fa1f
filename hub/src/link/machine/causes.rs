//! The edges of the machine, one method for each cause.
//!
//! Owns every change of [`Stage`]. A cause that means nothing in the present stage changes nothing: a late answer to a
//! probe, a check while nothing is connected.

use super::{Dial, Effect, Machine, Moment, Probe, Stage, Up};
use linchpin_shared::breaker::{self, Admission};
use linchpin_shared::failure::{Class, Failure, Kind, Phase};
use linchpin_shared::registry::record::{Protocol, Record};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// One unanswered probe may be the fault of a busy machine; two in a row are the peer's. So a doubt is settled within
/// one interval and one deadline, 1.5 s by default: before the PINGs would find it.
const MISSED_PROBES: u32 = 2;

impl Machine {
    pub(super) fn found(&mut self, record: Arc<Record>, now: Moment) {
        let other = record.generation != self.record.generation
            || record.endpoint != self.record.endpoint
            || record.protocol != self.record.protocol;
        self.record = record;
        if other {
            self.start_afresh();
            return self.begin("a new life of it registered", now);
        }
        match self.stage {
            Stage::Gone(_) => self.begin("it registered again", now),
            Stage::Draining(up) => self.enter(Stage::Active(up), "its record is back", now),
            Stage::Discovered
            | Stage::Foreign
            | Stage::Connecting(_)
            | Stage::Proving(..)
            | Stage::Active(_)
            | Stage::Suspect(..)
            | Stage::Retrying(_) => {}
        }
    }

    pub(super) fn unregistered(&mut self, now: Moment) {
        match self.stage {
            Stage::Active(up) | Stage::Suspect(up, ..) => {
                self.enter(Stage::Draining(up), "its record is gone, the connection lives", now);
            }
            Stage::Draining(_) | Stage::Gone(_) => {}
            Stage::Discovered | Stage::Foreign | Stage::Connecting(_) | Stage::Proving(..) | Stage::Retrying(_) => {
                self.leave("it unregistered", now);
            }
        }
    }

    pub(super) fn owner_dead(&mut self, now: Moment) {
        if let Stage::Gone(_) = self.stage {
            return;
        }
        let phase = if self.up().is_some() { Phase::Serve } else { Phase::Dial };
        let cause = format!("process {} has ended", self.record.process.pid);
        self.leave(cause.clone(), now);
        self.last_failure = Some(Failure::new(Kind::ProcessGone, phase).because(cause));
    }

    pub(super) fn due(&mut self, now: Moment) {
        match self.stage {
            Stage::Retrying(at) if at <= now.at => self.dial("the time of the next dial has come", false, now),
            Stage::Active(up) => self.settle(up, now.at),
            Stage::Proving(up, Probe::Next(at)) if at <= now.at => self.prove(up, now),
            Stage::Suspect(up, Probe::Next(at), missed) if at <= now.at => {
                self.stage = Stage::Suspect(up, Probe::Asked(now.at), missed);
                self.effects.push(Effect::Probe);
            }
            Stage::Gone(at) if at <= now.at => self.effects.push(Effect::Forget),
            Stage::Discovered
            | Stage::Foreign
            | Stage::Connecting(_)
            | Stage::Proving(..)
            | Stage::Suspect(..)
            | Stage::Retrying(_)
            | Stage::Draining(_)
            | Stage::Gone(_) => {}
        }
    }

    pub(super) fn connected(&mut self, round_trip: Duration, now: Moment) {
        let Stage::Connecting(_) = self.stage else { return };
        self.connections += 1;
        self.known = true;
        let up = Up { number: self.connections, since: now.at, round_trip, settled: false };
        // Whatever probe was under way belonged to an earlier connection.
        self.breaker.abandoned();
        // A good hello contradicts failures to get that far. It contradicts nothing when connections broke after it.
        if self.last_failure.as_ref().is_some_and(|failure| matches!(failure.phase, Phase::Dial | Phase::Hello)) {
            self.breaker.contradicted();
            self.breaker.success();
        }
        self.prove(up, now);
    }

    pub(super) fn dial_failed(&mut self, failure: Failure, now: Moment) {
        if let Stage::Connecting(_) = self.stage {
            self.retry(failure, now);
        }
    }

    pub(super) fn probe_answered(&mut self, round_trip: Duration, now: Moment) {
        match self.stage {
            Stage::Suspect(up, Probe::Asked(_), _) => {
                self.enter(Stage::Active(Up { round_trip, ..up }), "it answered", now);
            }
            Stage::Proving(up, Probe::Asked(_)) => {
                self.breaker.success();
                self.prove(Up { round_trip, ..up }, now);
            }
            Stage::Discovered
            | Stage::Foreign
            | Stage::Connecting(_)
            | Stage::Proving(..)
            | Stage::Active(_)
            | Stage::Suspect(..)
            | Stage::Retrying(_)
            | Stage::Draining(_)
            | Stage::Gone(_) => {}
        }
    }

    pub(super) fn probe_failed(&mut self, failure: Failure, now: Moment) {
        match self.stage {
            Stage::Suspect(up, Probe::Asked(asked), missed) if missed + 1 < MISSED_PROBES => {
                let next = (asked + self.params.probe_interval).max(now.at);
                self.stage = Stage::Suspect(up, Probe::Next(next), missed + 1);
            }
            Stage::Suspect(_, Probe::Asked(_), _) | Stage::Proving(_, Probe::Asked(_)) => self.lost(failure, now),
            Stage::Discovered
            | Stage::Foreign
            | Stage::Connecting(_)
            | Stage::Proving(..)
            | Stage::Active(_)
            | Stage::Suspect(..)
            | Stage::Retrying(_)
            | Stage::Draining(_)
            | Stage::Gone(_) => {}
        }
    }

    pub(super) fn lost(&mut self, failure: Failure, now: Moment) {
        match self.stage {
            Stage::Active(up) | Stage::Suspect(up, ..) => {
                self.settle(up, now.at);
                self.retry(failure, now);
            }
            Stage::Proving(..) => self.retry(failure, now),
            Stage::Draining(_) => self.leave("it unregistered, and its connection ended", now),
            Stage::Discovered | Stage::Foreign | Stage::Connecting(_) | Stage::Retrying(_) | Stage::Gone(_) => {}
        }
    }

    pub(super) fn check(&mut self, why: &'static str, now: Moment) {
        match self.stage {
            Stage::Active(up) => {
                self.enter(Stage::Suspect(up, Probe::Asked(now.at), 0), why, now);
                self.effects.push(Effect::Probe);
            }
            Stage::Retrying(_) => self.dial(why, false, now),
            Stage::Discovered
            | Stage::Foreign
            | Stage::Connecting(_)
            | Stage::Proving(..)
            | Stage::Suspect(..)
            | Stage::Draining(_)
            | Stage::Gone(_) => {}
        }
    }

    /// Begins with a record that is new.
    pub(super) fn begin(&mut self, why: &str, now: Moment) {
        match self.record.protocol {
            Protocol::H2c => self.dial(why, true, now),
            Protocol::Http1 => {
                let why = "it speaks HTTP/1.1, and this version of the hub connects to h2c instances only";
                self.enter(Stage::Foreign, why, now);
            }
        }
    }

    fn dial(&mut self, why: &str, fresh: bool, now: Moment) {
        self.dials += 1;
        self.enter(Stage::Connecting(Dial { number: self.dials, fresh }), why, now);
    }

    /// What failed before was another life: nothing of it counts against this one.
    fn start_afresh(&mut self) {
        self.first.reset();
        self.again.reset();
        self.breaker.reset();
        self.known = false;
    }

    /// Uses a connection as far as the breaker allows.
    fn prove(&mut self, up: Up, now: Moment) {
        let probe = match self.breaker.admit(now.at) {
            Admission::Pass => return self.enter(Stage::Active(up), "it proved who it is", now),
            Admission::Probe => {
                self.effects.push(Effect::Probe);
                Probe::Asked(now.at)
            }
            Admission::Refuse => Probe::Next(self.half_open_at().unwrap_or(now.at + self.params.probe_interval)),
        };
        if let Stage::Proving(..) = self.stage {
            self.stage = Stage::Proving(up, probe);
        } else {
            self.enter(
                Stage::Proving(up, probe),
                "it proved who it is, but it failed too often to be trusted yet",
                now,
            );
        }
    }

    fn half_open_at(&self) -> Option<Instant> {
        match self.breaker.state() {
            breaker::State::Open { until } => Some(until),
            breaker::State::Closed { .. } | breaker::State::HalfOpen { .. } => None,
        }
    }

    /// Forgets earlier failures if the connection was healthy for long enough.
    fn settle(&mut self, up: Up, now: Instant) {
        if !up.settled && self.again.healthy_for(now.saturating_duration_since(up.since)) {
            self.breaker.success();
            if let Stage::Active(up) = &mut self.stage {
                up.settled = true;
            }
        }
    }

    /// Dials again, at once or after the backoff.
    fn retry(&mut self, failure: Failure, now: Moment) {
        if failure.kind.counts_against_peer() {
            self.breaker.failure(now.at);
        } else {
            self.breaker.abandoned();
        }
        let backoff = if self.known { &mut self.again } else { &mut self.first };
        let delay = match failure.class() {
            Class::RetryNow => backoff.immediate_or_delay(now.random),
            Class::Backoff | Class::Rediscover | Class::Terminal | Class::RequestOnly => backoff.next_delay(now.random),
        };
        self.effects.push(Effect::Nudge);
        let why = failure.to_string();
        self.last_failure = Some(failure);
        if delay.is_zero() {
            self.dial(&why, false, now);
        } else {
            self.enter(Stage::Retrying(now.at + delay), why, now);
        }
    }

    fn leave(&mut self, why: impl Into<String>, now: Moment) {
        self.enter(Stage::Gone(now.at + self.params.remember_gone), why, now);
    }
}
