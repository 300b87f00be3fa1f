//! The edges of the machine that time, silence and probes cause.
//!
//! Owns the rules of doubt: how long a connection may be silent, what an answer or its lack means, and when the peer is
//! stopped and not lost. The connection itself sends a PING after [`super::Params::ping_interval`] of silence.
//! Invariant: a connection is called lost only after something was asked in time and nothing at all was heard since.
//! A deadline that is noticed late shows that the hub was away, not that the peer was silent: it is asked again.
//! Never: holds a peer's slowness against it while its bytes come.

use super::{Effect, Machine, Moment, Probe, Stage, Up};
use linchpin_shared::failure::{Failure, Kind, Phase};
use linchpin_shared::registry::record::Protocol;
use std::time::Duration;
use tokio::time::Instant;

/// One unanswered probe may be the fault of a busy machine; two in a row are the peer's. So a doubt is settled within
/// one interval and one deadline, 1.5 s by default. A PING that was not answered is the first of the two.
const MISSED_PROBES: u32 = 2;

/// A deadline that is noticed so much late: the hub was stopped, starved, or asleep with the machine.
const AWAY: Duration = Duration::from_millis(500);

/// How often a stopped process is looked at. It costs one small file of `/proc`.
const LOOK: Duration = Duration::from_millis(250);

impl Machine {
    /// Takes note of a sign of life.
    pub(super) fn hear(&mut self, now: Moment) {
        let Some(heard) = now.heard else { return };
        let Some(up) = self.up_mut().filter(|up| heard > up.heard) else { return };
        up.heard = heard;
        if let Stage::Unresponsive(up, _) = self.stage {
            self.activate(up, "it answers again", now);
        }
    }

    pub(super) fn due(&mut self, now: Moment) {
        match self.stage {
            Stage::Retrying(at) if at <= now.at => self.dial("the time of the next dial has come", false, now),
            Stage::Active(up) => self.tend(up, now),
            Stage::Proving(up, Probe::Next(at)) if at <= now.at => self.prove(up, now),
            Stage::Suspect(up, Probe::Next(at), missed) if at <= now.at => self.probe(up, missed, now),
            Stage::Unresponsive(up, at) if at <= now.at => self.look(up, now),
            Stage::Gone(at) if at <= now.at => self.effects.push(Effect::Forget),
            Stage::Proving(up, Probe::Next(_)) | Stage::Draining(up) => self.end_if_silent(up, now),
            Stage::Discovered
            | Stage::Connecting(_)
            | Stage::Proving(..)
            | Stage::Suspect(..)
            | Stage::Unresponsive(..)
            | Stage::Retrying(_)
            | Stage::Dormant
            | Stage::Gone(_) => {}
        }
    }

    pub(super) fn probe_answered(&mut self, round_trip: Duration, now: Moment) {
        match self.stage {
            Stage::Active(Up { checkup: Probe::Asked(_), .. }) => {
                self.health.answered(round_trip);
                self.check_up_later(now);
                if let Some(up) = self.up_mut() {
                    up.round_trip = round_trip;
                }
            }
            Stage::Suspect(up, Probe::Asked(_), missed) => {
                // That the doubt was wrong shows that the link is slow; until then it must not prolong the doubt.
                if missed > 0 {
                    self.health.late();
                }
                self.health.answered(round_trip);
                self.activate(Up { round_trip, ..up }, "it answered", now);
            }
            Stage::Proving(up, Probe::Asked(_)) => {
                self.health.answered(round_trip);
                self.breaker.success();
                self.revision += 1;
                self.prove(Up { round_trip, ..up }, now);
            }
            Stage::Discovered
            | Stage::Connecting(_)
            | Stage::Proving(..)
            | Stage::Active(_)
            | Stage::Suspect(..)
            | Stage::Unresponsive(..)
            | Stage::Retrying(_)
            | Stage::Draining(_)
            | Stage::Dormant
            | Stage::Gone(_) => {}
        }
    }

    pub(super) fn probe_failed(&mut self, failure: Failure, now: Moment) {
        match self.stage {
            Stage::Active(Up { checkup: Probe::Asked(asked), .. })
            | Stage::Suspect(_, Probe::Asked(asked), _)
            | Stage::Proving(_, Probe::Asked(asked))
                if self.was_away(asked, now) =>
            {
                self.ask_again(now);
            }
            Stage::Active(up @ Up { checkup: Probe::Asked(asked), .. }) => {
                self.health.failed();
                if up.heard > asked {
                    self.check_up_later(now);
                } else if self.is_certain(&failure) {
                    self.lost(failure, now);
                } else {
                    self.suspect(up, 1, "a check-up was not answered", now);
                }
            }
            Stage::Suspect(up, Probe::Asked(asked), missed) => self.doubted(up, asked, missed, failure, now),
            Stage::Proving(_, Probe::Asked(_)) => {
                self.health.failed();
                self.lost(failure, now);
            }
            Stage::Discovered
            | Stage::Connecting(_)
            | Stage::Proving(..)
            | Stage::Active(_)
            | Stage::Suspect(..)
            | Stage::Unresponsive(..)
            | Stage::Retrying(_)
            | Stage::Draining(_)
            | Stage::Dormant
            | Stage::Gone(_) => {}
        }
    }

    /// A probe of a connection in doubt was not answered.
    fn doubted(&mut self, up: Up, asked: Instant, missed: u32, failure: Failure, now: Moment) {
        if up.heard > asked {
            self.health.late();
            self.activate(up, "it did not answer the probe, but it was heard", now);
        } else if missed + 1 < MISSED_PROBES && !self.is_certain(&failure) {
            let next = (asked + self.params.probe_interval).max(now.at);
            self.stage = Stage::Suspect(up, Probe::Next(next), missed + 1);
        } else if now.stopped {
            let why = format!("process {} is stopped by a signal (SIGSTOP)", self.record.process.pid);
            self.enter(Stage::Unresponsive(up, now.at + LOOK), why, now);
        } else {
            self.health.failed();
            self.lost(failure, now);
        }
    }

    pub(super) fn check(&mut self, why: &'static str, now: Moment) {
        match self.stage {
            Stage::Active(up) => self.suspect(up, 0, why, now),
            Stage::Retrying(_) => self.dial(why, false, now),
            Stage::Discovered
            | Stage::Connecting(_)
            | Stage::Proving(..)
            | Stage::Suspect(..)
            | Stage::Unresponsive(..)
            | Stage::Draining(_)
            | Stage::Dormant
            | Stage::Gone(_) => {}
        }
    }

    /// When the silence of a connection becomes a doubt; never where nothing can be heard between requests.
    pub(super) fn silent_at(&self, up: &Up) -> Option<Instant> {
        match self.record.protocol {
            Protocol::H2c => Some(up.heard + self.params.ping_interval + self.health.patience(self.params.ping_grace)),
            Protocol::Http1 => None,
        }
    }

    /// When the silence of a connection that is not probed is its end.
    pub(super) fn silent_for_good_at(&self, up: &Up) -> Option<Instant> {
        self.silent_at(up).map(|at| at + self.probe_timeout())
    }

    /// What may be due while all is well.
    fn tend(&mut self, up: Up, now: Moment) {
        self.settle(up, now.at);
        let silent_for = now.at.saturating_duration_since(up.heard);
        if self.is_over(self.silent_at(&up), now) {
            let why = format!("nothing was heard from it for {} ms", silent_for.as_millis());
            self.suspect(up, MISSED_PROBES - 1, &why, now);
        } else if let Stage::Active(up) = &mut self.stage
            && let Probe::Next(at) = up.checkup
            && at <= now.at
        {
            up.checkup = Probe::Asked(now.at);
            self.effects.push(Effect::Probe);
        }
    }

    fn suspect(&mut self, up: Up, missed: u32, why: &str, now: Moment) {
        self.enter(Stage::Suspect(up, Probe::Asked(now.at), missed), why, now);
        self.effects.push(Effect::Probe);
    }

    fn probe(&mut self, up: Up, missed: u32, now: Moment) {
        self.stage = Stage::Suspect(up, Probe::Asked(now.at), missed);
        self.effects.push(Effect::Probe);
    }

    /// Asks the same once more: its time was not the peer's.
    fn ask_again(&mut self, now: Moment) {
        match &mut self.stage {
            Stage::Active(Up { checkup: probe, .. }) | Stage::Suspect(_, probe, _) | Stage::Proving(_, probe) => {
                *probe = Probe::Asked(now.at);
                self.effects.push(Effect::Probe);
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

    fn look(&mut self, up: Up, now: Moment) {
        if now.stopped {
            self.stage = Stage::Unresponsive(up, now.at + LOOK);
        } else {
            self.suspect(Up { heard: now.at, ..up }, 0, "its process runs again", now);
        }
    }

    fn end_if_silent(&mut self, up: Up, now: Moment) {
        if self.is_over(self.silent_for_good_at(&up), now) {
            let late = format!("nothing was heard for {} ms", now.at.saturating_duration_since(up.heard).as_millis());
            self.lost(Failure::new(Kind::PingTimeout, Phase::Serve).because(late), now);
        }
    }

    /// Whether this time is over, and we were there to see it.
    fn is_over(&mut self, end: Option<Instant>, now: Moment) -> bool {
        let Some(end) = end.filter(|end| *end <= now.at) else { return false };
        let away = now.at - end > AWAY;
        if let Some(up) = self.up_mut().filter(|_| away) {
            up.heard = now.at;
        }
        !away
    }

    fn was_away(&self, asked: Instant, now: Moment) -> bool {
        now.at.saturating_duration_since(asked) > self.probe_timeout() + AWAY
    }

    fn check_up_later(&mut self, now: Moment) {
        let pause = self.health.pause();
        if let Some(up) = self.up_mut() {
            up.checkup = Probe::Next(now.at + pause);
        }
    }

    /// Whether a probe that failed like this needs no second one. On a connection of its own a foreign program refuses
    /// or does not; on ours whatever ends it is seen by the connection itself.
    fn is_certain(&self, failure: &Failure) -> bool {
        self.record.protocol == Protocol::Http1 && failure.kind != Kind::PingTimeout
    }
}
