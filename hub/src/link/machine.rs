//! The state machine of one link: it decides what the link does next, without input or output of its own.
//!
//! Every event enters through [`Machine::handle`] together with a [`Context`]. What has to be done leaves as
//! [`Effect`]s and as [`Machine::deadline`]. The stage alone says what is under way: one dial while the link is
//! connecting, one connection while it is connected. Each dial and each connection has a number, and the actor drops the
//! old one when the number changes.
//!
//! While the instance is not proven gone, a dial or a connection is under way, or there is a deadline: the machine does
//! not give up an instance because time has passed. It does not await, open sockets, read clocks or make random numbers.
//!
//! | from | to | cause |
//! |---|---|---|
//! | discovered | connecting | at once |
//! | connecting | active | the hello proved the identity, and the breaker is closed |
//! | connecting | probation | the hello proved the identity, and the breaker is not closed |
//! | connecting | retrying | the dial or the hello failed |
//! | probation | active | probes closed the breaker |
//! | active | suspect | [`Input::Check`]; too long a silence; a check-up that was not answered |
//! | suspect | active | the probe was answered, or other bytes arrived |
//! | suspect | unresponsive | no answer, and the process is stopped by a signal: the connection is kept |
//! | unresponsive | active | a byte arrived |
//! | unresponsive | suspect | the process runs again |
//! | active, suspect, probation, unresponsive | connecting | the connection ended in a way that allows a new one at once |
//! | active, suspect, probation, unresponsive | retrying | it ended in another way, or its probes were not answered |
//! | retrying | connecting | the next dial is due, or [`Input::Check`] |
//! | active, suspect, unresponsive | draining | the record is gone, but the connection is open |
//! | draining | active | the record is back |
//! | connecting, probation, retrying; any stage of a foreign program | gone | the record is gone |
//! | draining | gone | the connection ended |
//! | any | gone | the owner of the record is proven dead |
//! | instead of gone | dormant | it is declared. A record starts a dial; without a declaration it becomes gone |
//! | any | connecting | a new generation or endpoint; from gone, any record |
//!
//! Other rooms see probation as [`LinkState::Tripped`], and so connecting and retrying while the breaker is not closed.
//! They see connecting and retrying as [`LinkState::Unresponsive`] while the process is stopped by a signal.

mod liveness;
mod transitions;
mod types;

pub(super) use types::{Context, Deadline, DeadlineReason, DialAttempt, Effect, Input, MachineParams};

use super::failure::Failure;
use super::launcher::LaunchState;
use super::status::{BreakerStatus, BreakerTrip, ConnectionStatus, LinkState, LinkStatus, LinkTransition};
use crate::health::Health;
use jiff::Timestamp;
use linchpin_shared::backoff::Backoff;
use linchpin_shared::breaker::{Breaker, BreakerState};
use linchpin_shared::registry::record::Record;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use types::{Established, ProbeState, Stage};

/// How many transitions a link remembers.
const HISTORY: usize = 200;

/// The state of one link, with its backoff, its breaker, its health and its history.
#[derive(Debug)]
pub(super) struct Machine {
    params: MachineParams,
    record: Arc<Record>,
    stage: Stage,
    /// The stage as other rooms saw it last.
    state: LinkState,
    since: Timestamp,
    why: String,
    last_failure: Option<Failure>,
    connect_backoff: Backoff,
    reconnect_backoff: Backoff,
    breaker: Breaker,
    trips: u64,
    last_trip: Option<BreakerTrip>,
    health: Health,
    /// Whether this generation was connected before.
    was_connected: bool,
    /// Whether the last dial was not answered because the peer's process is stopped by a signal.
    process_stopped: bool,
    /// The launch state, if the server is declared.
    launch: Option<LaunchState>,
    dials: u64,
    connections: u64,
    revision: u64,
    history: VecDeque<LinkTransition>,
    effects: Vec<Effect>,
}

impl Machine {
    /// The machine of an instance whose record was just seen. It dials at once.
    pub(super) fn new(record: Arc<Record>, params: MachineParams, context: Context) -> Self {
        let mut machine = Self::discovered(record, params, context);
        machine.start_dial("its record was seen", true, context);
        machine
    }

    /// The machine of a declared server that does not run. `record` holds what the declaration says about it.
    pub(super) fn dormant(record: Arc<Record>, launch: LaunchState, params: MachineParams, context: Context) -> Self {
        let mut machine = Self::discovered(record, params, context);
        machine.launch = Some(launch);
        machine.retire("it is declared", context);
        machine
    }

    fn discovered(record: Arc<Record>, params: MachineParams, context: Context) -> Self {
        Self {
            params,
            record,
            stage: Stage::Discovered,
            state: LinkState::Discovered,
            since: context.wall,
            why: String::from("its record was seen"),
            last_failure: None,
            connect_backoff: Backoff::new(params.connect_backoff),
            reconnect_backoff: Backoff::new(params.reconnect_backoff),
            breaker: Breaker::new(params.breaker),
            trips: 0,
            last_trip: None,
            health: Health::new(params.checkups),
            was_connected: false,
            process_stopped: false,
            launch: None,
            dials: 0,
            connections: 0,
            revision: 0,
            history: VecDeque::new(),
            effects: Vec::new(),
        }
    }

    /// Reacts to an event and returns the actions that follow from it.
    pub(super) fn handle(&mut self, input: Input, context: Context) -> Vec<Effect> {
        self.note_activity(context);
        match input {
            Input::Registered(record) => self.registered(record, context),
            Input::Unregistered => self.unregistered(context),
            Input::OwnerDead => self.owner_dead(context),
            Input::Declared(launch) => self.declared(launch, context),
            Input::DeadlineReached => self.deadline_reached(context),
            Input::Connected(round_trip) => self.connected(round_trip, context),
            Input::DialFailed(failure) => self.dial_failed(failure, context),
            Input::ProbeAnswered(round_trip) => self.probe_answered(round_trip, context),
            Input::ProbeFailed(failure) => self.probe_failed(failure, context),
            Input::ConnectionLost(failure) => self.connection_lost(failure, context),
            Input::Check(why) => self.check(why, context),
        }
        std::mem::take(&mut self.effects)
    }

    /// When the machine needs [`Input::DeadlineReached`].
    pub(super) fn deadline(&self) -> Option<Deadline> {
        let deadline = |at, reason| Deadline { at, reason };
        let settle = |connection: &Established| {
            let at = connection.since + self.params.reconnect_backoff.reset_after;
            (!connection.settled).then(|| deadline(at, DeadlineReason::Settle))
        };
        let silence = |connection: &Established| {
            self.silence_deadline(connection).map(|at| deadline(at, DeadlineReason::Silence))
        };
        let end =
            |connection: &Established| self.silence_end(connection).map(|at| deadline(at, DeadlineReason::Silence));
        let next = |probe: ProbeState, reason| match probe {
            ProbeState::DueAt(at) => Some(deadline(at, reason)),
            ProbeState::SentAt(_) => None,
        };
        let all = match self.stage {
            Stage::Retrying(at) => [Some(deadline(at, DeadlineReason::Dial)), None, None],
            Stage::Active(connection) => {
                [settle(&connection), silence(&connection), next(connection.checkup, DeadlineReason::CheckUp)]
            }
            Stage::Probation(connection, probe @ ProbeState::DueAt(_)) => {
                [next(probe, DeadlineReason::Probe), end(&connection), None]
            }
            Stage::Suspect(_, probe, _) => [next(probe, DeadlineReason::Probe), None, None],
            Stage::Unresponsive(_, at) => [Some(deadline(at, DeadlineReason::ProcessState)), None, None],
            Stage::Draining(connection) => [end(&connection), None, None],
            Stage::Gone(at) => [Some(deadline(at, DeadlineReason::Forget)), None, None],
            Stage::Discovered | Stage::Connecting(_) | Stage::Probation(_, ProbeState::SentAt(_)) | Stage::Dormant => {
                return None;
            }
        };
        all.into_iter().flatten().min_by_key(|deadline| deadline.at)
    }

    /// The dial that has to be under way now.
    pub(super) fn dial_attempt(&self) -> Option<DialAttempt> {
        if let Stage::Connecting(attempt) = self.stage { Some(attempt) } else { None }
    }

    /// The number of the connection that has to be held now.
    pub(super) fn connection_number(&self) -> Option<u64> {
        self.established().map(|connection| connection.number)
    }

    /// Whether requests may be sent to the instance.
    pub(super) const fn accepts_requests(&self) -> bool {
        match self.stage {
            Stage::Active(_) | Stage::Suspect(..) | Stage::Draining(_) => true,
            Stage::Discovered
            | Stage::Connecting(_)
            | Stage::Probation(..)
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

    /// Whether [`Context::process_stopped`] decides what follows from this input.
    pub(super) const fn needs_process_state(&self, input: &Input) -> bool {
        match input {
            Input::ProbeFailed(_) | Input::DialFailed(_) => true,
            Input::DeadlineReached => matches!(self.stage, Stage::Unresponsive(..)),
            Input::Registered(_)
            | Input::Unregistered
            | Input::OwnerDead
            | Input::Declared(_)
            | Input::Connected(_)
            | Input::ProbeAnswered(_)
            | Input::ConnectionLost(_)
            | Input::Check(_) => false,
        }
    }

    /// The newest record of the instance.
    pub(super) const fn record(&self) -> &Arc<Record> {
        &self.record
    }

    /// A number that grows with every change that other rooms wait for. Changes of the health alone leave it as it is.
    pub(super) const fn revision(&self) -> u64 {
        self.revision
    }

    /// The last transitions, the oldest first.
    pub(super) fn history(&self) -> Vec<LinkTransition> {
        self.history.iter().cloned().collect()
    }

    /// The status that is published to other rooms.
    pub(super) fn status(&self, context: Context) -> LinkStatus {
        LinkStatus {
            record: Arc::clone(&self.record),
            state: self.state,
            since: self.since,
            why: self.why.clone(),
            last_failure: self.last_failure.clone(),
            attempts: self.backoff().attempts(),
            next_try: if let Stage::Retrying(at) = self.stage { Some(context.wall_of(at)) } else { None },
            connection: self.established().map(|connection| ConnectionStatus {
                number: connection.number,
                since: context.wall_of(connection.since),
                round_trip: connection.round_trip,
            }),
            connections: self.connections,
            dials: self.dials,
            breaker: match self.breaker.state() {
                BreakerState::Closed { failures } => BreakerStatus::Closed { failures },
                BreakerState::Open { until } => BreakerStatus::Open { until: context.wall_of(until) },
                BreakerState::HalfOpen { successes, .. } => BreakerStatus::HalfOpen { successes },
            },
            trips: self.trips,
            last_trip: self.last_trip.clone(),
            health: self.health.stats(),
            start: self.launch.clone().filter(|_| self.state == LinkState::Dormant),
        }
    }

    const fn established(&self) -> Option<&Established> {
        match &self.stage {
            Stage::Probation(connection, _)
            | Stage::Active(connection)
            | Stage::Suspect(connection, ..)
            | Stage::Unresponsive(connection, _)
            | Stage::Draining(connection) => Some(connection),
            Stage::Discovered | Stage::Connecting(_) | Stage::Retrying(_) | Stage::Dormant | Stage::Gone(_) => None,
        }
    }

    const fn established_mut(&mut self) -> Option<&mut Established> {
        match &mut self.stage {
            Stage::Probation(connection, _)
            | Stage::Active(connection)
            | Stage::Suspect(connection, ..)
            | Stage::Unresponsive(connection, _)
            | Stage::Draining(connection) => Some(connection),
            Stage::Discovered | Stage::Connecting(_) | Stage::Retrying(_) | Stage::Dormant | Stage::Gone(_) => None,
        }
    }

    const fn backoff(&self) -> &Backoff {
        if self.was_connected { &self.reconnect_backoff } else { &self.connect_backoff }
    }

    /// Changes to another stage and records the transition.
    fn enter(&mut self, stage: Stage, why: impl Into<String>, context: Context) {
        let from = self.state;
        self.stage = stage;
        self.state = self.public_state();
        self.why = why.into();
        self.revision += 1;
        if self.state != from {
            self.since = context.wall;
        }
        if self.history.len() == HISTORY {
            self.history.pop_front();
        }
        self.history.push_back(LinkTransition { at: context.wall, from, to: self.state, why: self.why.clone() });
    }

    const fn public_state(&self) -> LinkState {
        match self.stage {
            Stage::Discovered => LinkState::Discovered,
            Stage::Probation(..) => LinkState::Tripped,
            Stage::Unresponsive(..) => LinkState::Unresponsive,
            Stage::Connecting(_) | Stage::Retrying(_) if self.process_stopped => LinkState::Unresponsive,
            Stage::Connecting(_) | Stage::Retrying(_) if !self.breaker.is_closed() => LinkState::Tripped,
            Stage::Connecting(_) => LinkState::Connecting,
            Stage::Retrying(_) => LinkState::Retrying,
            Stage::Active(_) => LinkState::Active,
            Stage::Suspect(..) => LinkState::Suspect,
            Stage::Draining(_) => LinkState::Draining,
            Stage::Dormant => LinkState::Dormant,
            Stage::Gone(_) => LinkState::Gone,
        }
    }
}

impl Context {
    /// The time of day of this instant.
    fn wall_of(self, at: Instant) -> Timestamp {
        let moved = match at.checked_duration_since(self.now) {
            Some(ahead) => self.wall.checked_add(ahead),
            None => self.wall.checked_sub(self.now - at),
        };
        moved.unwrap_or(self.wall)
    }
}

#[cfg(test)]
mod tests;
