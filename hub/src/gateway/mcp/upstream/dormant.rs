//! A server that is started on first use.
//!
//! Owns the part of [`Upstream`] that has it started: which use counts as one, how long that is waited for, and what is
//! told when it fails. A call counts, and asking for a list that nobody knows; a list that is known is answered without.
//! Invariant: a failed start is told to those who waited for that start, at once, and to nobody later as news.
//! Never: knows how it is started. The link does.

use super::{Upstream, UpstreamPhase};
use crate::gateway::mcp::protocol::list_kind::ListKind;
use crate::link::LaunchState;
use jiff::Timestamp;
use linchpin_shared::problem::Problem;
use linchpin_shared::protocol::vitals::{ProcessState, Vitals};
use std::time::Duration;
use tokio::time::Instant;

impl Upstream {
    /// Whether nothing of it runs until somebody wants it.
    pub(crate) fn is_dormant(&self) -> bool {
        matches!(self.state.borrow().phase, UpstreamPhase::Dormant(_))
    }

    /// Has it started if it is dormant and nobody knows this list of it.
    pub(crate) fn wake_for(&self, kind: ListKind) {
        let known = self.known();
        let has_none = || known.about.as_ref().is_some_and(|about| !about.offers(kind.capability()));
        if self.is_dormant() && known.lists.get(kind).is_none() && !has_none() {
            // Whether that works shows in its state.
            let _ = self.wake();
        }
    }

    /// Until when a list of it is worth waiting for, if it is to come: `first` after it was first heard of, `again` after
    /// it was woken.
    pub(crate) fn settles_by(&self, first: Duration, again: Duration) -> Instant {
        let woken = self.woken.lock().as_ref().map(|(at, _)| *at + again);
        woken.into_iter().chain([self.born + first]).max().unwrap_or(self.born)
    }

    fn wake(&self) -> LaunchState {
        let before = self.state().phase;
        let start = self.handle().launch();
        match (before, &start) {
            (
                UpstreamPhase::Dormant(before @ (LaunchState::Idle | LaunchState::Failed { .. })),
                LaunchState::Starting,
            ) => {
                *self.woken.lock() = Some((Instant::now(), before));
            }
            (
                UpstreamPhase::Starting
                | UpstreamPhase::Ready(_)
                | UpstreamPhase::Down { .. }
                | UpstreamPhase::Dormant(_)
                | UpstreamPhase::Left { .. },
                LaunchState::Idle | LaunchState::Starting | LaunchState::Failed { .. },
            ) => {}
        }
        start
    }

    /// Has it started if it is dormant and there is time to wait for it. Gives the failure of an earlier start that is
    /// none of this one.
    pub(super) fn ensure_started(&self, deadline: Instant) -> Result<Option<LaunchState>, Problem> {
        let UpstreamPhase::Dormant(before) = self.state().phase else { return Ok(None) };
        if deadline <= Instant::now() {
            return Ok(None);
        }
        match self.wake() {
            LaunchState::Failed { problem, next_try } => Err(failed_start(&problem, next_try)),
            LaunchState::Idle | LaunchState::Starting => Ok(Some(before)),
        }
    }

    /// Why there is no session; with what its process wrote last, if that does not run.
    pub(super) async fn unavailable(&self, waited: Duration) -> Problem {
        let problem = self.without_session(waited);
        let runs = |vitals: &Vitals| vitals.processes.iter().all(|process| process.state == ProcessState::Running);
        if self.handle().vitals().borrow().as_deref().is_none_or(runs) {
            return problem;
        }
        match self.handle().last_output().await {
            Some(words) => problem.seen("it wrote", words),
            None => problem,
        }
    }

    /// Whether this list is not known yet but may be soon.
    pub(crate) fn is_settling(&self, kind: ListKind) -> bool {
        let known = self.known.borrow();
        if known.lists.get(kind).is_some() || known.fetches[kind.index()] > 0 {
            return false;
        }
        match self.state.borrow().phase {
            UpstreamPhase::Starting | UpstreamPhase::Ready(_) => true,
            UpstreamPhase::Down { likely_permanent, .. } => !likely_permanent,
            // What it was before it was woken, it is only until that is known here.
            UpstreamPhase::Dormant(ref start) => {
                *start == LaunchState::Starting || self.woken.lock().as_ref().is_some_and(|(_, before)| before == start)
            }
            UpstreamPhase::Left { .. } => false,
        }
    }
}

/// Why it could not be started, and when that is worth another try.
pub(super) fn failed_start(problem: &Problem, next_try: Timestamp) -> Problem {
    problem.clone().seen("next_try", next_try.to_string())
}
