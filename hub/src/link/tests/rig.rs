//! Links with a registry that the test controls, and waits that print the last state when they fail.

use super::peer::Peer;
use crate::discovery::{Found, Snapshot};
use crate::link::failure::FailureKind;
use crate::link::{Body, BoxError, LinkHandle, LinkState, LinkStatus, Links, SendError};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use linchpin_shared::registry::Owner;
use linchpin_shared::registry::record::Record;
use linchpin_shared::settings::{LinkSettings, Settings};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// A deadline that is longer than every operation here takes on a busy machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

pub(super) struct LinkRig {
    pub(super) links: Links,
    snapshot: watch::Sender<Arc<Snapshot>>,
    rescans: Arc<AtomicUsize>,
    _cancel: DropGuard,
}

/// Settings with short times, so that the tests are fast.
pub(super) fn quick() -> LinkSettings {
    LinkSettings {
        hello_timeout: Duration::from_millis(300),
        ping_interval: Duration::from_secs(5),
        backoff_min: Duration::from_millis(5),
        ..Settings::default().link
    }
}

impl LinkRig {
    pub(super) fn new(settings: &LinkSettings) -> Self {
        let (snapshot, seen) = watch::channel(Arc::new(Snapshot::default()));
        let (cancel, rescans) = (CancellationToken::new(), Arc::new(AtomicUsize::new(0)));
        let counted = Arc::clone(&rescans);
        let request_rescan = Box::new(move || {
            counted.fetch_add(1, Ordering::SeqCst);
        });
        let launcher = Arc::new(crate::link::launcher::NoLauncher(watch::Sender::default()));
        let links = Links::spawn(seen, request_rescan, launcher, settings, cancel.clone(), &TaskTracker::new());
        Self { links, snapshot, rescans, _cancel: cancel.drop_guard() }
    }

    /// Puts exactly these records into the registry.
    pub(super) fn show(&self, records: &[(&Record, Owner)]) {
        let found = |(record, owner): &(&Record, Owner)| {
            (record.id, Found { record: Arc::new(Record::clone(record)), owner: *owner })
        };
        let snapshot = Snapshot { instances: records.iter().map(found).collect(), ..Snapshot::default() };
        self.snapshot.send_replace(Arc::new(snapshot));
    }

    /// Puts only this record into the registry, and returns its link.
    pub(super) async fn link(&self, record: &Record) -> LinkHandle {
        self.show(&[(record, Owner::Alive)]);
        let mut handles = self.links.watch();
        let listed = handles.wait_for(|list| list.iter().any(|handle| handle.id() == record.id));
        drop(timeout(PATIENCE, listed).await.expect("the link is listed").unwrap());
        self.links.get(&record.name).unwrap()
    }

    /// The metrics as text.
    pub(super) fn metrics(&self) -> String {
        let (mut registry, mut text) = (prometheus_client::registry::Registry::default(), String::new());
        self.links.register_metrics(&mut registry);
        self.links.refresh_metrics();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        text
    }

    pub(super) fn rescans(&self) -> usize {
        self.rescans.load(Ordering::SeqCst)
    }
}

/// Starts a peer and a link to it that is active.
pub(super) async fn connected(settings: &LinkSettings) -> (Peer, LinkRig, LinkHandle) {
    let (peer, rig) = (Peer::start("shop").await, LinkRig::new(settings));
    let handle = rig.link(&peer.record).await;
    reaches(&handle, LinkState::Active).await;
    (peer, rig, handle)
}

/// Waits until the link is in this state.
pub(super) async fn reaches(handle: &LinkHandle, state: LinkState) -> Arc<LinkStatus> {
    becomes(handle, &format!("{state:?}"), |status| status.state == state).await
}

/// Waits until the link has a failure of this kind.
pub(super) async fn fails(handle: &LinkHandle, kind: FailureKind) -> Arc<LinkStatus> {
    let failed = |status: &LinkStatus| status.last_failure.as_ref().is_some_and(|failure| failure.kind == kind);
    becomes(handle, &format!("{kind:?}"), failed).await
}

pub(super) async fn becomes(handle: &LinkHandle, what: &str, is: impl Fn(&LinkStatus) -> bool) -> Arc<LinkStatus> {
    let mut status = handle.status();
    let waited = timeout(PATIENCE, status.wait_for(|status| is(status))).await;
    let found = waited.ok().map(|ended| Arc::clone(&ended.expect("the link lives")));
    found.unwrap_or_else(|| panic!("never {what}; last: {:#?}", handle.status().borrow()))
}

/// Waits until a number that the peer counts satisfies `right`.
pub(super) async fn counts(what: &str, counter: &AtomicUsize, right: impl Fn(usize) -> bool) {
    let waited = timeout(PATIENCE, async {
        while !right(counter.load(Ordering::SeqCst)) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("{what} stayed at {}", counter.load(Ordering::SeqCst)));
}

pub(super) fn request(path: &str, body: &'static str) -> Request<Body> {
    Request::post(path).body(Full::from(body).map_err(BoxError::from).boxed_unsync()).unwrap()
}

/// Sends one request and reads its whole response.
pub(super) async fn call(handle: &LinkHandle, path: &str, body: &'static str) -> Result<Bytes, SendError> {
    let response = handle.request(request(path, body)).await?;
    response.into_body().collect().await.map(|body| body.to_bytes()).map_err(SendError::Interrupted)
}
