//! The signals that ask an agent or a keeper to end: SIGTERM, SIGINT (Ctrl-C) and SIGHUP (the terminal was closed).
//!
//! From [`Signals::listen`] on, none of them ends the process by itself. What follows is up to the caller, for whom a
//! first and a second signal mean different things.

use linchpin_shared::problem::{Code, Problem};
use std::future::Future;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// A listener for these signals.
#[derive(Debug)]
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    /// Starts to listen.
    pub(crate) fn listen() -> Result<Self, Problem> {
        let listen = |kind| {
            signal(kind).map_err(|error| {
                Problem::from_io(&error, Code::Internal, "cannot listen for signals").next("ulimit -n")
            })
        };
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hang_up: listen(SignalKind::hangup())?,
        })
    }

    /// Waits for the next signal and returns its name.
    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.hang_up.recv() => "SIGHUP",
        }
    }

    /// Awaits `work`. If a signal arrives first, `work` is dropped and the name of the signal is the error.
    pub(crate) async fn or_signal<T>(&mut self, work: impl Future<Output = T>) -> Result<T, &'static str> {
        tokio::select! {
            biased;
            signal = self.next() => Err(signal),
            done = work => Ok(done),
        }
    }
}
