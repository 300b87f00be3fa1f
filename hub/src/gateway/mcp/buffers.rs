//! How much of clients' messages is in memory at once.
//!
//! Owns [`MessageBudget`], a count of bytes for the whole hub, and [`BufferPermit`], the part of one message. What is counted is what has
//! come, not what was announced, so who announces much and sends little takes nothing from others.
//! Invariant: a message is counted from its first byte until its request is over. Never: waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The memory for messages of clients.
#[derive(Debug)]
pub(crate) struct MessageBudget {
    most: usize,
    held: AtomicUsize,
}

/// There is no room for more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BudgetExceeded;

/// The part of one message.
#[derive(Debug)]
pub(crate) struct BufferPermit {
    buffers: Arc<MessageBudget>,
    bytes: usize,
}

impl MessageBudget {
    /// Room for so many bytes.
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, held: AtomicUsize::new(0) })
    }

    /// For a message of which nothing came yet.
    pub(crate) fn begin(buffers: &Arc<Self>) -> BufferPermit {
        BufferPermit { buffers: Arc::clone(buffers), bytes: 0 }
    }
}

impl BufferPermit {
    /// For how many bytes there is room in all.
    pub(crate) fn most(&self) -> usize {
        self.buffers.most
    }

    /// More of the message came.
    pub(crate) fn grow(&mut self, bytes: usize) -> Result<(), BudgetExceeded> {
        let held = self.buffers.held.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.bytes += bytes;
        if held > self.buffers.most { Err(BudgetExceeded) } else { Ok(()) }
    }
}

impl Drop for BufferPermit {
    fn drop(&mut self) {
        self.buffers.held.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_counts_until_it_is_over() {
        let buffers = MessageBudget::new(100);
        let (mut one, mut other) = (MessageBudget::begin(&buffers), MessageBudget::begin(&buffers));
        assert_eq!((one.grow(60), other.grow(40), other.grow(1)), (Ok(()), Ok(()), Err(BudgetExceeded)));
        drop(other);
        assert_eq!(one.grow(40), Ok(()));
        drop(one);
        assert_eq!(MessageBudget::begin(&buffers).grow(100), Ok(()));
    }
}
