//! Why a request to an instance has no response.

use super::failure::{Failure, FailureKind, FailurePhase};
use super::status::LinkState;
use jiff::Timestamp;
use linchpin_shared::problem::{Code, Problem};
use std::time::Duration;

/// An error of a request to an instance. Each variant says whether the instance may have executed the request.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SendError {
    /// The link is not connected, so the request was not sent.
    #[error("not connected: {state:?}")]
    NotConnected {
        /// The state of the link.
        state: LinkState,
        /// The time of the next dial.
        next_try: Option<Timestamp>,
        /// The last failure of the link.
        last_failure: Option<Failure>,
    },
    /// The request failed, and the instance certainly did not execute it.
    #[error("not sent: {0}")]
    NotSent(Failure),
    /// The request failed after it was sent. The instance may have executed it.
    #[error("interrupted: {0}")]
    Interrupted(Failure),
    /// Too many requests are in flight, so the request was not sent.
    #[error("too many requests in flight")]
    Overloaded {
        /// The pause after which the caller may try again.
        retry_after: Duration,
    },
    /// The instance is gone, so the request was not sent.
    #[error("the instance is gone")]
    Gone,
}

impl SendError {
    /// A request that could not be built.
    pub(super) fn invalid(error: &(dyn std::error::Error + 'static)) -> Self {
        Self::NotSent(Failure::new(FailureKind::Cancelled, FailurePhase::Request).caused_by(error))
    }

    /// The failure of the connection that carried the request, if it got that far.
    pub(super) const fn failure(&self) -> Option<&Failure> {
        match self {
            Self::NotSent(failure) | Self::Interrupted(failure) => Some(failure),
            Self::NotConnected { .. } | Self::Overloaded { .. } | Self::Gone => None,
        }
    }

    /// The failure of an exchange of the hub's own in this phase.
    pub(super) fn into_failure(self, phase: FailurePhase) -> Failure {
        match self {
            Self::NotSent(failure) | Self::Interrupted(failure) => Failure { phase, ..failure },
            error @ (Self::NotConnected { .. } | Self::Overloaded { .. } | Self::Gone) => {
                Failure::new(FailureKind::Cancelled, phase).caused_by(&error)
            }
        }
    }

    /// Whether the instance certainly did not execute the request, so that any request may be repeated.
    #[must_use]
    pub const fn not_executed(&self) -> bool {
        match self {
            Self::NotConnected { .. } | Self::NotSent(_) | Self::Overloaded { .. } | Self::Gone => true,
            Self::Interrupted(_) => false,
        }
    }

    /// Describes the error to people. `name` is the name of the instance.
    #[must_use]
    pub fn problem(&self, name: &str) -> Problem {
        let explain = format!("linchpin explain {name}");
        let about = |code: Code, what: &str| Problem::new(code, format!("{name} {what}")).seen("instance", name);
        match self {
            Self::NotConnected { state: LinkState::Dormant, .. } => {
                about(Code::InstanceUnavailable, "does not run: it is declared, and is started on first use")
                    .next("call one of its tools: linchpin tools")
                    .next(explain)
            }
            Self::NotConnected { state, next_try, last_failure } => {
                let what = format!("is {}", state.as_str());
                let mut problem = about(Code::InstanceUnavailable, &what).seen("state", state.as_str());
                if let Some(failure) = last_failure {
                    problem = problem.seen("last_failure", failure.to_string());
                }
                if let Some(at) = next_try {
                    problem = problem.seen("next_try", at.to_string());
                }
                problem.next("try again in a moment: the hub keeps trying to connect").next(explain)
            }
            Self::NotSent(failure) => about(Code::InstanceUnavailable, "did not accept the request")
                .seen("failure", failure.to_string())
                .next("try again: nothing was executed")
                .next(explain),
            Self::Interrupted(failure) => about(Code::CallInterrupted, "was lost while the request was in progress")
                .seen("failure", failure.to_string())
                .next("check whether the request had an effect before you repeat it")
                .next(explain),
            Self::Overloaded { retry_after } => about(Code::Overloaded, "has too many requests in flight")
                .seen("retry_after_ms", u64::try_from(retry_after.as_millis()).unwrap_or(u64::MAX))
                .next(format!("try again in {} s", retry_after.as_secs())),
            Self::Gone => about(Code::InstanceUnavailable, "is gone: its process has ended")
                .next("start it again: linchpin run")
                .next("linchpin status"),
        }
    }
}
