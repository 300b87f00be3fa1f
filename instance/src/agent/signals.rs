//! The signals that ask an agent or a keeper to end.
//!
//! Owns the set: SIGTERM, SIGINT (Ctrl-C) and SIGHUP (the terminal closed).
//! Invariant: from [`Signals::listen`] on none of them ends the process by itself.
//! Never: decides what follows; the first and the second mean different things to who asks.

use linchpin_shared::problem::{Code, Problem};
use std::future::Future;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals.
#[derive(Debug)]
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    /// Begins to listen.
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

    /// The name of the next one.
    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.hang_up.recv() => "SIGHUP",
        }
    }

    /// Does `work`, unless one of them comes first: then it is dropped, and the signal's name is the error.
    pub(crate) async fn unless_heard<T>(&mut self, work: impl Future<Output = T>) -> Result<T, &'static str> {
        tokio::select! {
            biased;
            signal = self.next() => Err(signal),
            done = work => Ok(done),
        }
    }
}
