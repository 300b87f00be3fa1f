//! The published status of a link.
//!
//! A status is a plain value: the machine makes it, everyone else reads it from a watch. It is complete, it describes one
//! instant, and it does not change after it was published. Its serialized form leaves out the secret of the record.

use super::failure::Failure;
use super::launcher::LaunchState;
use crate::health::HealthStats;
use jiff::Timestamp;
use linchpin_shared::registry::record::Record;
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;

/// What a link is doing. The section "Link" of `ARCHITECTURE.md` has the transitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkState {
    /// The record was seen, and nothing was dialled yet.
    Discovered,
    /// A dial is under way.
    Connecting,
    /// The hello proved the identity of the peer. Requests pass.
    Active,
    /// The link is connected, but a probe is not answered yet. Requests pass.
    Suspect,
    /// The process is stopped by a signal, so it cannot answer. Its connection is kept, and requests fail at once.
    Unresponsive,
    /// The link is not connected and waits for its next dial.
    Retrying,
    /// The breaker is not closed. Requests fail at once, dials go on, and a new connection is probed before it is used.
    Tripped,
    /// The record is gone but the connection is open. Requests pass until it ends.
    Draining,
    /// The server is declared and its instance does not run. It is started on first use.
    Dormant,
    /// The instance is gone: it unregistered, or its owner is proven dead.
    Gone,
}

impl LinkState {
    /// Every state, for tables and metrics that have one entry for each.
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

    /// Whether the hub knows of no running process of the instance.
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

/// The status of a link at one instant.
#[derive(Debug, Clone, Serialize)]
pub struct LinkStatus {
    /// The newest record. It is not serialized, because it holds the secret.
    #[serde(skip)]
    pub record: Arc<Record>,
    /// What the link is doing.
    pub state: LinkState,
    /// When the link entered this state.
    pub since: Timestamp,
    /// The reason for the state, in words.
    pub why: String,
    /// The last failure. It stays here after the link has recovered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<Failure>,
    /// The number of dials since the link was last proven healthy.
    pub attempts: u32,
    /// The time of the next dial, while the link waits for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_try: Option<Timestamp>,
    /// The connection, while there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection: Option<ConnectionStatus>,
    /// The number of verified connections so far, over all generations of the instance.
    pub connections: u64,
    /// The number of dials so far, over all generations of the instance.
    pub dials: u64,
    /// Whether the circuit breaker lets requests pass.
    pub breaker: BreakerStatus,
    /// The number of times that the breaker opened.
    pub trips: u64,
    /// The last time that the breaker opened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_trip: Option<BreakerTrip>,
    /// How well the instance answers.
    pub health: HealthStats,
    /// How far the start of the server has got, while the link is dormant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<LaunchState>,
}

/// The present connection of a link, whose peer proved its identity.
#[derive(Debug, Clone, Serialize)]
pub struct ConnectionStatus {
    /// The number of the connection within its link. The first one has number 1.
    pub number: u64,
    /// When the hello verified it.
    pub since: Timestamp,
    /// The round trip of the hub's own last exchange, which was the hello or a probe.
    #[serde(rename = "round_trip_us", serialize_with = "micros")]
    pub round_trip: Duration,
}

/// A circuit breaker with times of day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum BreakerStatus {
    /// Requests pass.
    Closed {
        /// The number of failures in a row.
        failures: u32,
    },
    /// Requests fail at once.
    Open {
        /// When the first probe may be sent, unless a hello contradicts the failures before.
        until: Timestamp,
    },
    /// One probe at a time decides whether the breaker closes.
    HalfOpen {
        /// The number of successes in a row.
        successes: u32,
    },
}

/// An opening of the breaker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BreakerTrip {
    /// The time of the opening.
    pub at: Timestamp,
    /// The failure that opened it, in words.
    pub why: String,
}

/// An entry of a link's history.
#[derive(Debug, Clone, Serialize)]
pub struct LinkTransition {
    /// When the link changed its state.
    pub at: Timestamp,
    /// The state before the change.
    pub from: LinkState,
    /// The state after the change.
    pub to: LinkState,
    /// The reason for the change, in words.
    pub why: String,
}

fn micros<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX))
}
