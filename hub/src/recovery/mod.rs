//! What may be done to instances now.
//!
//! Owns [`Recovery`], which publishes whether the ladder is held, from what the links show and whether the hub was away.
//! There is no grade above reconnecting yet that acts by itself; whoever adds one asks here first.
//! Invariant: the hold is a published fact, the same for everybody. Never: acts on an instance.

mod hold;

use crate::link::{Handle, Links};
use crate::network::Facts;
use hold::{Hold, Why};
use jiff::Timestamp;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

/// How often the links are looked at. It costs reading one shared value for each.
const LOOK: Duration = Duration::from_millis(500);

/// Nothing above reconnecting is done to any instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Held {
    /// Since when.
    pub since: Timestamp,
    /// Why, for people.
    pub why: String,
}

/// What may be done to instances.
#[derive(Debug, Clone)]
pub struct Recovery {
    held: watch::Receiver<Option<Held>>,
}

impl Recovery {
    /// Watches links and absences until cancelled.
    #[must_use]
    pub fn start(
        links: &Links,
        network: watch::Receiver<Facts>,
        cancel: CancellationToken,
        tasks: &TaskTracker,
    ) -> Self {
        let (publish, held) = watch::channel(None);
        let watch = Watch { links: links.watch(), network, lost: BTreeMap::new(), hold: Hold::default(), publish };
        tasks.spawn(cancel.run_until_cancelled_owned(watch.run()));
        Self { held }
    }

    /// Whether the ladder is held, now and at every change.
    #[must_use]
    pub fn held(&self) -> watch::Receiver<Option<Held>> {
        self.held.clone()
    }
}

struct Watch {
    links: watch::Receiver<std::sync::Arc<Vec<Handle>>>,
    network: watch::Receiver<Facts>,
    /// How many connections each link had lost at the last look.
    lost: BTreeMap<Uuid, u64>,
    hold: Hold,
    publish: watch::Sender<Option<Held>>,
}

impl Watch {
    async fn run(mut self) {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut absences = 0;
        loop {
            looks.tick().await;
            let now = Instant::now();
            let known = std::mem::replace(&mut absences, self.network.borrow().absences);
            if absences > known {
                self.hold.away(now);
            }
            self.look(now);
            let why = self.hold.held(now);
            self.publish(why);
        }
    }

    /// Compares every link with the last look. One that was lost and is back already went bad too.
    fn look(&mut self, now: Instant) {
        let links = self.links.borrow().clone();
        let lost: BTreeMap<Uuid, u64> = links.iter().filter_map(|link| Some((link.id(), lost(link)?))).collect();
        let before = |id| self.lost.get(id).copied().unwrap_or_default();
        let bad: Vec<Uuid> = lost.iter().filter(|(id, lost)| **lost > before(id)).map(|(id, _)| *id).collect();
        self.hold.went_bad(bad, lost.len(), now);
        self.lost = lost;
    }

    fn publish(&self, why: Option<Why>) {
        self.publish.send_if_modified(|held| {
            match (why, held.is_some()) {
                (Some(why), false) => {
                    let why = text(why);
                    tracing::warn!(why, "nothing but reconnecting is done to any instance until all is calm");
                    *held = Some(Held { since: Timestamp::now(), why });
                }
                (None, true) => {
                    tracing::info!("all is calm again");
                    *held = None;
                }
                (Some(_), true) | (None, false) => return false,
            }
            true
        });
    }
}

/// How many connections a link has lost. An instance that is gone is dead by proof, or left, and tells nothing about the
/// machine.
fn lost(link: &Handle) -> Option<u64> {
    let status = link.status();
    let status = status.borrow();
    (!status.state.is_absent()).then(|| status.connections - u64::from(status.connection.is_some()))
}

fn text(why: Why) -> String {
    match why {
        Why::Links { bad, all } => {
            format!("{bad} of {all} links went bad together: the machine is suspected, not the instances")
        }
        Why::Away => "the hub itself was away: the machine slept, or the hub was stopped or starved".to_owned(),
    }
}
