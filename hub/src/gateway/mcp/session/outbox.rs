//! Messages that wait for a client's stream.
//!
//! Owns [`Outbox`], a bounded queue of events, and [`OutboxReader`], the one stream that empties it.
//! Invariant: at most one reader gets messages, the newest; an earlier one ends. When the queue is full the oldest
//! message goes, so a client that never opens its stream costs a bounded amount of memory. What was sent under an id is
//! kept within the same bounds, for a reader that missed it.
//! Never: waits for a reader.

use crate::gateway::mcp::protocol::sse;
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::Notify;

/// Enough for a burst of log messages; a client that has more waiting is not reading.
const MAX_MESSAGES: usize = 256;

/// A queue of large log messages ends here first.
const MAX_BYTES: usize = 4 << 20;

/// Messages that wait for a client's stream.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    queue: Mutex<OutboxQueue>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct OutboxQueue {
    events: VecDeque<Bytes>,
    bytes: usize,
    /// The reader that gets messages, counted from 1; zero before the first.
    reader: u64,
    readers: u64,
    closed: bool,
    /// What was sent last under ids, to be sent again to who asks for it.
    sent: VecDeque<(u64, Bytes)>,
    sent_bytes: usize,
    last_sent: u64,
}

impl OutboxQueue {
    /// Gives an event its id and keeps it.
    fn numbered(&mut self, prefix: &str, event: &[u8]) -> Bytes {
        self.last_sent += 1;
        let event = sse::with_id(&format!("{prefix}-{}", self.last_sent), event);
        self.sent_bytes += event.len();
        self.sent.push_back((self.last_sent, event.clone()));
        while self.sent.len() > MAX_MESSAGES || self.sent_bytes > MAX_BYTES {
            let gone = self.sent.pop_front().map_or(0, |(_, event)| event.len());
            self.sent_bytes -= gone;
        }
        event
    }

    fn push(&mut self, event: Bytes) {
        self.bytes += event.len();
        self.events.push_back(event);
        while self.events.len() > MAX_MESSAGES || (self.bytes > MAX_BYTES && self.events.len() > 1) {
            if self.pop().is_some() {
                tracing::debug!("a client does not read its stream: its oldest message was dropped");
            }
        }
    }

    fn pop(&mut self) -> Option<Bytes> {
        let event = self.events.pop_front()?;
        self.bytes -= event.len();
        Some(event)
    }
}

impl Outbox {
    /// Adds a message.
    pub(crate) fn push(&self, message: &str) {
        self.queue.lock().push(sse::encode(message));
        self.wake.notify_waiters();
    }

    /// Adds a message unless the same one waits already.
    pub(crate) fn push_once(&self, message: &str) {
        let event = sse::encode(message);
        let mut queue = self.queue.lock();
        if !queue.events.contains(&event) {
            queue.push(event);
        }
        drop(queue);
        self.wake.notify_waiters();
    }

    /// Whether somebody reads.
    pub(crate) fn is_read(&self) -> bool {
        self.queue.lock().readers > 0
    }

    /// Ends the reader, and every later one.
    pub(crate) fn close(&self) {
        self.queue.lock().closed = true;
        self.wake.notify_waiters();
    }

    /// Becomes the reader in place of an earlier one, without ids.
    #[cfg(test)]
    pub(crate) fn read(outbox: &Arc<Self>) -> OutboxReader {
        Self::read_as(outbox, None, u64::MAX)
    }

    /// Becomes the reader in place of an earlier one. With a prefix its events have ids, and it begins after the event of
    /// this number, as far as later ones are kept.
    pub(crate) fn read_as(outbox: &Arc<Self>, prefix: Option<String>, after: u64) -> OutboxReader {
        let mut queue = outbox.queue.lock();
        queue.reader += 1;
        queue.readers += 1;
        let number = queue.reader;
        let again = queue.sent.iter().filter(|(sent, _)| *sent > after).map(|(_, event)| event.clone()).collect();
        drop(queue);
        outbox.wake.notify_waiters();
        OutboxReader { outbox: Arc::clone(outbox), number, prefix, again }
    }
}

/// The stream that empties an outbox.
#[derive(Debug)]
pub(crate) struct OutboxReader {
    outbox: Arc<Outbox>,
    number: u64,
    prefix: Option<String>,
    /// What was sent before and may not have arrived.
    again: VecDeque<Bytes>,
}

impl OutboxReader {
    /// The next event; none when another reader came or the session ended. May be dropped and called again.
    pub(crate) async fn next(&mut self) -> Option<Bytes> {
        loop {
            let woken = self.outbox.wake.notified();
            let mut woken = std::pin::pin!(woken);
            // From here on no wake-up is missed, so looking first and waiting after is safe.
            woken.as_mut().enable();
            {
                let mut queue = self.outbox.queue.lock();
                if queue.closed || queue.reader != self.number {
                    return None;
                }
                if let Some(event) = self.again.pop_front() {
                    return Some(event);
                }
                if let Some(event) = queue.pop() {
                    let numbered = self.prefix.as_ref().map(|prefix| queue.numbered(prefix, &event));
                    return Some(numbered.unwrap_or(event));
                }
            }
            woken.await;
        }
    }
}

impl Drop for OutboxReader {
    fn drop(&mut self) {
        self.outbox.queue.lock().readers -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_waiting_reader_gets_what_comes_and_ends_when_replaced() {
        let outbox = Arc::new(Outbox::default());
        let mut reader = Outbox::read(&outbox);
        let waiting = tokio::spawn(async move { (reader.next().await, reader.next().await) });
        while Arc::strong_count(&outbox) < 2 || !outbox.is_read() {
            tokio::task::yield_now().await;
        }
        outbox.push("1");
        let (mut taken, mut spins) = (false, 0);
        while !taken && spins < 10_000 {
            taken = outbox.queue.lock().events.is_empty();
            spins += 1;
            tokio::task::yield_now().await;
        }
        let second = Outbox::read(&outbox);
        assert_eq!(waiting.await.unwrap(), (Some(sse::encode("1")), None));
        assert!(outbox.is_read());
        drop(second);
        assert!(!outbox.is_read());
    }

    #[tokio::test]
    async fn the_oldest_goes_first_when_nobody_reads() {
        let outbox = Arc::new(Outbox::default());
        for n in 0..MAX_MESSAGES + 2 {
            outbox.push(&n.to_string());
        }
        assert_eq!(Outbox::read(&outbox).next().await, Some(sse::encode("2")));
        outbox.push(&"x".repeat(MAX_BYTES));
        assert_eq!(outbox.queue.lock().events.len(), 1);
    }

    #[tokio::test]
    async fn a_closed_outbox_ends_its_reader() {
        let outbox = Arc::new(Outbox::default());
        outbox.push("1");
        outbox.close();
        assert_eq!(Outbox::read(&outbox).next().await, None);
    }
}
