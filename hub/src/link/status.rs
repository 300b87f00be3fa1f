//! What is published about a link.
//!
//! Owns [`Status`] and its parts: plain values that the machine makes and everyone else reads from a watch.
//! Invariant: a status is whole and of one moment; nothing here changes after it was published.
//! Never: carries the record's secret in its serialized form, or decides anything.

use super::start::Start;
use crate::health::Facts;
use jiff::Timestamp;
use linchpin_shared::failure::Failure;
use linchpin_shared::registry::record::Record;
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;

/// What a link is doing (DESIGN 4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// The record was seen; nothing was dialled yet.
    Discovered,
    /// A dial is under way.
    Connecting,
    /// Connected: the hello proved who answers. Requests pass.
    Active,
    /// Connected, but a check is not answered yet. Requests pass.
    Suspect,
    /// Its process is stopped by a signal, so it cannot answer; a connection is kept for when it goes on. Requests fail
    /// at once.
    Unresponsive,
    /// Not connected; the next dial has its time.
    Retrying,
    /// The breaker is not closed: requests fail at once, dials go on, and a new connection is probed before it is used.
    Tripped,
    /// The record is gone but the connection lives. Requests pass until it ends.
    Draining,
    /// Nothing of it runs, and it is declared: it is started on first use.
    Dormant,
    /// The instance is gone, proven by its lease or by its own goodbye.
    Gone,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Discovered,
        Self::Connecting,
        Self::Active,
        Self::Suspect,
        Self::Unresponsive,
        Self::Retrying,
        Self::Tripped,
        Self::Draining,
        Self::Dormant,
        Self::Gone,
    ];

    /// Whether nothing of the instance runs, as far as is known.
    #[must_use]
    pub fn is_absent(self) -> bool {
        matches!(self, Self::Gone | Self::Dormant)
    }

    /// The stable name, as in JSON and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Discovered => "discovered",
            Self::Connecting => "connecting",
            Self::Active => "active",
            Self::Suspect => "suspect",
            Self::Unresponsive => "unresponsive",
            Self::Retrying => "retrying",
            Self::Tripped => "tripped",
            Self::Draining => "draining",
            Self::Dormant => "dormant",
            Self::Gone => "gone",
        }
    }
}

/// A link at one moment.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// The record as it was seen last. Not serialized: it holds the secret.
    #[serde(skip)]
    pub record: Arc<Record>,
    /// What the link is doing.
    pub state: State,
    /// Since when.
    pub since: Timestamp,
    /// Why, for people.
    pub why: String,
    /// What went wrong last, also after it went well again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<Failure>,
    /// Dials since health was last proven.
    pub attempts: u32,
    /// When the next dial is, while the link waits for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_try: Option<Timestamp>,
    /// The connection, while there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection: Option<ConnectionFacts>,
    /// How many connections were proven so far, over all lives of the instance.
    pub connections: u64,
    /// How many dials were begun, over all lives of the instance.
    pub dials: u64,
    /// Whether requests may pass.
    pub breaker: BreakerFacts,
    /// How often the breaker opened.
    pub trips: u64,
    /// When and why it opened last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_trip: Option<Trip>,
    /// How well it answers.
    pub health: Facts,
    /// What is known of starting it, while it is dormant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<Start>,
}

/// A proven connection.
#[derive(Debug, Clone, Serialize)]
pub struct ConnectionFacts {
    /// Which one it is, beginning with 1.
    pub number: u64,
    /// Since when it is proven.
    pub since: Timestamp,
    /// How long the last exchange of the hub's own took: the hello, or a probe.
    #[serde(rename = "round_trip_us", serialize_with = "micros")]
    pub round_trip: Duration,
}

/// A breaker as people see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum BreakerFacts {
    /// Requests pass.
    Closed {
        /// Failures in a row.
        failures: u32,
    },
    /// Requests fail at once.
    Open {
        /// Until then, unless the peer shows earlier that it is well.
        until: Timestamp,
    },
    /// The link is probed.
    HalfOpen {
        /// Successes in a row.
        successes: u32,
    },
}

/// An opening of the breaker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Trip {
    /// When.
    pub at: Timestamp,
    /// The failure that was one too many.
    pub why: String,
}

/// One step of a link's history.
#[derive(Debug, Clone, Serialize)]
pub struct Transition {
    /// When.
    pub at: Timestamp,
    /// From which state.
    pub from: State,
    /// To which state.
    pub to: State,
    /// Why, for people.
    pub why: String,
}

fn micros<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX))
}
