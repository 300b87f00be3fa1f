//! Places for connections: so many and no more, and who does nothing with a place gives way.
//!
//! Owns [`Seats`]: how many connections of a listener are served at once, and which of them are idle. A bound alone
//! would let a program that only holds connections open shut all others out (slowloris); here a newcomer gets the place
//! of whoever has been idle longest: said nothing, is still sending a request's head, or waits between two requests.
//! Invariant: no more seats are taken than there are; a busy connection is never asked to leave.
//! Never: closes a connection. Whoever serves it hears of it by [`Seat::asked_to_leave`] and ends it.

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

/// The seats of one listener.
#[derive(Debug)]
pub struct Seats {
    most: usize,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    /// Counts what happens: names the seats, and tells who became idle before whom.
    clock: u64,
    taken: HashMap<u64, Taken>,
}

#[derive(Debug)]
struct Taken {
    /// Requests that are being served.
    requests: usize,
    /// When the last of them ended, or the seat was taken.
    idle_since: u64,
    leave: Arc<Notify>,
}

/// A place. Dropping it gives it back.
#[derive(Debug)]
pub struct Seat {
    seats: Arc<Seats>,
    number: u64,
    leave: Arc<Notify>,
}

/// A request that is being served. While it is held its connection is not asked to leave.
#[derive(Debug)]
struct Busy(Arc<Seat>);

impl Seats {
    /// So many seats, all free.
    #[must_use]
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, table: Mutex::default() })
    }

    /// A seat for a newcomer; when all are taken, that of the connection that is idle longest, which is asked to leave.
    /// `None` when all are busy.
    #[must_use]
    pub fn take(self: &Arc<Self>) -> Option<Arc<Seat>> {
        let mut table = self.table.lock();
        if table.taken.len() >= self.most {
            table.free_one()?;
        }
        let number = table.tick();
        let leave = Arc::new(Notify::new());
        table.taken.insert(number, Taken { requests: 0, idle_since: number, leave: Arc::clone(&leave) });
        Some(Arc::new(Seat { seats: Arc::clone(self), number, leave }))
    }

    /// A request begins. A seat that was given to another in this moment is not there: it ends with its connection.
    fn begin(&self, number: u64) {
        if let Some(taken) = self.table.lock().taken.get_mut(&number) {
            taken.requests += 1;
        }
    }
}

impl Table {
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// Looks at all of them, which is cheap beside accepting a connection, and done only when all are taken.
    fn free_one(&mut self) -> Option<()> {
        let idle = self.taken.iter().filter(|(_, taken)| taken.requests == 0);
        let (number, _) = idle.min_by_key(|(_, taken)| taken.idle_since)?;
        let number = *number;
        self.taken.remove(&number)?.leave.notify_one();
        Some(())
    }
}

impl Seat {
    /// Comes back when the seat was given to another connection; this one is to end.
    pub async fn asked_to_leave(&self) {
        self.leave.notified().await;
    }

    /// The app on this seat, which is busy from the head of a request to the last byte of its answer.
    pub fn serving(
        self: &Arc<Self>,
        app: Router,
    ) -> impl Service<Request<Incoming>, Response = Response, Error = Infallible, Future: Send> + use<> {
        let (seat, app) = (Arc::clone(self), TowerToHyperService::new(app));
        service_fn(move |request| {
            let busy = seat.busy();
            let answer = app.call(request);
            async move { Ok(answer.await?.map(|body| until_sent(body, busy))) }
        })
    }

    /// Never to be asked to leave from now on.
    pub fn keep(&self) {
        self.seats.begin(self.number);
    }

    fn busy(self: &Arc<Self>) -> Busy {
        self.seats.begin(self.number);
        Busy(Arc::clone(self))
    }
}

/// Keeps the connection busy until this body was sent or given up.
fn until_sent(body: Body, busy: Busy) -> Body {
    // Of the adapters at hand the one that passes on everything, the length too; there is nothing to map.
    Body::new(body.map_err(move |error| {
        let _held = &busy;
        error
    }))
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut table = self.0.seats.table.lock();
        let now = table.tick();
        if let Some(taken) = table.taken.get_mut(&self.0.number) {
            taken.requests -= 1;
            taken.idle_since = now;
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.seats.table.lock().taken.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    fn asked(seat: &Seat) -> bool {
        seat.asked_to_leave().now_or_never().is_some()
    }

    #[test]
    fn the_longest_idle_gives_way() {
        let seats = Seats::new(2);
        let (first, second) = (seats.take().unwrap(), seats.take().unwrap());
        drop(first.busy());
        let third = seats.take().unwrap();
        assert!(!asked(&first) && asked(&second), "the second said nothing since the first was served");
        drop(second);
        assert_eq!(seats.table.lock().taken.len(), 2, "its place is the third's");
        drop((first, third));
        assert!(seats.table.lock().taken.is_empty());
    }

    #[test]
    fn the_busy_stay() {
        let seats = Seats::new(1);
        let only = seats.take().unwrap();
        let (one, two) = (only.busy(), only.busy());
        drop(one);
        assert!(seats.take().is_none());
        drop(two);
        let next = seats.take().unwrap();
        assert!(asked(&only));
        next.keep();
        assert!(seats.take().is_none());
    }

    #[test]
    fn a_request_of_one_who_had_to_leave_counts_for_nobody() {
        let seats = Seats::new(1);
        let first = seats.take().unwrap();
        let second = seats.take().unwrap();
        let late = first.busy();
        assert!(seats.take().is_some() && asked(&second));
        drop(late);
    }
}
