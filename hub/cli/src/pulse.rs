//! Whether a hub that owes an answer is still there.
//!
//! Owns [`Pulse`], the probes of one hub life: while a message waits for its answer, the hub is asked for its health once
//! a second, by one of all who wait. A hub that runs answers at once however long the message itself takes, so a call
//! may take hours; a hub that is stopped (SIGSTOP, a debugger, a machine without memory) leaves probe after probe open.
//! Invariant: silence is counted in probes, not in time. Whoever was stopped together with the hub has missed one.
//! Never: decides that the hub is dead. It may be continued and go on where it was.

use tokio::sync::Mutex;
use tokio::time::{Duration, Instant, sleep};

/// The time between two probes, and for the answer to one.
const PERIOD: Duration = Duration::from_secs(1);

/// So many unanswered probes in a row are silence. Five seconds without a sign of life are more than a starved machine
/// needs, and a person waits that long for an error.
const SILENT: u32 = 5;

/// The probes of one hub life.
#[derive(Default)]
pub(super) struct Pulse(Mutex<Probes>);

#[derive(Default)]
struct Probes {
    missed: u32,
    last: Option<Instant>,
}

impl Pulse {
    /// Ends when the hub is silent. The first probe is after a second: most messages are answered by then.
    pub(super) async fn silence<F: Future<Output = bool>>(&self, health: impl Fn(Duration) -> F) {
        loop {
            sleep(PERIOD).await;
            let mut probes = self.0.lock().await;
            // While we waited for the lock another one asked.
            if probes.last.is_none_or(|last| last.elapsed() >= PERIOD) {
                let answered = health(PERIOD).await;
                probes.missed = if answered { 0 } else { probes.missed + 1 };
                probes.last = Some(Instant::now());
            }
            if probes.missed >= SILENT {
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
    async fn a_hub_that_answers_is_waited_for_as_long_as_it_takes() {
        let pulse = Pulse::default();
        let hour = Duration::from_secs(3600);
        assert!(tokio::time::timeout(hour, pulse.silence(async |_within| true)).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_told_within_its_bound_to_all_who_wait_by_one_who_asks() {
        let (pulse, asked, began) = (Pulse::default(), AtomicU32::new(0), Instant::now());
        let wait = || {
            pulse.silence(|within| {
                asked.fetch_add(1, Ordering::SeqCst);
                unanswered(within)
            })
        };
        tokio::join!(wait(), wait(), wait());
        assert!(began.elapsed() <= PERIOD * (2 * SILENT + 1), "{:?}", began.elapsed());
        assert_eq!(asked.load(Ordering::SeqCst), SILENT);
        // Who comes later asks once more, and need not wait as long.
        let began = Instant::now();
        wait().await;
        assert!(began.elapsed() <= PERIOD * 2);
        assert_eq!(asked.load(Ordering::SeqCst), SILENT + 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_that_ends_is_no_silence() {
        let (pulse, asked) = (Pulse::default(), AtomicU32::new(0));
        let health = |within| {
            let number = asked.fetch_add(1, Ordering::SeqCst) + 1;
            async move { number.is_multiple_of(SILENT) || unanswered(within).await }
        };
        assert!(tokio::time::timeout(Duration::from_secs(600), pulse.silence(health)).await.is_err());
    }
}
