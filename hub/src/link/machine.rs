//! What a link does next: the pure half of a link.
//!
//! Owns the state of one link, its backoff, its breaker and its history. Everything that happens comes in through
//! [`Machine::handle`] with the time and 64 random bits; what must be done goes out as [`Effect`]s and as
//! [`Machine::deadline`]. What runs follows from the stage alone: one dial while connecting, one connection while
//! connected. A dial or connection is named by its number; when the number changes, the old one is to be let go.
//! Invariant: while the instance is not proven gone there is always a dial or connection under way, or a deadline.
//! Never: awaits, opens sockets, reads clocks, makes randomness, or gives up on an instance because time has passed.
//!
//! | from | to | cause |
//! |---|---|---|
//! | discovered | connecting | at once; a foreign protocol stays discovered |
//! | connecting | active | hello proved the identity, breaker closed |
//! | connecting | proving | the same, breaker not closed |
//! | connecting | retrying | the dial or the hello failed |
//! | proving | active | probes closed the breaker |
//! | active | suspect | somebody doubts: [`Input::Check`] |
//! | suspect | active | the probe was answered |
//! | active, suspect, proving | connecting | the connection ended in a way that asks for another at once |
//! | active, suspect, proving | retrying | it ended otherwise, or two probes in a row were not answered |
//! | retrying | connecting | the time of the next dial has come, or somebody doubts: [`Input::Check`] |
//! | active, suspect | draining | the record is gone, the connection lives |
//! | draining | active | the record is back |
//! | discovered, connecting, proving, retrying | gone | the record is gone |
//! | draining | gone | the connection ended |
//! | any | gone | the record's owner is proven dead |
//! | any | connecting | a new generation or endpoint; from gone: any record |
//!
//! Proving, and connecting and retrying while the breaker is not closed, are [`State::Tripped`] to everyone else.

mod causes;

use super::status::{BreakerFacts, ConnectionFacts, State, Status, Transition};
use jiff::Timestamp;
use linchpin_shared::backoff::{self, Backoff};
use linchpin_shared::breaker::{self, Breaker};
use linchpin_shared::failure::Failure;
use linchpin_shared::registry::record::Record;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How many transitions are remembered (DESIGN 4.3).
const HISTORY: usize = 200;

/// The numbers of a machine.
#[derive(Debug, Clone, Copy)]
pub(super) struct Params {
    /// Delays while this generation was never connected.
    pub(super) first: backoff::Policy,
    /// Delays after it was.
    pub(super) again: backoff::Policy,
    /// When requests fail at once.
    pub(super) breaker: breaker::Policy,
    /// From one probe to the next.
    pub(super) probe_interval: Duration,
    /// How long a gone instance is remembered.
    pub(super) remember_gone: Duration,
}

/// What the world outside contributes to a step.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    /// The clock that deadlines are kept by.
    pub(super) at: Instant,
    /// The clock that people read.
    pub(super) wall: Timestamp,
    /// Any 64 random bits.
    pub(super) random: u64,
}

/// Something that happened.
#[derive(Debug, Clone)]
pub(super) enum Input {
    /// The registry shows this record.
    Found(Arc<Record>),
    /// The registry shows no record any more.
    Unregistered,
    /// The record's owner is proven dead.
    OwnerDead,
    /// The deadline has passed.
    Due,
    /// The dial under way ended with a proven connection.
    Connected(Duration),
    /// The dial under way failed.
    DialFailed(Failure),
    /// The probe under way was answered after this time.
    ProbeAnswered(Duration),
    /// The probe under way was not answered.
    ProbeFailed(Failure),
    /// The connection ended.
    Lost(Failure),
    /// Somebody doubts that all is as it was, for this reason.
    Check(&'static str),
}

/// Something to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// Ask the peer for a sign of life, with a deadline; one that was asked for before is forgotten.
    Probe,
    /// Ask discovery to look at the registry now.
    Nudge,
    /// The link has ended; nobody needs to remember it.
    Forget,
}

/// When the machine wants [`Input::Due`], and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Deadline {
    pub(super) at: Instant,
    pub(super) reason: Reason,
}

/// Why the machine has a deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// To dial.
    Dial,
    /// To call the connection healthy.
    Settle,
    /// To probe.
    Probe,
    /// To forget an instance that is gone.
    Forget,
}

/// What the link is doing, with what is valid only then.
#[derive(Debug, Clone, Copy)]
enum Stage {
    Discovered,
    /// The record is of a program that speaks a protocol for which there is no link.
    Foreign,
    Connecting(Dial),
    Proving(Up, Probe),
    Active(Up),
    Suspect(Up, Probe, u32),
    Retrying(Instant),
    Draining(Up),
    Gone(Instant),
}

/// A dial under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Dial {
    /// Which dial of this link.
    pub(super) number: u64,
    /// Whether it follows a new record. There are only as many of these as there are registrations, so they need not
    /// wait for the limiter; what makes a storm is retrying.
    pub(super) fresh: bool,
}

/// A proven connection.
#[derive(Debug, Clone, Copy)]
struct Up {
    number: u64,
    since: Instant,
    round_trip: Duration,
    /// Whether it has been healthy for long enough to forget earlier failures.
    settled: bool,
}

/// A probe.
#[derive(Debug, Clone, Copy)]
enum Probe {
    /// It began then and is not answered yet.
    Asked(Instant),
    /// It is to begin then.
    Next(Instant),
}

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
    /// Whether this generation was ever connected.
    known: bool,
    dials: u64,
    connections: u64,
    history: VecDeque<Transition>,
    effects: Vec<Effect>,
}

impl Machine {
    /// A link to the instance of this record.
    pub(super) fn new(record: Arc<Record>, params: Params, now: Moment) -> Self {
        let mut machine = Self {
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
            known: false,
            dials: 0,
            connections: 0,
            history: VecDeque::with_capacity(HISTORY),
            effects: Vec::new(),
        };
        machine.begin("its record was seen", now);
        machine
    }

    /// Takes what happened and says what to do.
    pub(super) fn handle(&mut self, input: Input, now: Moment) -> Vec<Effect> {
        match input {
            Input::Found(record) => self.found(record, now),
            Input::Unregistered => self.unregistered(now),
            Input::OwnerDead => self.owner_dead(now),
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
        let (at, reason) = match self.stage {
            Stage::Retrying(at) => (at, Reason::Dial),
            Stage::Active(up) if !up.settled => (up.since + self.params.again.reset_after, Reason::Settle),
            Stage::Proving(_, Probe::Next(at)) | Stage::Suspect(_, Probe::Next(at), _) => (at, Reason::Probe),
            Stage::Gone(at) => (at, Reason::Forget),
            Stage::Discovered
            | Stage::Foreign
            | Stage::Connecting(_)
            | Stage::Active(_)
            | Stage::Proving(_, Probe::Asked(_))
            | Stage::Suspect(_, Probe::Asked(_), _)
            | Stage::Draining(_) => return None,
        };
        Some(Deadline { at, reason })
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
            | Stage::Foreign
            | Stage::Connecting(_)
            | Stage::Proving(..)
            | Stage::Retrying(_)
            | Stage::Gone(_) => false,
        }
    }

    /// The record as it was seen last.
    pub(super) const fn record(&self) -> &Arc<Record> {
        &self.record
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
            breaker: match self.breaker.state() {
                breaker::State::Closed { failures } => BreakerFacts::Closed { failures },
                breaker::State::Open { until } => BreakerFacts::Open { until: now.wall_of(until) },
                breaker::State::HalfOpen { successes, .. } => BreakerFacts::HalfOpen { successes },
            },
        }
    }

    const fn up(&self) -> Option<&Up> {
        match &self.stage {
            Stage::Proving(up, _) | Stage::Active(up) | Stage::Suspect(up, ..) | Stage::Draining(up) => Some(up),
            Stage::Discovered | Stage::Foreign | Stage::Connecting(_) | Stage::Retrying(_) | Stage::Gone(_) => None,
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
            Stage::Discovered | Stage::Foreign => State::Discovered,
            Stage::Proving(..) => State::Tripped,
            Stage::Connecting(_) | Stage::Retrying(_) if !self.breaker.is_closed() => State::Tripped,
            Stage::Connecting(_) => State::Connecting,
            Stage::Retrying(_) => State::Retrying,
            Stage::Active(_) => State::Active,
            Stage::Suspect(..) => State::Suspect,
            Stage::Draining(_) => State::Draining,
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
