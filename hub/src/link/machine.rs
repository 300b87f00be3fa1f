//! What a link does next: the pure half of a link.
//!
//! Owns the state of one link, its backoff, its breaker, its health and its history. Everything that happens comes in
//! through [`Machine::handle`] with the time and 64 random bits; what must be done goes out as [`Effect`]s and as
//! [`Machine::deadline`]. What runs follows from the stage alone: one dial while connecting, one connection while
//! connected. A dial or connection is named by its number; when the number changes, the old one is to be let go.
//! Invariant: while the instance is not proven gone there is always a dial or connection under way, or a deadline.
//! Never: awaits, opens sockets, reads clocks, makes randomness, or gives up on an instance because time has passed.
//!
//! | from | to | cause |
//! |---|---|---|
//! | discovered | connecting | at once |
//! | connecting | active | hello proved the identity, breaker closed |
//! | connecting | proving | the same, breaker not closed |
//! | connecting | retrying | the dial or the hello failed |
//! | proving | active | probes closed the breaker |
//! | active | suspect | somebody doubts: [`Input::Check`]; it was silent for too long; a check-up was not answered |
//! | suspect | active | the probe was answered, or anything else was heard |
//! | suspect | unresponsive | no answer, and its process is stopped by a signal: the connection is kept |
//! | unresponsive | active | something was heard |
//! | unresponsive | suspect | its process runs again |
//! | active, suspect, proving, unresponsive | connecting | the connection ended in a way that asks for another at once |
//! | active, suspect, proving, unresponsive | retrying | it ended otherwise, or the doubt was confirmed |
//! | retrying | connecting | the time of the next dial has come, or somebody doubts: [`Input::Check`] |
//! | active, suspect, unresponsive | draining | the record is gone, the connection lives |
//! | draining | active | the record is back |
//! | connecting, proving, retrying; any of a foreign program | gone | the record is gone |
//! | draining | gone | the connection ended |
//! | any | gone | the record's owner is proven dead |
//! | whatever would be gone | dormant | it is declared; from dormant: any record dials, and undeclared it is gone |
//! | any | connecting | a new generation or endpoint; from gone: any record |
//!
//! Proving, and connecting and retrying while the breaker is not closed, are [`State::Tripped`] to everyone else;
//! connecting and retrying while the process is stopped by a signal are [`State::Unresponsive`].

mod causes;
mod doubts;
mod types;

pub(super) use types::{Deadline, Dial, Effect, Input, Moment, Params, Reason};

use super::start::Start;
use super::status::{BreakerFacts, ConnectionFacts, State, Status, Transition, Trip};
use crate::health::Health;
use jiff::Timestamp;
use linchpin_shared::backoff::Backoff;
use linchpin_shared::breaker::{self, Breaker};
use linchpin_shared::failure::Failure;
use linchpin_shared::registry::record::Record;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use types::{Probe, Stage, Up};

/// How many transitions are remembered (DESIGN 4.3).
const HISTORY: usize = 200;

/// One link.
#[derive(Debug)]
pub(super) struct Machine {
    params: Params,
    record: Arc<Record>,
    stage: Stage,
    /// The stage as others saw it last.
    state: State,
    since: Timestamp,
    why: String,
    last_failure: Option<Failure>,
    first: Backoff,
    again: Backoff,
    breaker: Breaker,
    trips: u64,
    last_trip: Option<Trip>,
    health: Health,
    /// Whether this generation was ever connected.
    known: bool,
    /// Whether the last dial was not answered because the peer's process is stopped by a signal.
    stopped: bool,
    /// What is known of starting it, if it is declared.
    declared: Option<Start>,
    dials: u64,
    connections: u64,
    revision: u64,
    history: VecDeque<Transition>,
    effects: Vec<Effect>,
}

impl Machine {
    /// A link to the instance of this record.
    pub(super) fn new(record: Arc<Record>, params: Params, now: Moment) -> Self {
        let mut machine = Self::before_all(record, params, now);
        machine.dial("its record was seen", true, now);
        machine
    }

    /// A link to what is declared and does not run. The record is what is known of it.
    pub(super) fn dormant(record: Arc<Record>, start: Start, params: Params, now: Moment) -> Self {
        let mut machine = Self::before_all(record, params, now);
        machine.declared = Some(start);
        machine.leave("it is declared", now);
        machine
    }

    fn before_all(record: Arc<Record>, params: Params, now: Moment) -> Self {
        Self {
            params,
            record,
            stage: Stage::Discovered,
            state: State::Discovered,
            since: now.wall,
            why: String::from("its record was seen"),
            last_failure: None,
            first: Backoff::new(params.first),
            again: Backoff::new(params.again),
            breaker: Breaker::new(params.breaker),
            trips: 0,
            last_trip: None,
            health: Health::new(params.health),
            known: false,
            stopped: false,
            declared: None,
            dials: 0,
            connections: 0,
            revision: 0,
            history: VecDeque::new(),
            effects: Vec::new(),
        }
    }

    /// Takes what happened and says what to do.
    pub(super) fn handle(&mut self, input: Input, now: Moment) -> Vec<Effect> {
        self.hear(now);
        match input {
            Input::Found(record) => self.found(record, now),
            Input::Unregistered => self.unregistered(now),
            Input::OwnerDead => self.owner_dead(now),
            Input::Declared(start) => self.declare(start, now),
            Input::Due => self.due(now),
            Input::Connected(round_trip) => self.connected(round_trip, now),
            Input::DialFailed(failure) => self.dial_failed(failure, now),
            Input::ProbeAnswered(round_trip) => self.probe_answered(round_trip, now),
            Input::ProbeFailed(failure) => self.probe_failed(failure, now),
            Input::Lost(failure) => self.lost(failure, now),
            Input::Check(why) => self.check(why, now),
        }
        std::mem::take(&mut self.effects)
    }

    /// When [`Input::Due`] is wanted.
    pub(super) fn deadline(&self) -> Option<Deadline> {
        let of = |at, reason| Deadline { at, reason };
        let settle = |up: &Up| (!up.settled).then(|| of(up.since + self.params.again.reset_after, Reason::Settle));
        let silence = |up: &Up| self.silent_at(up).map(|at| of(at, Reason::Silence));
        let end = |up: &Up| self.silent_for_good_at(up).map(|at| of(at, Reason::Silence));
        let next = |probe: Probe, reason| match probe {
            Probe::Next(at) => Some(of(at, reason)),
            Probe::Asked(_) => None,
        };
        let all = match self.stage {
            Stage::Retrying(at) => [Some(of(at, Reason::Dial)), None, None],
            Stage::Active(up) => [settle(&up), silence(&up), next(up.checkup, Reason::CheckUp)],
            Stage::Proving(up, probe @ Probe::Next(_)) => [next(probe, Reason::Probe), end(&up), None],
            Stage::Suspect(_, probe, _) => [next(probe, Reason::Probe), None, None],
            Stage::Unresponsive(_, at) => [Some(of(at, Reason::Look)), None, None],
            Stage::Draining(up) => [end(&up), None, None],
            Stage::Gone(at) => [Some(of(at, Reason::Forget)), None, None],
            Stage::Discovered | Stage::Connecting(_) | Stage::Proving(_, Probe::Asked(_)) | Stage::Dormant => {
                return None;
            }
        };
        all.into_iter().flatten().min_by_key(|deadline| deadline.at)
    }

    /// The dial that is to be under way.
    pub(super) fn dialling(&self) -> Option<Dial> {
        if let Stage::Connecting(dial) = self.stage { Some(dial) } else { None }
    }

    /// The number of the connection that is to be held.
    pub(super) fn connection(&self) -> Option<u64> {
        self.up().map(|up| up.number)
    }

    /// Whether requests may pass.
    pub(super) const fn passes(&self) -> bool {
        match self.stage {
            Stage::Active(_) | Stage::Suspect(..) | Stage::Draining(_) => true,
            Stage::Discovered
            | Stage::Connecting(_)
            | Stage::Proving(..)
            | Stage::Unresponsive(..)
            | Stage::Retrying(_)
            | Stage::Dormant
            | Stage::Gone(_) => false,
        }
    }

    /// How long the answer to a probe may take on this link.
    pub(super) fn probe_timeout(&self) -> Duration {
        self.health.patience(self.params.probe_timeout)
    }

    /// Whether [`Moment::stopped`] matters for this input.
    pub(super) const fn wonders(&self, input: &Input) -> bool {
        match input {
            Input::ProbeFailed(_) | Input::DialFailed(_) => true,
            Input::Due => matches!(self.stage, Stage::Unresponsive(..)),
            Input::Found(_)
            | Input::Unregistered
            | Input::OwnerDead
            | Input::Declared(_)
            | Input::Connected(_)
            | Input::ProbeAnswered(_)
            | Input::Lost(_)
            | Input::Check(_) => false,
        }
    }

    /// The record as it was seen last.
    pub(super) const fn record(&self) -> &Arc<Record> {
        &self.record
    }

    /// Grows whenever something changed that others wait for. Health changes without it.
    pub(super) const fn revision(&self) -> u64 {
        self.revision
    }

    /// The last transitions, oldest first.
    pub(super) fn history(&self) -> Vec<Transition> {
        self.history.iter().cloned().collect()
    }

    /// What others may know.
    pub(super) fn status(&self, now: Moment) -> Status {
        Status {
            record: Arc::clone(&self.record),
            state: self.state,
            since: self.since,
            why: self.why.clone(),
            last_failure: self.last_failure.clone(),
            attempts: self.backoff().attempts(),
            next_try: if let Stage::Retrying(at) = self.stage { Some(now.wall_of(at)) } else { None },
            connection: self.up().map(|up| ConnectionFacts {
                number: up.number,
                since: now.wall_of(up.since),
                round_trip: up.round_trip,
            }),
            connections: self.connections,
            dials: self.dials,
            breaker: match self.breaker.state() {
                breaker::State::Closed { failures } => BreakerFacts::Closed { failures },
                breaker::State::Open { until } => BreakerFacts::Open { until: now.wall_of(until) },
                breaker::State::HalfOpen { successes, .. } => BreakerFacts::HalfOpen { successes },
            },
            trips: self.trips,
            last_trip: self.last_trip.clone(),
            health: self.health.facts(),
            start: self.declared.clone().filter(|_| self.state == State::Dormant),
        }
    }

    const fn up(&self) -> Option<&Up> {
        match &self.stage {
            Stage::Proving(up, _)
            | Stage::Active(up)
            | Stage::Suspect(up, ..)
            | Stage::Unresponsive(up, _)
            | Stage::Draining(up) => Some(up),
            Stage::Discovered | Stage::Connecting(_) | Stage::Retrying(_) | Stage::Dormant | Stage::Gone(_) => None,
        }
    }

    const fn up_mut(&mut self) -> Option<&mut Up> {
        match &mut self.stage {
            Stage::Proving(up, _)
            | Stage::Active(up)
            | Stage::Suspect(up, ..)
            | Stage::Unresponsive(up, _)
            | Stage::Draining(up) => Some(up),
            Stage::Discovered | Stage::Connecting(_) | Stage::Retrying(_) | Stage::Dormant | Stage::Gone(_) => None,
        }
    }

    const fn backoff(&self) -> &Backoff {
        if self.known { &self.again } else { &self.first }
    }

    /// Goes to another stage and writes it down.
    fn enter(&mut self, stage: Stage, why: impl Into<String>, now: Moment) {
        let from = self.state;
        self.stage = stage;
        self.state = self.seen_from_outside();
        self.why = why.into();
        self.revision += 1;
        if self.state != from {
            self.since = now.wall;
        }
        if self.history.len() == HISTORY {
            self.history.pop_front();
        }
        self.history.push_back(Transition { at: now.wall, from, to: self.state, why: self.why.clone() });
    }

    const fn seen_from_outside(&self) -> State {
        match self.stage {
            Stage::Discovered => State::Discovered,
            Stage::Proving(..) => State::Tripped,
            Stage::Unresponsive(..) => State::Unresponsive,
            Stage::Connecting(_) | Stage::Retrying(_) if self.stopped => State::Unresponsive,
            Stage::Connecting(_) | Stage::Retrying(_) if !self.breaker.is_closed() => State::Tripped,
            Stage::Connecting(_) => State::Connecting,
            Stage::Retrying(_) => State::Retrying,
            Stage::Active(_) => State::Active,
            Stage::Suspect(..) => State::Suspect,
            Stage::Draining(_) => State::Draining,
            Stage::Dormant => State::Dormant,
            Stage::Gone(_) => State::Gone,
        }
    }
}

impl Moment {
    /// The time of day of an instant.
    fn wall_of(self, at: Instant) -> Timestamp {
        let moved = match at.checked_duration_since(self.at) {
            Some(ahead) => self.wall.checked_add(ahead),
            None => self.wall.checked_sub(self.at - at),
        };
        moved.unwrap_or(self.wall)
    }
}

#[cfg(test)]
mod tests;
