//! The inputs and outputs of a [`Machine`](super::Machine), and its stages.

use crate::health::CheckupPolicy;
use crate::link::failure::Failure;
use crate::link::launcher::LaunchState;
use jiff::Timestamp;
use linchpin_shared::backoff::BackoffPolicy;
use linchpin_shared::breaker::BreakerPolicy;
use linchpin_shared::registry::record::Record;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// The intervals, bounds and policies that a machine decides by.
#[derive(Debug, Clone, Copy)]
pub(in crate::link) struct MachineParams {
    /// The delays between dials until the first connection to this generation.
    pub(in crate::link) connect_backoff: BackoffPolicy,
    /// The delays between dials after that.
    pub(in crate::link) reconnect_backoff: BackoffPolicy,
    pub(in crate::link) breaker: BreakerPolicy,
    pub(in crate::link) checkups: CheckupPolicy,
    /// After this much silence the connection sends a PING.
    pub(in crate::link) ping_interval: Duration,
    /// How long the answer to a PING may take before the link becomes suspect.
    pub(in crate::link) ping_grace: Duration,
    /// The time from one probe to the next.
    pub(in crate::link) probe_interval: Duration,
    /// How long the answer to a probe may take on a link of good quality.
    pub(in crate::link) probe_timeout: Duration,
    /// How long an instance stays listed after it is gone.
    pub(in crate::link) remember_gone: Duration,
}

/// Everything that one step needs to know from outside the machine.
#[derive(Debug, Clone, Copy)]
pub(in crate::link) struct Context {
    /// The monotonic time, by which deadlines are kept.
    pub(in crate::link) now: Instant,
    /// The time of day, which is shown to people.
    pub(in crate::link) wall: Timestamp,
    /// 64 random bits, for the jitter.
    pub(in crate::link) random: u64,
    /// When a byte was read from the connection last. `None` where that cannot be observed.
    pub(in crate::link) last_read: Option<Instant>,
    /// Whether the peer's process is stopped by a signal. Looked up only if [`super::Machine::needs_process_state`].
    pub(in crate::link) process_stopped: bool,
}

/// An event that a link reacts to.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::link) enum Input {
    /// The registry shows this record, and its owner lives.
    Registered(Arc<Record>),
    /// The registry no longer shows a record.
    Unregistered,
    /// The owner of the record is proven dead.
    OwnerDead,
    /// The list of declared servers was read: the launch state if the server is in it.
    Declared(Option<LaunchState>),
    /// The time of [`super::Machine::deadline`] has come.
    DeadlineReached,
    /// The dial that was under way produced a verified connection, after a hello that took this long.
    Connected(Duration),
    /// The dial that was under way failed.
    DialFailed(Failure),
    /// The probe that was under way was answered after this time.
    ProbeAnswered(Duration),
    /// The probe that was under way was not answered.
    ProbeFailed(Failure),
    /// The connection ended because of this failure.
    ConnectionLost(Failure),
    /// Another room has a reason, given here, to doubt the connection.
    Check(&'static str),
}

/// An action that the actor takes for the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::link) enum Effect {
    /// Send a small request with a deadline. It replaces a probe that is still under way.
    SendProbe,
    /// Ask discovery to read the registry now.
    RequestRescan,
    /// End the link: its instance is gone and was listed for long enough.
    Forget,
}

/// When the machine needs [`Input::DeadlineReached`], and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::link) struct Deadline {
    pub(in crate::link) at: Instant,
    pub(in crate::link) reason: DeadlineReason,
}

/// What is due at a [`Deadline`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::link) enum DeadlineReason {
    Dial,
    /// The end of the time after which a connection counts as healthy.
    Settle,
    /// The end of the longest silence that is accepted.
    Silence,
    CheckUp,
    Probe,
    /// The next look at a process that is stopped by a signal.
    ProcessState,
    /// The end of a link whose instance is gone.
    Forget,
}

/// What the link is doing. Each stage holds only the values that are valid in it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Stage {
    Discovered,
    Connecting(DialAttempt),
    /// Connected, but the breaker is not closed: probes decide whether requests may pass.
    Probation(Established, ProbeState),
    Active(Established),
    /// Connected, but a probe was not answered yet. The number counts the probes that were missed.
    Suspect(Established, ProbeState, u32),
    /// Connected, but the process is stopped by a signal. The instant is the next look at the process.
    Unresponsive(Established, Instant),
    /// Not connected. The instant is the next dial.
    Retrying(Instant),
    Draining(Established),
    Dormant,
    /// The instance is gone. The instant is the end of the link.
    Gone(Instant),
}

/// A dial that is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::link) struct DialAttempt {
    /// The number of this dial within its link.
    pub(in crate::link) number: u64,
    /// Whether it follows a new record. There are only as many of these dials as there are registrations, so they do
    /// not wait for the limiter, which exists to spread retries.
    pub(in crate::link) for_new_record: bool,
}

/// A connection whose peer proved its identity, with what the machine knows about it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Established {
    pub(super) number: u64,
    pub(super) since: Instant,
    pub(super) round_trip: Duration,
    /// Whether the connection was healthy for long enough to forget earlier failures.
    pub(super) settled: bool,
    pub(super) checkup: ProbeState,
    /// When a byte was read from it last.
    pub(super) last_read: Instant,
}

/// Where a repeated probe stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ProbeState {
    /// It was sent at this instant and is not answered yet.
    SentAt(Instant),
    /// It is to be sent at this instant.
    DueAt(Instant),
}
