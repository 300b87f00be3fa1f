//! When the hub stops: a signal, or somebody who asks over the API.
//!
//! Owns the two tokens: the first says "stop", the second "hurry". Invariant: the first reason starts the one and only
//! stop; any signal after it hurries. Never: ends the process by itself.

use linchpin_shared::panics;
use linchpin_shared::problem::{Code, Problem};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The two tokens.
#[derive(Debug, Clone)]
pub(super) struct Stop {
    stop: CancellationToken,
    hurry: CancellationToken,
}

impl Stop {
    /// Listens to SIGTERM, SIGINT and SIGHUP from now on.
    ///
    /// # Errors
    /// When the system refuses signal handlers.
    pub(super) fn on_signals() -> Result<Self, Problem> {
        let stop = Self { stop: CancellationToken::new(), hurry: CancellationToken::new() };
        let listen =
            |kind| signal(kind).map_err(|error| Problem::from_io(&error, Code::Internal, "cannot listen to signals"));
        let signals =
            [listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?, listen(SignalKind::hangup())?];
        for signal in signals {
            tokio::spawn(stop.clone().heed(signal));
        }
        Ok(stop)
    }

    /// Cancelled when the hub stops. Whoever cancels it stops the hub.
    pub(super) fn token(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Cancelled when it must not wait any longer.
    pub(super) const fn hurry(&self) -> &CancellationToken {
        &self.hurry
    }

    /// A panic in any task stops the hub: it would be half a hub. That one was stopped on purpose is not said of it.
    pub(super) async fn heed_panics(self) {
        // Nothing ends this work but a panic or the end of the hub.
        let stopped = self.stop.clone();
        if panics::unless("hub", stopped.cancelled_owned()).await.is_none() {
            self.stop.cancel();
        }
    }

    async fn heed(self, mut signal: Signal) {
        while signal.recv().await.is_some() {
            if self.stop.is_cancelled() {
                tracing::info!("a second signal: not waiting for requests any longer");
                self.hurry.cancel();
            } else {
                tracing::info!("a signal: the hub stops");
                self.stop.cancel();
            }
        }
    }
}
