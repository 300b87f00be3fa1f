//! When the hub stops: after a signal, or when the API asks for it.
//!
//! There are two tokens: the first one stops the hub, and the second one ends its waiting. The first reason starts the
//! one and only stop, and any signal after it cancels the second token.

use linchpin_shared::panics;
use linchpin_shared::problem::{Code, Problem};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The two tokens.
#[derive(Debug, Clone)]
pub(super) struct StopTokens {
    stop: CancellationToken,
    force: CancellationToken,
}

impl StopTokens {
    /// Listens to SIGTERM, SIGINT and SIGHUP from now on.
    ///
    /// # Errors
    /// If the system refuses signal handlers.
    pub(super) fn on_signals() -> Result<Self, Problem> {
        let stop = Self { stop: CancellationToken::new(), force: CancellationToken::new() };
        let listen =
            |kind| signal(kind).map_err(|error| Problem::from_io(&error, Code::Internal, "cannot listen to signals"));
        let signals =
            [listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?, listen(SignalKind::hangup())?];
        for signal in signals {
            tokio::spawn(stop.clone().on_signal(signal));
        }
        Ok(stop)
    }

    /// Is cancelled when the hub stops. Cancelling it stops the hub.
    pub(super) fn token(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Is cancelled when the hub must not wait any longer.
    pub(super) const fn force(&self) -> &CancellationToken {
        &self.force
    }

    /// A panic in any task stops the hub, because only a part of it would continue. Such a stop does not count as one
    /// on purpose.
    pub(super) async fn on_panic(self) {
        // Only a panic or the end of the hub ends this.
        let stopped = self.stop.clone();
        if panics::unless("hub", stopped.cancelled_owned()).await.is_none() {
            self.stop.cancel();
        }
    }

    async fn on_signal(self, mut signal: Signal) {
        while signal.recv().await.is_some() {
            if self.stop.is_cancelled() {
                tracing::info!("received a second signal: no longer waiting for requests");
                self.force.cancel();
            } else {
                tracing::info!("received a signal: the hub stops");
                self.stop.cancel();
            }
        }
    }
}
