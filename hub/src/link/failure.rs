//! Classified errors of a link.
//!
//! A [`Failure`] has a [`FailureKind`] (what happened) and a [`FailurePhase`] (during which operation). The
//! [`FailureClass`], which says what the link does about it, follows from these two alone, by one exhaustive match. The
//! section "Link" of `ARCHITECTURE.md` has the whole table. The texts of an error are for people and decide nothing.

use serde::{Deserialize, Serialize};
use std::fmt;

/// What went wrong on a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// No program listens on the port.
    Refused,
    /// The address cannot be reached.
    Unreachable,
    /// No TCP connection was established within the dial deadline.
    ConnectTimeout,
    /// The peer did not answer the hello within its deadline.
    HelloTimeout,
    /// The peer reset the connection.
    Reset,
    /// The peer closed the connection.
    Closed,
    /// The peer did not answer a PING within its deadline.
    PingTimeout,
    /// The kernel gave up the connection because its bytes were not acknowledged.
    IoTimeout,
    /// The peer does not speak HTTP/2, or violates it.
    Protocol,
    /// The peer is not the instance of the record.
    WrongIdentity,
    /// The peer speaks no format that this hub knows.
    VersionMismatch,
    /// The peer has no capacity at the moment.
    Overloaded,
    /// The process of the record is proven dead.
    ProcessGone,
    /// The peer closed the connection with GOAWAY and without an error.
    Drained,
    /// The hub gave up the operation itself, or lacked a resource for it.
    Cancelled,
    /// One request was reset. The connection is not affected.
    StreamReset,
    /// One request missed its deadline. The connection is not affected.
    Deadline,
}

/// The operation during which a failure happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailurePhase {
    /// Opening the TCP connection.
    Dial,
    /// The HTTP/2 handshake and the hello.
    Hello,
    /// The life of a verified connection.
    Serve,
    /// One request on a verified connection.
    Request,
}

/// What a link does about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureClass {
    /// Dial at once, because the loss says nothing about the health of the peer.
    RetryNow,
    /// Dial after the backoff delay.
    Backoff,
    /// Read the registry again to find the instance, and dial after the backoff delay.
    Rediscover,
    /// Stop dialling: the instance is gone.
    Terminal,
    /// Fail the request alone. The connection is not affected.
    RequestOnly,
}

impl FailureKind {
    /// Every kind, for tables and metrics that have one entry for each.
    pub const ALL: [Self; 17] = [
        Self::Refused,
        Self::Unreachable,
        Self::ConnectTimeout,
        Self::HelloTimeout,
        Self::Reset,
        Self::Closed,
        Self::PingTimeout,
        Self::IoTimeout,
        Self::Protocol,
        Self::WrongIdentity,
        Self::VersionMismatch,
        Self::Overloaded,
        Self::ProcessGone,
        Self::Drained,
        Self::Cancelled,
        Self::StreamReset,
        Self::Deadline,
    ];

    /// The class of this kind in this phase.
    #[must_use]
    pub const fn class(self, phase: FailurePhase) -> FailureClass {
        match self {
            Self::Drained => FailureClass::RetryNow,
            Self::Reset | Self::Closed => match phase {
                FailurePhase::Serve | FailurePhase::Request => FailureClass::RetryNow,
                FailurePhase::Dial | FailurePhase::Hello => FailureClass::Backoff,
            },
            Self::Refused
            | Self::Unreachable
            | Self::ConnectTimeout
            | Self::HelloTimeout
            | Self::PingTimeout
            | Self::IoTimeout
            | Self::Overloaded
            | Self::Cancelled => FailureClass::Backoff,
            Self::Protocol | Self::WrongIdentity | Self::VersionMismatch => FailureClass::Rediscover,
            Self::ProcessGone => FailureClass::Terminal,
            Self::StreamReset | Self::Deadline => FailureClass::RequestOnly,
        }
    }

    /// Whether the circuit breaker counts this kind as a failure of the peer. Cancellations and drains do not count.
    #[must_use]
    pub const fn counts_against_peer(self) -> bool {
        match self {
            Self::Refused
            | Self::Unreachable
            | Self::ConnectTimeout
            | Self::HelloTimeout
            | Self::Reset
            | Self::Closed
            | Self::PingTimeout
            | Self::IoTimeout
            | Self::Protocol
            | Self::WrongIdentity
            | Self::VersionMismatch
            | Self::Overloaded => true,
            Self::ProcessGone | Self::Drained | Self::Cancelled | Self::StreamReset | Self::Deadline => false,
        }
    }

    /// The stable name, as in JSON and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::ConnectTimeout => "connect_timeout",
            Self::HelloTimeout => "hello_timeout",
            Self::Reset => "reset",
            Self::Closed => "closed",
            Self::PingTimeout => "ping_timeout",
            Self::IoTimeout => "io_timeout",
            Self::Protocol => "protocol",
            Self::WrongIdentity => "wrong_identity",
            Self::VersionMismatch => "version_mismatch",
            Self::Overloaded => "overloaded",
            Self::ProcessGone => "process_gone",
            Self::Drained => "drained",
            Self::Cancelled => "cancelled",
            Self::StreamReset => "stream_reset",
            Self::Deadline => "deadline",
        }
    }
}

/// A classified error with the texts of its causes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What went wrong.
    pub kind: FailureKind,
    /// The operation during which it happened.
    pub phase: FailurePhase,
    /// The texts of the error and its sources, the outermost first. They are for people only.
    pub causes: Vec<String>,
    /// How long the operation took until it failed, in milliseconds.
    pub after_ms: u64,
    /// The pause that the peer asked for, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

impl Failure {
    /// Creates a failure without causes.
    #[must_use]
    pub fn new(kind: FailureKind, phase: FailurePhase) -> Self {
        Self { kind, phase, causes: Vec::new(), after_ms: 0, retry_after_ms: None }
    }

    /// Adds the texts of `error` and of its sources to the causes.
    #[must_use]
    pub fn caused_by(mut self, error: &(dyn std::error::Error + 'static)) -> Self {
        let mut next = Some(error);
        while let Some(error) = next {
            self.causes.push(error.to_string());
            next = error.source();
        }
        self
    }

    /// Adds a text to the causes.
    #[must_use]
    pub fn because(mut self, cause: impl Into<String>) -> Self {
        self.causes.push(cause.into());
        self
    }

    /// Records how long the operation took until it failed.
    #[must_use]
    pub fn after(mut self, elapsed: std::time::Duration) -> Self {
        self.after_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        self
    }

    /// Records the pause that the peer asked for.
    #[must_use]
    pub fn retry_after(mut self, wait: Option<std::time::Duration>) -> Self {
        self.retry_after_ms = wait.map(|wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
        self
    }

    /// What the link does about this failure.
    #[must_use]
    pub const fn class(&self) -> FailureClass {
        self.kind.class(self.phase)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.as_str())?;
        for cause in &self.causes {
            write!(f, ": {cause}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_connection_is_retried_at_once_only_if_verified() {
        assert_eq!(FailureKind::Reset.class(FailurePhase::Serve), FailureClass::RetryNow);
        assert_eq!(FailureKind::Reset.class(FailurePhase::Dial), FailureClass::Backoff);
        assert_eq!(FailureKind::Closed.class(FailurePhase::Hello), FailureClass::Backoff);
    }

    #[test]
    fn names_are_those_of_the_json() {
        for kind in FailureKind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
    }

    /// The table of `ARCHITECTURE.md`, kind by kind: the class while dialling, the class on a verified connection, and
    /// whether the breaker counts it.
    #[test]
    fn every_kind_has_its_class() {
        use FailureClass::{Backoff, Rediscover, RequestOnly, RetryNow, Terminal};
        for (kind, dialling, proven, counts) in [
            (FailureKind::Refused, Backoff, Backoff, true),
            (FailureKind::Unreachable, Backoff, Backoff, true),
            (FailureKind::ConnectTimeout, Backoff, Backoff, true),
            (FailureKind::HelloTimeout, Backoff, Backoff, true),
            (FailureKind::Reset, Backoff, RetryNow, true),
            (FailureKind::Closed, Backoff, RetryNow, true),
            (FailureKind::PingTimeout, Backoff, Backoff, true),
            (FailureKind::IoTimeout, Backoff, Backoff, true),
            (FailureKind::Protocol, Rediscover, Rediscover, true),
            (FailureKind::WrongIdentity, Rediscover, Rediscover, true),
            (FailureKind::VersionMismatch, Rediscover, Rediscover, true),
            (FailureKind::Overloaded, Backoff, Backoff, true),
            (FailureKind::ProcessGone, Terminal, Terminal, false),
            (FailureKind::Drained, RetryNow, RetryNow, false),
            (FailureKind::Cancelled, Backoff, Backoff, false),
            (FailureKind::StreamReset, RequestOnly, RequestOnly, false),
            (FailureKind::Deadline, RequestOnly, RequestOnly, false),
        ] {
            for (phase, class) in [
                (FailurePhase::Dial, dialling),
                (FailurePhase::Hello, dialling),
                (FailurePhase::Serve, proven),
                (FailurePhase::Request, proven),
            ] {
                assert_eq!(kind.class(phase), class, "{kind:?} {phase:?}");
            }
            assert_eq!(kind.counts_against_peer(), counts, "{kind:?}");
        }
    }
}
