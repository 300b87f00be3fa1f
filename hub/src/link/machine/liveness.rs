//! The transitions that time, silence and probes cause: how long a connection may be silent, what an answer or its
//! absence means, and when the peer is stopped rather than lost.
//!
//! The connection itself sends a PING after [`super::MachineParams::ping_interval`] of silence. A connection is called
//! lost only after a request was sent in time and no byte at all was read since. A deadline that is noticed late shows
//! that the hub was away, not that the peer was silent, so the request is repeated. A slow peer is never called lost
//! while bytes arrive from it.

use super::{Context, Effect, Established, Machine, ProbeState, Stage};
use crate::link::failure::{Failure, FailureKind, FailurePhase};
use linchpin_shared::registry::record::Protocol;
use std::time::Duration;
use tokio::time::Instant;

/// How many unanswered probes end a connection. A single one may be the fault of a busy machine; two in a row are the
/// peer's. So a doubt is settled within one interval and one deadline, 1.5 s by default. A PING that was not answered is
/// the first of the two.
const MISSED_PROBES: u32 = 2;

/// A deadline that is noticed this much too late shows that the hub was stopped, starved, or asleep with the machine.
const AWAY: Duration = Duration::from_millis(500);

/// The time between two looks at a stopped process. A look reads one small file of `/proc`.
const PROCESS_LOOK: Duration = Duration::from_millis(250);

impl Machine {
    /// Notes that a byte was read from the connection.
    pub(super) fn note_activity(&mut self, context: Context) {
        let Some(last_read) = context.last_read else { return };
        let Some(connection) = self.established_mut().filter(|connection| last_read > connection.last_read) else {
            return;
        };
        connection.last_read = last_read;
        if let Stage::Unresponsive(connection, _) = self.stage {
            self.activate(connection, "it answers again", context);
        }
    }

    pub(super) fn deadline_reached(&mut self, context: Context) {
        let now = context.now;
        match self.stage {
            Stage::Retrying(at) if at <= now => self.start_dial("the next dial is due", false, context),
            Stage::Active(connection) => self.check_active(connection, context),
            Stage::Probation(connection, ProbeState::DueAt(at)) if at <= now => self.admit(connection, context),
            Stage::Suspect(connection, ProbeState::DueAt(at), missed) if at <= now => {
                self.probe_again(connection, missed, context);
            }
            Stage::Unresponsive(connection, at) if at <= now => self.check_process(connection, context),
            Stage::Gone(at) if at <= now => self.effects.push(Effect::Forget),
            Stage::Probation(connection, ProbeState::DueAt(_)) | Stage::Draining(connection) => {
                self.end_if_silent(connection, context);
            }
            Stage::Discovered
            | Stage::Connecting(_)
            | Stage::Probation(..)
            | Stage::Suspect(..)
            | Stage::Unresponsive(..)
            | Stage::Retrying(_)
            | Stage::Dormant
            | Stage::Gone(_) => {}
        }
    }

    pub(super) fn probe_answered(&mut self, round_trip: Duration, context: Context) {
        match self.stage {
            Stage::Active(Established { checkup: ProbeState::SentAt(_), .. }) => {
                self.health.answered(round_trip);
                self.schedule_checkup(context);
                if let Some(connection) = self.established_mut() {
                    connection.round_trip = round_trip;
                }
            }
            Stage::Suspect(connection, ProbeState::SentAt(_), missed) => {
                // The missed probe shows that the link is slow. It is counted only now, so that it could not make the
                // link wait longer while it was suspect.
                if missed > 0 {
                    self.health.late();
                }
                self.health.answered(round_trip);
                self.activate(Established { round_trip, ..connection }, "it answered", context);
            }
            Stage::Probation(connection, ProbeState::SentAt(_)) => {
                self.health.answered(round_trip);
                self.breaker.success();
                self.revision += 1;
                self.admit(Established { round_trip, ..connection }, context);
            }
            Stage::Discovered
            | Stage::Connecting(_)
            | Stage::Probation(..)
            | Stage::Active(_)
            | Stage::Suspect(..)
            | Stage::Unresponsive(..)
            | Stage::Retrying(_)
            | Stage::Draining(_)
            | Stage::Dormant
            | Stage::Gone(_) => {}
        }
    }

    pub(super) fn probe_failed(&mut self, failure: Failure, context: Context) {
        match self.stage {
            Stage::Active(Established { checkup: ProbeState::SentAt(sent), .. })
            | Stage::Suspect(_, ProbeState::SentAt(sent), _)
            | Stage::Probation(_, ProbeState::SentAt(sent))
                if self.noticed_late(sent, context) =>
            {
                self.repeat_probe(context);
            }
            Stage::Active(connection @ Established { checkup: ProbeState::SentAt(sent), .. }) => {
                self.health.failed();
                if connection.last_read > sent {
                    self.schedule_checkup(context);
                } else if self.is_conclusive(&failure) {
                    self.connection_lost(failure, context);
                } else {
                    self.suspect(connection, 1, "a check-up was not answered", context);
                }
            }
            Stage::Suspect(connection, ProbeState::SentAt(sent), missed) => {
                self.suspect_unanswered(connection, sent, missed, failure, context);
            }
            Stage::Probation(_, ProbeState::SentAt(_)) => {
                self.health.failed();
                self.connection_lost(failure, context);
            }
            Stage::Discovered
            | Stage::Connecting(_)
            | Stage::Probation(..)
            | Stage::Active(_)
            | Stage::Suspect(..)
            | Stage::Unresponsive(..)
            | Stage::Retrying(_)
            | Stage::Draining(_)
            | Stage::Dormant
            | Stage::Gone(_) => {}
        }
    }

    /// Decides about a suspect connection whose probe was not answered.
    fn suspect_unanswered(
        &mut self,
        connection: Established,
        sent: Instant,
        missed: u32,
        failure: Failure,
        context: Context,
    ) {
        if connection.last_read > sent {
            self.health.late();
            self.activate(connection, "it did not answer the probe, but other bytes arrived from it", context);
        } else if missed + 1 < MISSED_PROBES && !self.is_conclusive(&failure) {
            let next = (sent + self.params.probe_interval).max(context.now);
            self.stage = Stage::Suspect(connection, ProbeState::DueAt(next), missed + 1);
        } else if context.process_stopped {
            let why = format!("process {} is stopped by a signal (SIGSTOP)", self.record.process.pid);
            self.enter(Stage::Unresponsive(connection, context.now + PROCESS_LOOK), why, context);
        } else {
            self.health.failed();
            self.connection_lost(failure, context);
        }
    }

    pub(super) fn check(&mut self, why: &'static str, context: Context) {
        match self.stage {
            Stage::Active(connection) => self.suspect(connection, 0, why, context),
            Stage::Retrying(_) => self.start_dial(why, false, context),
            Stage::Discovered
            | Stage::Connecting(_)
            | Stage::Probation(..)
            | Stage::Suspect(..)
            | Stage::Unresponsive(..)
            | Stage::Draining(_)
            | Stage::Dormant
            | Stage::Gone(_) => {}
        }
    }

    /// When the silence of a connection makes it suspect. `None` for a foreign program, which may be silent between
    /// requests.
    pub(super) fn silence_deadline(&self, connection: &Established) -> Option<Instant> {
        match self.record.protocol {
            Protocol::H2c => {
                let patience = self.health.patience(self.params.ping_grace);
                Some(connection.last_read + self.params.ping_interval + patience)
            }
            Protocol::Http1 => None,
        }
    }

    /// When the silence of a connection that is not probed ends it.
    pub(super) fn silence_end(&self, connection: &Established) -> Option<Instant> {
        self.silence_deadline(connection).map(|at| at + self.probe_timeout())
    }

    /// Handles a deadline of an active connection: its settling, its silence, or its check-up.
    fn check_active(&mut self, connection: Established, context: Context) {
        self.settle(connection, context.now);
        let silent_for = context.now.saturating_duration_since(connection.last_read);
        if self.has_passed(self.silence_deadline(&connection), context) {
            let why = format!("no byte arrived from it for {} ms", silent_for.as_millis());
            self.suspect(connection, MISSED_PROBES - 1, &why, context);
        } else if let Stage::Active(connection) = &mut self.stage
            && let ProbeState::DueAt(at) = connection.checkup
            && at <= context.now
        {
            connection.checkup = ProbeState::SentAt(context.now);
            self.effects.push(Effect::SendProbe);
        }
    }

    fn suspect(&mut self, connection: Established, missed: u32, why: &str, context: Context) {
        self.enter(Stage::Suspect(connection, ProbeState::SentAt(context.now), missed), why, context);
        self.effects.push(Effect::SendProbe);
    }

    fn probe_again(&mut self, connection: Established, missed: u32, context: Context) {
        self.stage = Stage::Suspect(connection, ProbeState::SentAt(context.now), missed);
        self.effects.push(Effect::SendProbe);
    }

    /// Repeats a probe whose deadline was noticed late, so that the lost time is not counted against the peer.
    fn repeat_probe(&mut self, context: Context) {
        match &mut self.stage {
            Stage::Active(Established { checkup: probe, .. })
            | Stage::Suspect(_, probe, _)
            | Stage::Probation(_, probe) => {
                *probe = ProbeState::SentAt(context.now);
                self.effects.push(Effect::SendProbe);
            }
            Stage::Discovered
            | Stage::Connecting(_)
            | Stage::Unresponsive(..)
            | Stage::Retrying(_)
            | Stage::Draining(_)
            | Stage::Dormant
            | Stage::Gone(_) => {}
        }
    }

    fn check_process(&mut self, connection: Established, context: Context) {
        if context.process_stopped {
            self.stage = Stage::Unresponsive(connection, context.now + PROCESS_LOOK);
        } else {
            let connection = Established { last_read: context.now, ..connection };
            self.suspect(connection, 0, "its process runs again", context);
        }
    }

    fn end_if_silent(&mut self, connection: Established, context: Context) {
        if self.has_passed(self.silence_end(&connection), context) {
            let silent_for = context.now.saturating_duration_since(connection.last_read);
            let why = format!("no byte arrived for {} ms", silent_for.as_millis());
            let failure = Failure::new(FailureKind::PingTimeout, FailurePhase::Serve).because(why);
            self.connection_lost(failure, context);
        }
    }

    /// Whether this deadline has passed and was noticed in time. A deadline that is noticed late starts the silence anew.
    fn has_passed(&mut self, deadline: Option<Instant>, context: Context) -> bool {
        let Some(deadline) = deadline.filter(|deadline| *deadline <= context.now) else { return false };
        let away = context.now - deadline > AWAY;
        if let Some(connection) = self.established_mut().filter(|_| away) {
            connection.last_read = context.now;
        }
        !away
    }

    fn noticed_late(&self, sent: Instant, context: Context) -> bool {
        context.now.saturating_duration_since(sent) > self.probe_timeout() + AWAY
    }

    fn schedule_checkup(&mut self, context: Context) {
        let pause = self.health.pause();
        if let Some(connection) = self.established_mut() {
            connection.checkup = ProbeState::DueAt(context.now + pause);
        }
    }

    /// Whether one failed probe is enough. A foreign program is probed on a connection of its own, so it refuses or it
    /// does not. On our own protocol a failure of the connection is reported by the connection itself.
    fn is_conclusive(&self, failure: &Failure) -> bool {
        self.record.protocol == Protocol::Http1 && failure.kind != FailureKind::PingTimeout
    }
}
