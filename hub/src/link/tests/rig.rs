//! Links with a registry that the test writes by hand, and waits that tell the last state when they fail.

use super::peer::Peer;
use crate::discovery::{Found, Snapshot};
use crate::link::{Body, BoxError, Handle, Links, RequestError, State, Status};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use linchpin_shared::failure::Kind;
use linchpin_shared::registry::Owner;
use linchpin_shared::registry::record::Record;
use linchpin_shared::settings::{self, Settings};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// Longer than anything here takes on a busy machine. Nothing waits for it to pass.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

pub(super) struct Rig {
    pub(super) links: Links,
    snapshot: watch::Sender<Arc<Snapshot>>,
    nudges: Arc<AtomicUsize>,
    _cancel: DropGuard,
}

/// Settings with short times, so that what takes seconds in life takes a moment here.
pub(super) fn quick() -> settings::Link {
    settings::Link {
        hello_timeout: Duration::from_millis(300),
        ping_interval: Duration::from_secs(5),
        backoff_min: Duration::from_millis(5),
        ..Settings::default().link
    }
}

impl Rig {
    pub(super) fn new(settings: &settings::Link) -> Self {
        let (snapshot, seen) = watch::channel(Arc::new(Snapshot::default()));
        let (cancel, nudges) = (CancellationToken::new(), Arc::new(AtomicUsize::new(0)));
        let counted = Arc::clone(&nudges);
        let nudge = Box::new(move || {
            counted.fetch_add(1, Ordering::SeqCst);
        });
        let starter = Arc::new(crate::link::start::Nobody(watch::Sender::default()));
        let links = Links::spawn(seen, nudge, starter, settings, cancel.clone(), &TaskTracker::new());
        Self { links, snapshot, nudges, _cancel: cancel.drop_guard() }
    }

    /// Shows these records and no others.
    pub(super) fn show(&self, records: &[(&Record, Owner)]) {
        let found = |(record, owner): &(&Record, Owner)| {
            (record.id, Found { record: Arc::new(Record::clone(record)), owner: *owner })
        };
        let snapshot = Snapshot { instances: records.iter().map(found).collect(), ..Snapshot::default() };
        self.snapshot.send_replace(Arc::new(snapshot));
    }

    /// Shows this record alone and gives its link.
    pub(super) async fn link(&self, record: &Record) -> Handle {
        self.show(&[(record, Owner::Alive)]);
        let mut handles = self.links.watch();
        let listed = handles.wait_for(|list| list.iter().any(|handle| handle.id() == record.id));
        drop(timeout(PATIENCE, listed).await.expect("the link is listed").unwrap());
        self.links.get(&record.name).unwrap()
    }

    /// What was counted, as it is served.
    pub(super) fn metrics(&self) -> String {
        let (mut registry, mut text) = (prometheus_client::registry::Registry::default(), String::new());
        self.links.register(&mut registry);
        self.links.look();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        text
    }

    pub(super) fn nudges(&self) -> usize {
        self.nudges.load(Ordering::SeqCst)
    }
}

/// A peer and a link to it that is active.
pub(super) async fn connected(settings: &settings::Link) -> (Peer, Rig, Handle) {
    let (peer, rig) = (Peer::start("shop").await, Rig::new(settings));
    let handle = rig.link(&peer.record).await;
    reaches(&handle, State::Active).await;
    (peer, rig, handle)
}

/// Waits until the link is in this state.
pub(super) async fn reaches(handle: &Handle, state: State) -> Arc<Status> {
    becomes(handle, &format!("{state:?}"), |status| status.state == state).await
}

/// Waits until the link failed in this way.
pub(super) async fn fails(handle: &Handle, kind: Kind) -> Arc<Status> {
    let failed = |status: &Status| status.last_failure.as_ref().is_some_and(|failure| failure.kind == kind);
    becomes(handle, &format!("{kind:?}"), failed).await
}

pub(super) async fn becomes(handle: &Handle, what: &str, is: impl Fn(&Status) -> bool) -> Arc<Status> {
    let mut status = handle.status();
    let waited = timeout(PATIENCE, status.wait_for(|status| is(status))).await;
    let found = waited.ok().map(|ended| Arc::clone(&ended.expect("the link lives")));
    found.unwrap_or_else(|| panic!("never {what}; last: {:#?}", handle.status().borrow()))
}

/// Waits until a number that the peer counts is right.
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

/// One request whose answer is read whole.
pub(super) async fn call(handle: &Handle, path: &str, body: &'static str) -> Result<Bytes, RequestError> {
    let response = handle.request(request(path, body)).await?;
    response.into_body().collect().await.map(|body| body.to_bytes()).map_err(RequestError::Interrupted)
}
