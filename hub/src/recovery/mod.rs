//! Whether recovery actions above reconnecting are allowed at the moment.
//!
//! [`Recovery`] watches the links and the absences of the hub, and publishes whether a [`RecoveryHold`] is active. Every
//! recovery action above reconnecting must ask it first. So far there is no such action. This room itself acts on no
//! instance.

mod recovery_hold;

use crate::link::{LinkHandle, Links};
use crate::network::Facts;
use jiff::Timestamp;
use recovery_hold::{HoldReason, RecoveryHold};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

/// The interval between two comparisons of the links. A comparison reads one shared value for each link.
const INTERVAL: Duration = Duration::from_millis(500);

/// A hold that is active: no recovery action above reconnecting is taken for any instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HoldStatus {
    /// The beginning of the hold.
    pub since: Timestamp,
    /// The reason for the hold, in words.
    pub why: String,
}

/// Publishes whether recovery actions are held.
#[derive(Debug, Clone)]
pub struct Recovery {
    hold: watch::Receiver<Option<HoldStatus>>,
}

impl Recovery {
    /// Watches the links and the absences of the hub until `cancel` is cancelled.
    #[must_use]
    pub fn start(
        links: &Links,
        network: watch::Receiver<Facts>,
        cancel: CancellationToken,
        tasks: &TaskTracker,
    ) -> Self {
        let (publish, hold) = watch::channel(None);
        let links = links.watch();
        let monitor = HoldMonitor { links, network, lost: BTreeMap::new(), hold: RecoveryHold::default(), publish };
        tasks.spawn(cancel.run_until_cancelled_owned(monitor.run()));
        Self { hold }
    }

    /// Watches the active hold, which is `None` most of the time.
    #[must_use]
    pub fn hold(&self) -> watch::Receiver<Option<HoldStatus>> {
        self.hold.clone()
    }
}

struct HoldMonitor {
    links: watch::Receiver<Arc<Vec<LinkHandle>>>,
    network: watch::Receiver<Facts>,
    /// The number of connections that each link had lost at the last comparison.
    lost: BTreeMap<Uuid, u64>,
    hold: RecoveryHold,
    publish: watch::Sender<Option<HoldStatus>>,
}

impl HoldMonitor {
    async fn run(mut self) {
        let mut ticks = interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut absences = 0;
        loop {
            ticks.tick().await;
            let now = Instant::now();
            let known = std::mem::replace(&mut absences, self.network.borrow().absences);
            if absences > known {
                self.hold.hub_was_away(now);
            }
            self.compare_links(now);
            let reason = self.hold.reason(now);
            self.publish(reason);
        }
    }

    /// Compares every link with the last comparison. A link that was lost and is connected again counts as well.
    fn compare_links(&mut self, now: Instant) {
        let links = self.links.borrow().clone();
        let lost: BTreeMap<Uuid, u64> =
            links.iter().filter_map(|link| Some((link.id(), lost_connections(link)?))).collect();
        let before = |id| self.lost.get(id).copied().unwrap_or_default();
        let failed: Vec<Uuid> = lost.iter().filter(|(id, lost)| **lost > before(id)).map(|(id, _)| *id).collect();
        self.hold.links_failed(failed, lost.len(), now);
        self.lost = lost;
    }

    fn publish(&self, reason: Option<HoldReason>) {
        self.publish.send_if_modified(|hold| {
            match (reason, hold.is_some()) {
                (Some(reason), false) => {
                    let why = reason.to_string();
                    tracing::warn!(why, "recovery hold began: only reconnecting is allowed");
                    *hold = Some(HoldStatus { since: Timestamp::now(), why });
                }
                (None, true) => {
                    tracing::info!("recovery hold ended");
                    *hold = None;
                }
                (Some(_), true) | (None, false) => return false,
            }
            true
        });
    }
}

/// The number of connections that a link has lost. `None` for an instance that is gone or dormant: it ended or left, which
/// says nothing about the machine.
fn lost_connections(link: &LinkHandle) -> Option<u64> {
    let status = link.status();
    let status = status.borrow();
    (!status.state.is_absent()).then(|| status.connections - u64::from(status.connection.is_some()))
}
