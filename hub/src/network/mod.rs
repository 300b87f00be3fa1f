//! Whether the hub was away, and whether the machine's network changed.
//!
//! Owns [`Network`]: one task with the hub's own heartbeat, one that hears of interfaces, and the facts of both. Whatever
//! they find, links are asked to make sure of themselves, and nothing else: on a wake all of them at once, their dials
//! spread by the limiter. Time asleep counts against nobody, since every deadline is kept by a clock that sleeps too.
//! Invariant: an absence is noticed within half a second of its end. Never: marks anything dead, restarts anything, or
//! asks whether the internet is there.

mod heartbeat;
mod interfaces;
mod sys;

pub use heartbeat::Away;
pub use interfaces::Source;

use crate::link::Links;
use heartbeat::{Heartbeat, PERIOD, Reading};
use interfaces::Interfaces;
use jiff::Timestamp;
use serde::Serialize;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Facts {
    /// How news about interfaces comes.
    pub interfaces: Source,
    /// How often interfaces changed; a burst counts once.
    pub changes: u64,
    /// When they changed last.
    pub last_change: Option<Timestamp>,
    /// How often the hub was away.
    pub absences: u64,
    /// Its last absence.
    pub last_absence: Option<Absence>,
}

/// One absence of the hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Absence {
    /// When it was noticed.
    pub noticed_at: Timestamp,
    /// How long it was.
    #[serde(flatten)]
    pub away: Away,
}

/// The facts, for everybody who asks.
#[derive(Debug, Clone)]
pub struct Network {
    facts: watch::Receiver<Facts>,
}

/// Asks all links, and says why.
type Ask = Arc<dyn Fn(&'static str) + Send + Sync>;

impl Network {
    /// Watches until cancelled.
    #[must_use]
    pub fn start(links: &Links, cancel: CancellationToken, tasks: &TaskTracker) -> Self {
        let links = links.clone();
        Self::spawn(Interfaces::watch(), sys::read, Arc::new(move |why| links.check_all(why)), cancel, tasks)
    }

    fn spawn(
        interfaces: Interfaces,
        clocks: impl Fn() -> Reading + Send + 'static,
        ask: Ask,
        cancel: CancellationToken,
        tasks: &TaskTracker,
    ) -> Self {
        let source = interfaces.source();
        let nothing = Facts { interfaces: source, changes: 0, last_change: None, absences: 0, last_absence: None };
        let (publish, facts) = watch::channel(nothing);
        let beats = cancel.clone().run_until_cancelled_owned(beat(clocks, Arc::clone(&ask), publish.clone()));
        tasks.spawn(beats);
        tasks.spawn(cancel.run_until_cancelled_owned(listen(interfaces, ask, publish)));
        Self { facts }
    }

    /// The facts, now and at every change.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Facts> {
        self.facts.clone()
    }
}

async fn beat(clocks: impl Fn() -> Reading, ask: Ask, publish: watch::Sender<Facts>) {
    let mut heart = Heartbeat::new(clocks());
    let mut beats = interval(PERIOD);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        beats.tick().await;
        let Some(away) = heart.beat(clocks()) else { continue };
        let (asleep, stalled) = (away.asleep, away.stalled);
        tracing::info!(?asleep, ?stalled, "the hub was away; all links are asked whether their instances are there");
        ask(away.why());
        publish.send_modify(|facts| {
            facts.absences += 1;
            facts.last_absence = Some(Absence { noticed_at: Timestamp::now(), away });
        });
    }
}

async fn listen(mut interfaces: Interfaces, ask: Ask, publish: watch::Sender<Facts>) {
    loop {
        interfaces.settled().await;
        tracing::info!("interfaces or addresses changed; all links are asked whether their instances are there");
        ask("interfaces or addresses changed");
        publish.send_modify(|facts| {
            facts.changes += 1;
            facts.last_change = Some(Timestamp::now());
        });
    }
}

#[cfg(test)]
mod tests;
