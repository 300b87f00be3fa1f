//! A limit on the connections of a listener, under which idle connections give way to new ones.
//!
//! A limit alone would let a program that only holds connections open lock all others out (slowloris). Here a new
//! connection takes the slot of the one that has been idle longest: that has sent nothing, is still sending the head of
//! a request, or waits between two requests. A busy connection never loses its slot. The connection is closed by
//! whoever serves it, once [`ConnectionPermit::evicted`] resolves.

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::service::TowerToHyperService;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use tokio::sync::Notify;

/// The connection slots of one listener.
#[derive(Debug)]
pub struct ConnectionSlots {
    limit: usize,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    /// Counts events: it numbers the slots and orders them by when they became idle.
    clock: u64,
    occupied: HashMap<u64, Slot>,
}

#[derive(Debug)]
struct Slot {
    /// How many requests are being served.
    requests: usize,
    /// When the last of them ended, or the slot was taken.
    idle_since: u64,
    evicted: Arc<Notify>,
}

/// The right of one connection to be served. Dropping it frees the slot.
#[derive(Debug)]
pub struct ConnectionPermit {
    slots: Arc<ConnectionSlots>,
    number: u64,
    evicted: Arc<Notify>,
}

/// Marks a request that is being served. Its connection is not evicted while this exists.
#[derive(Debug)]
struct ActiveRequest(Arc<ConnectionPermit>);

impl ConnectionSlots {
    /// Creates this many free slots.
    #[must_use]
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, table: Mutex::default() })
    }

    /// Gives a new connection a slot. When all are taken, the connection that has been idle longest is evicted; when
    /// all are busy, there is no permit.
    #[must_use]
    pub fn acquire(self: &Arc<Self>) -> Option<Arc<ConnectionPermit>> {
        let mut table = self.table.lock();
        if table.occupied.len() >= self.limit {
            table.evict_longest_idle()?;
        }
        let number = table.tick();
        let evicted = Arc::new(Notify::new());
        table.occupied.insert(number, Slot { requests: 0, idle_since: number, evicted: Arc::clone(&evicted) });
        Some(Arc::new(ConnectionPermit { slots: Arc::clone(self), number, evicted }))
    }

    /// Counts a request that begins. A connection that was evicted at the same moment has no slot any more; its request
    /// ends with it.
    fn begin_request(&self, number: u64) {
        if let Some(slot) = self.table.lock().occupied.get_mut(&number) {
            slot.requests += 1;
        }
    }
}

impl Table {
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// Searches all slots: that is cheap beside accepting a connection, and it happens only when all are taken.
    fn evict_longest_idle(&mut self) -> Option<()> {
        let idle = self.occupied.iter().filter(|(_, slot)| slot.requests == 0);
        let (number, _) = idle.min_by_key(|(_, slot)| slot.idle_since)?;
        let number = *number;
        self.occupied.remove(&number)?.evicted.notify_one();
        Some(())
    }
}

impl ConnectionPermit {
    /// Resolves when the slot was given to another connection; this one must then be closed.
    pub async fn evicted(&self) {
        self.evicted.notified().await;
    }

    /// Wraps an app for this connection, which counts as busy from the head of a request to the last byte of its
    /// response.
    pub fn serving(
        self: &Arc<Self>,
        app: Router,
    ) -> impl Service<Request<Incoming>, Response = Response, Error = Infallible, Future: Send> + use<> {
        let (permit, app) = (Arc::clone(self), TowerToHyperService::new(app));
        service_fn(move |request| {
            let active = permit.begin_request();
            let response = app.call(request);
            async move { Ok(response.await?.map(|body| until_sent(body, active))) }
        })
    }

    /// Protects this connection from eviction for the rest of its life.
    pub fn make_permanent(&self) {
        self.slots.begin_request(self.number);
    }

    fn begin_request(self: &Arc<Self>) -> ActiveRequest {
        self.slots.begin_request(self.number);
        ActiveRequest(Arc::clone(self))
    }
}

/// Keeps the request active until this body was sent or dropped.
fn until_sent(body: Body, active: ActiveRequest) -> Body {
    // Of the adapters at hand this is the one that passes everything on, the length too. There is nothing to map.
    Body::new(body.map_err(move |error| {
        let _held = &active;
        error
    }))
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        let mut table = self.0.slots.table.lock();
        let now = table.tick();
        if let Some(slot) = table.occupied.get_mut(&self.0.number) {
            slot.requests -= 1;
            slot.idle_since = now;
        }
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.slots.table.lock().occupied.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    fn is_evicted(permit: &ConnectionPermit) -> bool {
        permit.evicted().now_or_never().is_some()
    }

    #[test]
    fn the_longest_idle_connection_gives_way() {
        let slots = ConnectionSlots::new(2);
        let (first, second) = (slots.acquire().unwrap(), slots.acquire().unwrap());
        drop(first.begin_request());
        let third = slots.acquire().unwrap();
        assert!(!is_evicted(&first) && is_evicted(&second), "the second sent nothing since the first was served");
        drop(second);
        assert_eq!(slots.table.lock().occupied.len(), 2, "its slot belongs to the third");
        drop((first, third));
        assert!(slots.table.lock().occupied.is_empty());
    }

    #[test]
    fn busy_connections_stay() {
        let slots = ConnectionSlots::new(1);
        let only = slots.acquire().unwrap();
        let (one, two) = (only.begin_request(), only.begin_request());
        drop(one);
        assert!(slots.acquire().is_none());
        drop(two);
        let next = slots.acquire().unwrap();
        assert!(is_evicted(&only));
        next.make_permanent();
        assert!(slots.acquire().is_none());
    }

    #[test]
    fn a_request_of_an_evicted_connection_counts_for_no_other() {
        let slots = ConnectionSlots::new(1);
        let first = slots.acquire().unwrap();
        let second = slots.acquire().unwrap();
        let late = first.begin_request();
        assert!(slots.acquire().is_some() && is_evicted(&second));
        drop(late);
    }
}
