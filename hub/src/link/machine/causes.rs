//! The edges of the machine that registry, dials and lost connections cause, one method for each cause.
//!
//! Owns every change of [`Stage`] but those of [`super::doubts`]. A cause that means nothing in the present stage
//! changes nothing: a late answer to a dial, the end of a connection that is not held any more.
//! Never: doubts.

use super::{Dial, Effect, Machine, Moment, Probe, Stage, Up};
use crate::health::Health;
use crate::link::start::Start;
use crate::link::status::Trip;
use linchpin_shared::breaker::{self, Admission};
use linchpin_shared::failure::{Class, Failure, Kind, Phase};
use linchpin_shared::registry::record::{Protocol, Record};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

impl Machine {
    pub(super) fn found(&mut self, record: Arc<Record>, now: Moment) {
        let other = record.generation != self.record.generation
            || record.endpoint != self.record.endpoint
            || record.protocol != self.record.protocol;
        self.record = record;
        self.revision += 1;
        if other {
            self.start_afresh();
            return self.dial("a new life of it registered", true, now);
        }
        match self.stage {
            Stage::Gone(_) | Stage::Dormant => self.dial("it registered again", true, now),
            Stage::Draining(up) => self.activate(up, "its record is back", now),
            Stage::Discovered
            | Stage::Connecting(_)
            | Stage::Proving(..)
            | Stage::Active(_)
            | Stage::Suspect(..)
            | Stage::Unresponsive(..)
            | Stage::Retrying(_) => {}
        }
    }

    pub(super) fn unregistered(&mut self, now: Moment) {
        match self.stage {
            // The end of its connections would show nothing: they come and go.
            Stage::Active(_) | Stage::Suspect(..) | Stage::Unresponsive(..)
                if self.record.protocol == Protocol::Http1 =>
            {
                self.leave("it unregistered", now);
            }
            Stage::Active(up) | Stage::Suspect(up, ..) | Stage::Unresponsive(up, _) => {
                self.enter(Stage::Draining(up), "its record is gone, the connection lives", now);
            }
            Stage::Draining(_) | Stage::Dormant | Stage::Gone(_) => {}
            Stage::Discovered | Stage::Connecting(_) | Stage::Proving(..) | Stage::Retrying(_) => {
                self.leave("it unregistered", now);
            }
        }
    }

    pub(super) fn owner_dead(&mut self, now: Moment) {
        if let Stage::Gone(_) | Stage::Dormant = self.stage {
            return;
        }
        let phase = if self.up().is_some() { Phase::Serve } else { Phase::Dial };
        let cause = format!("process {} has ended", self.record.process.pid);
        self.leave(cause.clone(), now);
        self.last_failure = Some(Failure::new(Kind::ProcessGone, phase).because(cause));
    }

    pub(super) fn connected(&mut self, round_trip: Duration, now: Moment) {
        let Stage::Connecting(_) = self.stage else { return };
        self.connections += 1;
        (self.known, self.stopped) = (true, false);
        self.health.answered(round_trip);
        let checkup = Probe::Next(now.at + self.health.pause());
        let up = Up { number: self.connections, since: now.at, round_trip, settled: false, checkup, heard: now.at };
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
            self.stopped = now.stopped && failure.kind == Kind::HelloTimeout;
            self.retry(failure, now);
        }
    }

    pub(super) fn lost(&mut self, failure: Failure, now: Moment) {
        match self.stage {
            Stage::Active(up) | Stage::Suspect(up, ..) | Stage::Unresponsive(up, _) => {
                self.settle(up, now.at);
                self.retry(failure, now);
            }
            Stage::Proving(..) => self.retry(failure, now),
            Stage::Draining(_) => self.leave("it unregistered, and its connection ended", now),
            Stage::Discovered | Stage::Connecting(_) | Stage::Retrying(_) | Stage::Dormant | Stage::Gone(_) => {}
        }
    }

    pub(super) fn dial(&mut self, why: &str, fresh: bool, now: Moment) {
        self.dials += 1;
        self.enter(Stage::Connecting(Dial { number: self.dials, fresh }), why, now);
    }

    /// What failed before was another life: nothing of it counts against this one.
    fn start_afresh(&mut self) {
        self.first.reset();
        self.again.reset();
        self.breaker.reset();
        self.health = Health::new(self.params.health);
        (self.known, self.stopped) = (false, false);
    }

    /// Uses a connection.
    pub(super) fn activate(&mut self, up: Up, why: &str, now: Moment) {
        let checkup = Probe::Next(now.at + self.health.pause());
        self.enter(Stage::Active(Up { checkup, ..up }), why, now);
    }

    /// Uses a connection as far as the breaker allows.
    pub(super) fn prove(&mut self, up: Up, now: Moment) {
        let probe = match self.breaker.admit(now.at) {
            Admission::Pass => return self.activate(up, "it proved who it is", now),
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
    pub(super) fn settle(&mut self, up: Up, now: Instant) {
        if !up.settled && self.again.healthy_for(now.saturating_duration_since(up.since)) {
            self.breaker.success();
            self.revision += 1;
            if let Stage::Active(up) = &mut self.stage {
                up.settled = true;
            }
        }
    }

    /// Dials again, at once or after the backoff.
    pub(super) fn retry(&mut self, failure: Failure, now: Moment) {
        self.blame(&failure, now);
        let backoff = if self.known { &mut self.again } else { &mut self.first };
        let delay = match (failure.class(), failure.retry_after_ms) {
            (Class::RetryNow, _) => backoff.immediate_or_delay(now.random),
            (Class::Backoff | Class::Rediscover | Class::Terminal | Class::RequestOnly, Some(wanted)) => {
                backoff.suggested_delay(Duration::from_millis(wanted), now.random)
            }
            (Class::Backoff | Class::Rediscover | Class::Terminal | Class::RequestOnly, None) => {
                backoff.next_delay(now.random)
            }
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

    /// Tells the breaker. A process that somebody stopped does not fail: it waits to be continued.
    fn blame(&mut self, failure: &Failure, now: Moment) {
        if self.stopped || !failure.kind.counts_against_peer() {
            self.breaker.abandoned();
        } else if self.breaker.failure(now.at) {
            self.trips += 1;
            self.last_trip = Some(Trip { at: now.wall, why: failure.to_string() });
        }
    }

    /// What is declared sleeps; anything else is gone.
    pub(super) fn leave(&mut self, why: impl Into<String>, now: Moment) {
        match &self.declared {
            Some(start) => {
                let why = format!("{}: {}", why.into(), start.why());
                self.enter(Stage::Dormant, why, now);
            }
            None => self.enter(Stage::Gone(now.at + self.params.remember_gone), why, now),
        }
    }

    pub(super) fn declare(&mut self, start: Option<Start>, now: Moment) {
        if self.declared == start {
            return;
        }
        self.declared = start;
        match (self.stage, &self.declared) {
            (Stage::Dormant, None) => self.leave("it is not declared any more", now),
            (Stage::Dormant, Some(start)) => {
                let why = start.why();
                self.enter(Stage::Dormant, why, now);
            }
            (Stage::Gone(_), Some(_)) => self.leave("it is declared", now),
            (Stage::Discovered, _)
            | (Stage::Connecting(_), _)
            | (Stage::Proving(..), _)
            | (Stage::Active(_), _)
            | (Stage::Suspect(..), _)
            | (Stage::Unresponsive(..), _)
            | (Stage::Retrying(_), _)
            | (Stage::Draining(_), _)
            | (Stage::Gone(_), None) => {}
        }
    }
}
