//! How much of clients' messages is in memory at once.
//!
//! Owns [`Buffers`], a count of bytes for the whole hub, and [`Held`], the part of one message. What is counted is what has
//! come, not what was announced, so who announces much and sends little takes nothing from others.
//! Invariant: a message is counted from its first byte until its request is over. Never: waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The memory for messages of clients.
#[derive(Debug)]
pub(crate) struct Buffers {
    most: usize,
    held: AtomicUsize,
}

/// There is no room for more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NoRoom;

/// The part of one message.
#[derive(Debug)]
pub(crate) struct Held {
    buffers: Arc<Buffers>,
    bytes: usize,
}

impl Buffers {
    /// Room for so many bytes.
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, held: AtomicUsize::new(0) })
    }

    /// For a message of which nothing came yet.
    pub(crate) fn begin(buffers: &Arc<Self>) -> Held {
        Held { buffers: Arc::clone(buffers), bytes: 0 }
    }
}

impl Held {
    /// For how many bytes there is room in all.
    pub(crate) fn most(&self) -> usize {
        self.buffers.most
    }

    /// More of the message came.
    pub(crate) fn grow(&mut self, bytes: usize) -> Result<(), NoRoom> {
        let held = self.buffers.held.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.bytes += bytes;
        if held > self.buffers.most { Err(NoRoom) } else { Ok(()) }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.buffers.held.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_counts_until_it_is_over() {
        let buffers = Buffers::new(100);
        let (mut one, mut other) = (Buffers::begin(&buffers), Buffers::begin(&buffers));
        assert_eq!((one.grow(60), other.grow(40), other.grow(1)), (Ok(()), Ok(()), Err(NoRoom)));
        drop(other);
        assert_eq!(one.grow(40), Ok(()));
        drop(one);
        assert_eq!(Buffers::begin(&buffers).grow(100), Ok(()));
    }
}
