//! All links of a hub, as other rooms use them.

use super::common::LinkCommon;
use super::config::LinkConfig;
use super::handle::LinkHandle;
use super::launcher::{Launcher, NoLauncher};
use super::limiter::DialLimiter;
use super::manager::LinkManager;
use super::metrics::LinkMetrics;
use super::status::LinkState;
use crate::discovery::{Discovery, Snapshot};
use linchpin_shared::settings::LinkSettings;
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The links of a hub: one for each instance that discovery shows, and one for each declared server.
#[derive(Debug, Clone)]
pub struct Links {
    handles: watch::Receiver<Arc<Vec<LinkHandle>>>,
    metrics: LinkMetrics,
}

impl Links {
    /// Starts links to all instances that discovery shows. They end when `cancel` is cancelled.
    #[must_use]
    pub fn start(
        discovery: &Discovery,
        settings: &LinkSettings,
        cancel: CancellationToken,
        tasks: &TaskTracker,
    ) -> Self {
        let launcher = Arc::new(NoLauncher(watch::Sender::default()));
        Self::with_declared(discovery, launcher, settings, cancel, tasks)
    }

    /// Starts links to all instances that discovery shows and to all declared servers, whether they run or not.
    #[must_use]
    pub fn with_declared(
        discovery: &Discovery,
        launcher: Arc<dyn Launcher>,
        settings: &LinkSettings,
        cancel: CancellationToken,
        tasks: &TaskTracker,
    ) -> Self {
        let rescanned = discovery.clone();
        let request_rescan = Box::new(move || rescanned.nudge());
        Self::spawn(discovery.snapshot.clone(), request_rescan, launcher, settings, cancel, tasks)
    }

    pub(super) fn spawn(
        snapshot: watch::Receiver<Arc<Snapshot>>,
        request_rescan: Box<dyn Fn() + Send + Sync>,
        launcher: Arc<dyn Launcher>,
        settings: &LinkSettings,
        cancel: CancellationToken,
        tasks: &TaskTracker,
    ) -> Self {
        let (publish, handles) = watch::channel(Arc::default());
        let metrics = LinkMetrics::new();
        let common = LinkCommon {
            config: LinkConfig::from(settings),
            limiter: Mutex::new(DialLimiter::new(settings.dials_per_second)),
            metrics: metrics.clone(),
            request_rescan,
        };
        let manager = LinkManager::new(common, settings.in_flight_total, publish, cancel, launcher);
        tasks.spawn(manager.run(snapshot));
        Self { handles, metrics }
    }

    /// Watches the handles of all links, which are sorted by name. The list changes only when a link is added or removed.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Arc<Vec<LinkHandle>>> {
        self.handles.clone()
    }

    /// Returns the link to the instance of this name. If there are several, one whose instance is present is preferred,
    /// and then one whose instance can be started.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<LinkHandle> {
        let handles = Arc::clone(&self.handles.borrow());
        let named = handles.iter().filter(|handle| handle.name() == name);
        let absence = |state: LinkState| u8::from(state.is_absent()) + u8::from(state == LinkState::Gone);
        named.min_by_key(|handle| absence(handle.inner.status.borrow().state)).cloned()
    }

    /// Registers the metrics of all links.
    pub fn register_metrics(&self, registry: &mut Registry) {
        self.metrics.register(registry);
    }

    /// Updates the metrics that are not counted as they change.
    pub fn refresh_metrics(&self) {
        let handles = Arc::clone(&self.handles.borrow());
        handles.iter().for_each(LinkHandle::refresh_metrics);
    }

    /// Asks every link to check its connection, see [`LinkHandle::check`].
    pub fn check_all(&self, why: &'static str) {
        let handles = Arc::clone(&self.handles.borrow());
        handles.iter().for_each(|handle| handle.check(why));
    }
}
