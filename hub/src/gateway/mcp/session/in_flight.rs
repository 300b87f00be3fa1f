//! The requests of one client that are under way.
//!
//! Owns [`InFlight`], by the client's own ids, so that a cancellation finds its request.
//! Invariant: an entry lives exactly as long as its [`InFlightEntry`]; of two requests under one id the later one is found.
//! Never: cancels by dropping. The request itself decides what a cancellation means.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::oneshot;

/// More than any agent has under way at once.
const MAX: usize = 1024;

/// The requests of one client that are under way.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    table: Arc<Mutex<InFlightTable>>,
}

#[derive(Debug, Default)]
struct InFlightTable {
    entries: HashMap<String, (u64, oneshot::Sender<String>)>,
    last: u64,
}

/// Too many requests are under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooManyInFlight;

impl InFlight {
    /// Begins a request of this id, as JSON.
    pub(crate) fn begin(&self, id: &str) -> Result<InFlightEntry, TooManyInFlight> {
        let (cancel, cancelled) = oneshot::channel();
        let mut table = self.table.lock();
        if table.entries.len() >= MAX {
            return Err(TooManyInFlight);
        }
        table.last += 1;
        let number = table.last;
        table.entries.insert(id.to_owned(), (number, cancel));
        Ok(InFlightEntry { table: Arc::clone(&self.table), id: id.to_owned(), number, cancelled: Some(cancelled) })
    }

    /// Hands the client's cancellation to the request of this id. A late one is nobody's.
    pub(crate) fn cancel(&self, id: &str, notification: String) {
        if let Some((_, cancel)) = self.table.lock().entries.remove(id) {
            // A request that has just ended needs no cancellation.
            let _ = cancel.send(notification);
        }
    }

    /// How many are under way.
    pub(crate) fn len(&self) -> usize {
        self.table.lock().entries.len()
    }
}

/// A request under way.
#[derive(Debug)]
pub(crate) struct InFlightEntry {
    table: Arc<Mutex<InFlightTable>>,
    id: String,
    number: u64,
    cancelled: Option<oneshot::Receiver<String>>,
}

impl InFlightEntry {
    /// Waits for the client's cancellation and gives its text. Pending for ever once it was given, or if none comes.
    pub(crate) async fn cancelled(&mut self) -> String {
        if let Some(cancelled) = &mut self.cancelled {
            let given = cancelled.await;
            self.cancelled = None;
            if let Ok(notification) = given {
                return notification;
            }
        }
        std::future::pending().await
    }
}

impl Drop for InFlightEntry {
    fn drop(&mut self) {
        let mut table = self.table.lock();
        if table.entries.get(&self.id).is_some_and(|(number, _)| *number == self.number) {
            table.entries.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_cancellation_finds_the_latest_request_of_its_id() {
        let in_flight = InFlight::default();
        let first = in_flight.begin("1").unwrap();
        let mut second = in_flight.begin("1").unwrap();
        drop(first);
        in_flight.cancel("2", String::from("other"));
        in_flight.cancel("1", String::from("stop"));
        assert_eq!(second.cancelled().await, "stop");
        drop(second);
        assert_eq!(in_flight.len(), 0);
    }

    #[test]
    fn there_is_a_bound() {
        let in_flight = InFlight::default();
        let entries: Vec<_> = (0..MAX).map(|n| in_flight.begin(&n.to_string()).unwrap()).collect();
        assert_eq!(in_flight.begin("x").unwrap_err(), TooManyInFlight);
        drop(entries);
        assert!(in_flight.begin("x").is_ok());
    }
}
