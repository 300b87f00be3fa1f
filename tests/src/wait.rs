//! Waiting for a condition.
//!
//! Owns [`until`]. Invariant: a wait ends at its bound and its error tells the last state that was seen, because "timed
//! out" alone explains nothing. Never: is used where an event could be awaited instead.

use anyhow::{Context, Result, anyhow};
use std::time::Duration;
use tokio::time::Instant;

/// How often a condition is looked at: often enough that a measured recovery is not blurred by it.
const PERIOD: Duration = Duration::from_millis(5);

/// Looks at `probe` until it answers `Ok`, at most `within`. Its error is the state that was seen instead.
///
/// # Errors
/// When the condition did not come; with the last state.
pub async fn until<T>(what: &str, within: Duration, mut probe: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + within;
    let mut last = anyhow!("never looked at");
    loop {
        match tokio::time::timeout_at(deadline, probe()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(state)) => last = state,
            Err(_) => return Err(last).with_context(|| format!("{what}: the look itself hung; {within:?} passed")),
        }
        if Instant::now() >= deadline {
            return Err(last).with_context(|| format!("{what}: not within {within:?}; the last state follows"));
        }
        tokio::time::sleep(PERIOD).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::ensure;

    #[tokio::test(start_paused = true)]
    async fn the_last_state_is_told() {
        let mut looks = 0;
        let error = until("the moon", Duration::from_secs(1), async || -> Result<()> {
            looks += 1;
            ensure!(looks > 1000, "half, look {looks}");
            Ok(())
        })
        .await
        .unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("the moon") && text.contains("half, look 20"), "{text}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_that_hangs_ends_at_the_bound() {
        let error = until("nothing", Duration::from_secs(1), async || std::future::pending::<Result<()>>().await).await;
        assert!(format!("{:#}", error.unwrap_err()).contains("hung"));
    }
}
