//! The transitions that the registry, dials and lost connections cause, one method for each input.
//!
//! An input that means nothing in the present stage changes nothing: for example the late result of a dial, or the end
//! of a connection that is no longer held.

use super::{Context, DialAttempt, Effect, Established, Machine, ProbeState, Stage};
use crate::health::Health;
use crate::link::failure::{Failure, FailureClass, FailureKind, FailurePhase};
use crate::link::launcher::LaunchState;
use crate::link::status::BreakerTrip;
use linchpin_shared::breaker::{Admission, BreakerState};
use linchpin_shared::registry::record::{Protocol, Record};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

impl Machine {
    pub(super) fn registered(&mut self, record: Arc<Record>, context: Context) {
        let replaced = record.generation != self.record.generation
            || record.endpoint != self.record.endpoint
            || record.protocol != self.record.protocol;
        self.record = record;
        self.revision += 1;
        if replaced {
            self.forget_previous_generation();
            return self.start_dial("a new generation of it registered", true, context);
        }
        match self.stage {
            Stage::Gone(_) | Stage::Dormant => self.start_dial("it registered again", true, context),
            Stage::Draining(connection) => self.activate(connection, "its record is back", context),
            Stage::Discovered
            | Stage::Connecting(_)
            | Stage::Probation(..)
            | Stage::Active(_)
            | Stage::Suspect(..)
            | Stage::Unresponsive(..)
            | Stage::Retrying(_) => {}
        }
    }

    pub(super) fn unregistered(&mut self, context: Context) {
        match self.stage {
            // The connections of a foreign program come and go, so waiting for their end would show nothing.
            Stage::Active(_) | Stage::Suspect(..) | Stage::Unresponsive(..)
                if self.record.protocol == Protocol::Http1 =>
            {
                self.retire("it unregistered", context);
            }
            Stage::Active(connection) | Stage::Suspect(connection, ..) | Stage::Unresponsive(connection, _) => {
                self.enter(Stage::Draining(connection), "its record is gone, but the connection is open", context);
            }
            Stage::Draining(_) | Stage::Dormant | Stage::Gone(_) => {}
            Stage::Discovered | Stage::Connecting(_) | Stage::Probation(..) | Stage::Retrying(_) => {
                self.retire("it unregistered", context);
            }
        }
    }

    pub(super) fn owner_dead(&mut self, context: Context) {
        if let Stage::Gone(_) | Stage::Dormant = self.stage {
            return;
        }
        let phase = if self.established().is_some() { FailurePhase::Serve } else { FailurePhase::Dial };
        let cause = format!("process {} has ended", self.record.process.pid);
        self.retire(cause.clone(), context);
        self.last_failure = Some(Failure::new(FailureKind::ProcessGone, phase).because(cause));
    }

    pub(super) fn connected(&mut self, round_trip: Duration, context: Context) {
        let Stage::Connecting(_) = self.stage else { return };
        self.connections += 1;
        (self.was_connected, self.process_stopped) = (true, false);
        self.health.answered(round_trip);
        let connection = Established {
            number: self.connections,
            since: context.now,
            round_trip,
            settled: false,
            checkup: ProbeState::DueAt(context.now + self.health.pause()),
            last_read: context.now,
        };
        // A probe that was under way belonged to an earlier connection.
        self.breaker.abandoned();
        // A successful hello contradicts failures to get that far. It says nothing about connections that broke later.
        let failed_before_hello = self
            .last_failure
            .as_ref()
            .is_some_and(|failure| matches!(failure.phase, FailurePhase::Dial | FailurePhase::Hello));
        if failed_before_hello {
            self.breaker.contradicted();
            self.breaker.success();
        }
        self.admit(connection, context);
    }

    pub(super) fn dial_failed(&mut self, failure: Failure, context: Context) {
        if let Stage::Connecting(_) = self.stage {
            self.process_stopped = context.process_stopped && failure.kind == FailureKind::HelloTimeout;
            self.retry(failure, context);
        }
    }

    pub(super) fn connection_lost(&mut self, failure: Failure, context: Context) {
        match self.stage {
            Stage::Active(connection) | Stage::Suspect(connection, ..) | Stage::Unresponsive(connection, _) => {
                self.settle(connection, context.now);
                self.retry(failure, context);
            }
            Stage::Probation(..) => self.retry(failure, context),
            Stage::Draining(_) => self.retire("it unregistered, and its connection ended", context),
            Stage::Discovered | Stage::Connecting(_) | Stage::Retrying(_) | Stage::Dormant | Stage::Gone(_) => {}
        }
    }

    pub(super) fn declared(&mut self, launch: Option<LaunchState>, context: Context) {
        if self.launch == launch {
            return;
        }
        self.launch = launch;
        match (self.stage, &self.launch) {
            (Stage::Dormant, None) => self.retire("it is no longer declared", context),
            (Stage::Dormant, Some(launch)) => {
                let why = launch.describe();
                self.enter(Stage::Dormant, why, context);
            }
            (Stage::Gone(_), Some(_)) => self.retire("it is declared", context),
            (Stage::Discovered, _)
            | (Stage::Connecting(_), _)
            | (Stage::Probation(..), _)
            | (Stage::Active(_), _)
            | (Stage::Suspect(..), _)
            | (Stage::Unresponsive(..), _)
            | (Stage::Retrying(_), _)
            | (Stage::Draining(_), _)
            | (Stage::Gone(_), None) => {}
        }
    }

    pub(super) fn start_dial(&mut self, why: &str, for_new_record: bool, context: Context) {
        self.dials += 1;
        self.enter(Stage::Connecting(DialAttempt { number: self.dials, for_new_record }), why, context);
    }

    /// Resets what is known from an earlier generation: its failures do not count against the new one.
    fn forget_previous_generation(&mut self) {
        self.connect_backoff.reset();
        self.reconnect_backoff.reset();
        self.breaker.reset();
        self.health = Health::new(self.params.checkups);
        (self.was_connected, self.process_stopped) = (false, false);
    }

    /// Lets requests pass over this connection.
    pub(super) fn activate(&mut self, connection: Established, why: &str, context: Context) {
        let checkup = ProbeState::DueAt(context.now + self.health.pause());
        self.enter(Stage::Active(Established { checkup, ..connection }), why, context);
    }

    /// Lets requests pass over this connection if the breaker allows it, and probes the connection otherwise.
    pub(super) fn admit(&mut self, connection: Established, context: Context) {
        let probe = match self.breaker.admit(context.now) {
            Admission::Pass => return self.activate(connection, "it proved its identity", context),
            Admission::Probe => {
                self.effects.push(Effect::SendProbe);
                ProbeState::SentAt(context.now)
            }
            Admission::Refuse => {
                ProbeState::DueAt(self.half_open_at().unwrap_or(context.now + self.params.probe_interval))
            }
        };
        let stage = Stage::Probation(connection, probe);
        if let Stage::Probation(..) = self.stage {
            self.stage = stage;
        } else {
            self.enter(
                stage,
                "it proved its identity, but it failed too often: it is probed before it is used",
                context,
            );
        }
    }

    fn half_open_at(&self) -> Option<Instant> {
        match self.breaker.state() {
            BreakerState::Open { until } => Some(until),
            BreakerState::Closed { .. } | BreakerState::HalfOpen { .. } => None,
        }
    }

    /// Forgets earlier failures if the connection was healthy for long enough.
    pub(super) fn settle(&mut self, connection: Established, now: Instant) {
        if !connection.settled && self.reconnect_backoff.healthy_for(now.saturating_duration_since(connection.since)) {
            self.breaker.success();
            self.revision += 1;
            if let Stage::Active(connection) = &mut self.stage {
                connection.settled = true;
            }
        }
    }

    /// Dials again, at once or after the backoff.
    pub(super) fn retry(&mut self, failure: Failure, context: Context) {
        self.report_to_breaker(&failure, context);
        let backoff = if self.was_connected { &mut self.reconnect_backoff } else { &mut self.connect_backoff };
        let delay = match (failure.class(), failure.retry_after_ms) {
            (FailureClass::RetryNow, _) => backoff.immediate_or_delay(context.random),
            (
                FailureClass::Backoff | FailureClass::Rediscover | FailureClass::Terminal | FailureClass::RequestOnly,
                Some(requested),
            ) => backoff.suggested_delay(Duration::from_millis(requested), context.random),
            (
                FailureClass::Backoff | FailureClass::Rediscover | FailureClass::Terminal | FailureClass::RequestOnly,
                None,
            ) => backoff.next_delay(context.random),
        };
        self.effects.push(Effect::RequestRescan);
        let why = failure.to_string();
        self.last_failure = Some(failure);
        if delay.is_zero() {
            self.start_dial(&why, false, context);
        } else {
            self.enter(Stage::Retrying(context.now + delay), why, context);
        }
    }

    /// Counts the failure in the breaker, unless the peer is not to blame for it. A process that is stopped by a signal
    /// does not fail: it waits to be continued.
    fn report_to_breaker(&mut self, failure: &Failure, context: Context) {
        if self.process_stopped || !failure.kind.counts_against_peer() {
            self.breaker.abandoned();
        } else if self.breaker.failure(context.now) {
            self.trips += 1;
            self.last_trip = Some(BreakerTrip { at: context.wall, why: failure.to_string() });
        }
    }

    /// Ends the search for an instance: it becomes dormant if it is declared, and gone otherwise.
    pub(super) fn retire(&mut self, why: impl Into<String>, context: Context) {
        match &self.launch {
            Some(launch) => {
                let why = format!("{}: {}", why.into(), launch.describe());
                self.enter(Stage::Dormant, why, context);
            }
            None => self.enter(Stage::Gone(context.now + self.params.remember_gone), why, context),
        }
    }
}
