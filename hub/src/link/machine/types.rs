//! What goes into a machine and what comes out of it, and the stages between.
//!
//! Owns the words of the machine; no behaviour. Invariant: a stage holds only what is valid in it.
//! Never: is seen outside the room.

use crate::health;
use crate::link::start::Start;
use jiff::Timestamp;
use linchpin_shared::failure::Failure;
use linchpin_shared::registry::record::Record;
use linchpin_shared::{backoff, breaker};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// The numbers of a machine.
#[derive(Debug, Clone, Copy)]
pub(in crate::link) struct Params {
    /// Delays while this generation was never connected.
    pub(in crate::link) first: backoff::Policy,
    /// Delays after it was.
    pub(in crate::link) again: backoff::Policy,
    /// When requests fail at once.
    pub(in crate::link) breaker: breaker::Policy,
    /// When check-ups are made.
    pub(in crate::link) health: health::Policy,
    /// After so much silence the connection sends a PING.
    pub(in crate::link) ping_interval: Duration,
    /// How long its answer may take before there is doubt.
    pub(in crate::link) ping_grace: Duration,
    /// From one probe to the next.
    pub(in crate::link) probe_interval: Duration,
    /// How long the answer to a probe may take on a link of good quality.
    pub(in crate::link) probe_timeout: Duration,
    /// How long a gone instance is remembered.
    pub(in crate::link) remember_gone: Duration,
}

/// What the world outside contributes to a step.
#[derive(Debug, Clone, Copy)]
pub(in crate::link) struct Moment {
    /// The clock that deadlines are kept by.
    pub(in crate::link) at: Instant,
    /// The clock that people read.
    pub(in crate::link) wall: Timestamp,
    /// Any 64 random bits.
    pub(in crate::link) random: u64,
    /// When a byte came over the connection last, where that can be seen.
    pub(in crate::link) heard: Option<Instant>,
    /// Whether the peer's process is stopped by a signal. Looked at only when [`super::Machine::wonders`].
    pub(in crate::link) stopped: bool,
}

/// Something that happened.
#[derive(Debug, Clone)]
pub(in crate::link) enum Input {
    /// The registry shows this record.
    Found(Arc<Record>),
    /// The registry shows no record any more.
    Unregistered,
    /// The record's owner is proven dead.
    OwnerDead,
    /// Whether it is declared, and what is known of starting it.
    Declared(Option<Start>),
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
pub(in crate::link) enum Effect {
    /// Ask the peer for a sign of life, with a deadline; one that was asked for before is forgotten.
    Probe,
    /// Ask discovery to look at the registry now.
    Nudge,
    /// The link has ended; nobody needs to remember it.
    Forget,
}

/// When the machine wants [`Input::Due`], and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::link) struct Deadline {
    pub(in crate::link) at: Instant,
    pub(in crate::link) reason: Reason,
}

/// Why the machine has a deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::link) enum Reason {
    /// To dial.
    Dial,
    /// To call the connection healthy.
    Settle,
    /// To see whether it was silent for too long.
    Silence,
    /// To make a check-up.
    CheckUp,
    /// To probe.
    Probe,
    /// To see whether its process still is stopped.
    Look,
    /// To forget an instance that is gone.
    Forget,
}

/// What the link is doing, with what is valid only then.
#[derive(Debug, Clone, Copy)]
pub(super) enum Stage {
    Discovered,
    Connecting(Dial),
    Proving(Up, Probe),
    Active(Up),
    Suspect(Up, Probe, u32),
    Unresponsive(Up, Instant),
    Retrying(Instant),
    Draining(Up),
    Dormant,
    Gone(Instant),
}

/// A dial under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::link) struct Dial {
    /// Which dial of this link.
    pub(in crate::link) number: u64,
    /// Whether it follows a new record. There are only as many of these as there are registrations, so they need not
    /// wait for the limiter; what makes a storm is retrying.
    pub(in crate::link) fresh: bool,
}

/// A proven connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Up {
    pub(super) number: u64,
    pub(super) since: Instant,
    pub(super) round_trip: Duration,
    /// Whether it has been healthy for long enough to forget earlier failures.
    pub(super) settled: bool,
    /// The next check-up, or the one under way.
    pub(super) checkup: Probe,
    /// When something was heard from it last.
    pub(super) heard: Instant,
}

/// A probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Probe {
    /// It began then and is not answered yet.
    Asked(Instant),
    /// It is to begin then.
    Next(Instant),
}
