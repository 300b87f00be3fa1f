//! What can go wrong on a link, and what follows from it.
//!
//! Owns [`Kind`] (what happened), [`Phase`] (while doing what) and [`Class`] (what to do about it).
//! Invariant: the class follows from kind and phase alone, by one exhaustive match; the numbers are DESIGN 4.3.
//! Never: looks at the text of an error. Text is for people and stands in [`Failure::causes`].

use serde::{Deserialize, Serialize};
use std::fmt;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Nobody listens on the port.
    Refused,
    /// The address cannot be reached.
    Unreachable,
    /// No connection within the dial deadline.
    ConnectTimeout,
    /// No hello within its deadline.
    HelloTimeout,
    /// The peer reset the connection.
    Reset,
    /// The peer closed the connection.
    Closed,
    /// No answer to a PING within its deadline.
    PingTimeout,
    /// The kernel gave up on the connection.
    IoTimeout,
    /// The peer does not speak HTTP/2, or breaks its rules.
    Protocol,
    /// The peer is not the instance of the record.
    WrongIdentity,
    /// The peer speaks no format that we know.
    VersionMismatch,
    /// The peer has no room just now.
    Overloaded,
    /// The process of the record is proven dead.
    ProcessGone,
    /// The peer said goodbye properly.
    Drained,
    /// We gave it up ourselves.
    Cancelled,
    /// One request was reset; the connection lives.
    StreamReset,
    /// One request missed its deadline; the connection lives.
    Deadline,
}

/// While doing what it happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Opening the TCP connection.
    Dial,
    /// The HTTP/2 handshake and the hello.
    Hello,
    /// On a connection that was proven.
    Serve,
    /// One request on such a connection.
    Request,
}

/// What to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Dial at once: the loss says nothing about the peer's health.
    RetryNow,
    /// Dial after the backoff.
    Backoff,
    /// Ask the registry where the instance is now, and dial after the backoff.
    Rediscover,
    /// There is nothing left to dial.
    Terminal,
    /// The request failed; the connection is not concerned.
    RequestOnly,
}

impl Kind {
    /// All of them.
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

    /// What to do about this kind in this phase.
    #[must_use]
    pub const fn class(self, phase: Phase) -> Class {
        match self {
            Self::Drained => Class::RetryNow,
            Self::Reset | Self::Closed => match phase {
                Phase::Serve | Phase::Request => Class::RetryNow,
                Phase::Dial | Phase::Hello => Class::Backoff,
            },
            Self::Refused
            | Self::Unreachable
            | Self::ConnectTimeout
            | Self::HelloTimeout
            | Self::PingTimeout
            | Self::IoTimeout
            | Self::Overloaded
            | Self::Cancelled => Class::Backoff,
            Self::Protocol | Self::WrongIdentity | Self::VersionMismatch => Class::Rediscover,
            Self::ProcessGone => Class::Terminal,
            Self::StreamReset | Self::Deadline => Class::RequestOnly,
        }
    }

    /// Whether this counts against the peer in the breaker (DESIGN 4.3: cancellations and drains never do).
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

/// A classified error with its cause chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What happened.
    pub kind: Kind,
    /// While doing what.
    pub phase: Phase,
    /// The texts of the error and its sources, outermost first. For people only.
    pub causes: Vec<String>,
    /// How long the failed operation had taken, in milliseconds.
    pub after_ms: u64,
    /// How long the peer asked to be left alone, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

impl Failure {
    /// A failure with the texts of an error's source chain.
    #[must_use]
    pub fn new(kind: Kind, phase: Phase) -> Self {
        Self { kind, phase, causes: Vec::new(), after_ms: 0, retry_after_ms: None }
    }

    /// Takes the texts of `error` and its sources.
    #[must_use]
    pub fn caused_by(mut self, error: &(dyn std::error::Error + 'static)) -> Self {
        let mut next = Some(error);
        while let Some(error) = next {
            self.causes.push(error.to_string());
            next = error.source();
        }
        self
    }

    /// Adds one text to the causes.
    #[must_use]
    pub fn because(mut self, cause: impl Into<String>) -> Self {
        self.causes.push(cause.into());
        self
    }

    /// Says how long the failed operation had taken.
    #[must_use]
    pub fn after(mut self, elapsed: std::time::Duration) -> Self {
        self.after_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        self
    }

    /// Says how long the peer asked to be left alone.
    #[must_use]
    pub fn retry_after(mut self, wait: Option<std::time::Duration>) -> Self {
        self.retry_after_ms = wait.map(|wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
        self
    }

    /// What to do about it.
    #[must_use]
    pub const fn class(&self) -> Class {
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
    fn a_broken_connection_is_retried_at_once_only_if_it_had_been_proven() {
        assert_eq!(Kind::Reset.class(Phase::Serve), Class::RetryNow);
        assert_eq!(Kind::Reset.class(Phase::Dial), Class::Backoff);
        assert_eq!(Kind::Closed.class(Phase::Hello), Class::Backoff);
    }

    #[test]
    fn names_are_those_of_the_json() {
        for kind in Kind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
    }

    /// The table of DESIGN 4.3, kind by kind: the class while dialling, the class of a proven connection, and whether
    /// the breaker counts it.
    #[test]
    fn every_kind_has_its_class_and_its_blame() {
        use Class::{Backoff, Rediscover, RequestOnly, RetryNow, Terminal};
        for (kind, dialling, proven, counts) in [
            (Kind::Refused, Backoff, Backoff, true),
            (Kind::Unreachable, Backoff, Backoff, true),
            (Kind::ConnectTimeout, Backoff, Backoff, true),
            (Kind::HelloTimeout, Backoff, Backoff, true),
            (Kind::Reset, Backoff, RetryNow, true),
            (Kind::Closed, Backoff, RetryNow, true),
            (Kind::PingTimeout, Backoff, Backoff, true),
            (Kind::IoTimeout, Backoff, Backoff, true),
            (Kind::Protocol, Rediscover, Rediscover, true),
            (Kind::WrongIdentity, Rediscover, Rediscover, true),
            (Kind::VersionMismatch, Rediscover, Rediscover, true),
            (Kind::Overloaded, Backoff, Backoff, true),
            (Kind::ProcessGone, Terminal, Terminal, false),
            (Kind::Drained, RetryNow, RetryNow, false),
            (Kind::Cancelled, Backoff, Backoff, false),
            (Kind::StreamReset, RequestOnly, RequestOnly, false),
            (Kind::Deadline, RequestOnly, RequestOnly, false),
        ] {
            for (phase, class) in
                [(Phase::Dial, dialling), (Phase::Hello, dialling), (Phase::Serve, proven), (Phase::Request, proven)]
            {
                assert_eq!(kind.class(phase), class, "{kind:?} {phase:?}");
            }
            assert_eq!(kind.counts_against_peer(), counts, "{kind:?}");
        }
    }
}
