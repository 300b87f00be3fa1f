//! Probes whether a hub that has not answered yet still responds.
//!
//! While a message waits for its answer, one of all waiting callers asks for the health of the hub once a second. A
//! running hub answers a probe at once however long the message itself takes, so a call may take hours. A stopped hub
//! (SIGSTOP, a debugger, a machine out of memory) leaves one probe after another unanswered. The limit is a number of
//! probes and not a time, so a client that was stopped together with the hub counts one missed probe. A hub that does
//! not respond is not called dead, since it may continue later.

use tokio::sync::Mutex;
use tokio::time::{Duration, Instant, sleep};

/// The time between two probes, and the time within which a probe must be answered.
const PERIOD: Duration = Duration::from_secs(1);

/// After so many unanswered probes in a row the hub counts as unresponsive. A starved machine needs less than these
/// five seconds, and a person can wait that long for an error.
const MAX_MISSED: u32 = 5;

/// The probes over one connection to the hub.
#[derive(Default)]
pub(super) struct HealthProbe(Mutex<ProbeState>);

#[derive(Default)]
struct ProbeState {
    missed: u32,
    last: Option<Instant>,
}

impl HealthProbe {
    /// Returns when the hub does not respond. The first probe comes after a second, by when most messages are answered.
    pub(super) async fn unresponsive<F: Future<Output = bool>>(&self, health: impl Fn(Duration) -> F) {
        loop {
            sleep(PERIOD).await;
            let mut state = self.0.lock().await;
            // While this caller waited for the lock, another one may have probed.
            if state.last.is_none_or(|last| last.elapsed() >= PERIOD) {
                let answered = health(PERIOD).await;
                state.missed = if answered { 0 } else { state.missed + 1 };
                state.last = Some(Instant::now());
            }
            if state.missed >= MAX_MISSED {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    async fn unanswered(within: Duration) -> bool {
        sleep(within).await;
        false
    }

    #[tokio::test(start_paused = true)]
    async fn a_responsive_hub_is_waited_for_without_a_limit() {
        let probe = HealthProbe::default();
        let hour = Duration::from_secs(3600);
        assert!(tokio::time::timeout(hour, probe.unresponsive(async |_within| true)).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn one_caller_probes_for_all_who_wait() {
        let (probe, sent, started) = (HealthProbe::default(), AtomicU32::new(0), Instant::now());
        let wait = || {
            probe.unresponsive(|within| {
                sent.fetch_add(1, Ordering::SeqCst);
                unanswered(within)
            })
        };
        tokio::join!(wait(), wait(), wait());
        assert!(started.elapsed() <= PERIOD * (2 * MAX_MISSED + 1), "{:?}", started.elapsed());
        assert_eq!(sent.load(Ordering::SeqCst), MAX_MISSED);
        // A later caller probes once more, and need not wait as long.
        let started = Instant::now();
        wait().await;
        assert!(started.elapsed() <= PERIOD * 2);
        assert_eq!(sent.load(Ordering::SeqCst), MAX_MISSED + 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_hub_that_responds_in_time_is_not_unresponsive() {
        let (probe, sent) = (HealthProbe::default(), AtomicU32::new(0));
        let health = |within| {
            let number = sent.fetch_add(1, Ordering::SeqCst) + 1;
            async move { number.is_multiple_of(MAX_MISSED) || unanswered(within).await }
        };
        assert!(tokio::time::timeout(Duration::from_secs(600), probe.unresponsive(health)).await.is_err());
    }
}
