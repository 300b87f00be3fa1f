//! When a byte was last read from a connection.
//!
//! A PING may be answered late because its answer waits behind a large message. Bytes that arrive show that the peer is
//! alive, whatever they belong to, so the machine looks at them as well. Only bytes that were read count.
//!
//! A link that gives up a silent connection aborts it here, so that every caller who still waits on it gets an error.
//! Otherwise its streams would wait as long as TCP does.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// The time of the last read from one connection. The connection writes it, the link reads it.
#[derive(Debug, Clone)]
pub(super) struct LastRead {
    created: Instant,
    micros_after: Arc<AtomicU64>,
    abort: CancellationToken,
}

impl LastRead {
    pub(super) fn now() -> Self {
        Self { created: Instant::now(), micros_after: Arc::default(), abort: CancellationToken::new() }
    }

    pub(super) fn at(&self) -> Instant {
        self.created + Duration::from_micros(self.micros_after.load(Ordering::Relaxed))
    }

    /// Ends the connection and every stream on it.
    pub(super) fn abort_connection(&self) {
        self.abort.cancel();
    }

    fn update(&self) {
        let after = u64::try_from(self.created.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.micros_after.store(after, Ordering::Relaxed);
    }
}

/// A socket that records in a [`LastRead`] when it was read from.
#[derive(Debug)]
pub(super) struct ActivityTracked<IO> {
    io: IO,
    last_read: LastRead,
    aborted: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl<IO> ActivityTracked<IO> {
    pub(super) fn new(io: IO, last_read: LastRead) -> Self {
        let aborted = Box::pin(last_read.abort.clone().cancelled_owned());
        Self { io, last_read, aborted }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for ActivityTracked<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if self.aborted.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(std::io::ErrorKind::TimedOut.into()));
        }
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.last_read.update();
        }
        polled
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for ActivityTracked<IO> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
