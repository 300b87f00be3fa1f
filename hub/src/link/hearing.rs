//! Signs of life: when a byte came over a connection last.
//!
//! Owns [`Heard`], a clock that the connection sets and the link reads, and [`Hearing`], the socket that sets it.
//! A PING is answered or not, and the answer may be long in coming behind a large message; bytes that arrive show life
//! whatever they belong to. A link that gives a silent connection up cuts it here, so that whoever still waits on it is
//! told; without that its streams would wait for ever, since TCP may take the silence for patience.
//! Invariant: only bytes that were read count. Never: reads or writes anything by itself.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// When something was heard last.
#[derive(Debug, Clone)]
pub(super) struct Heard {
    began: Instant,
    after_micros: Arc<AtomicU64>,
    cut: CancellationToken,
}

impl Heard {
    pub(super) fn now() -> Self {
        Self { began: Instant::now(), after_micros: Arc::default(), cut: CancellationToken::new() }
    }

    pub(super) fn last(&self) -> Instant {
        self.began + Duration::from_micros(self.after_micros.load(Ordering::Relaxed))
    }

    /// Ends the connection, and with it every stream on it.
    pub(super) fn cut(&self) {
        self.cut.cancel();
    }

    fn mark(&self) {
        let after = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.after_micros.store(after, Ordering::Relaxed);
    }
}

/// A socket that notes when it is read from.
#[derive(Debug)]
pub(super) struct Hearing<T> {
    io: T,
    heard: Heard,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl<T> Hearing<T> {
    pub(super) fn new(io: T, heard: Heard) -> Self {
        let cut = Box::pin(heard.cut.clone().cancelled_owned());
        Self { io, heard, cut }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Hearing<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if self.cut.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(std::io::ErrorKind::TimedOut.into()));
        }
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.heard.mark();
        }
        polled
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Hearing<T> {
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
