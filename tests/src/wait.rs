//! Waiting for a condition.
//!
//! A wait ends at its bound, and its error tells the last state that was seen, because "timed out" alone explains
//! nothing. Where an event can be awaited, await the event instead.

use anyhow::{Context, Result, anyhow};
use std::time::Duration;
use tokio::time::Instant;

/// How often a condition is checked: often enough that a measured recovery is not blurred by it.
const PERIOD: Duration = Duration::from_millis(5);

/// The usual bound of a wait on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Runs `probe` until it returns `Ok`, at most for `within`. The error of `probe` is the state that was seen instead.
///
/// # Errors
/// If the condition was not met in time; with the last state.
pub async fn until<T>(what: &str, within: Duration, mut probe: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + within;
    let mut last = anyhow!("the condition was never checked");
    loop {
        match tokio::time::timeout_at(deadline, probe()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(state)) => last = state,
            Err(_) => return Err(last).with_context(|| format!("{what}: the check itself hung; {within:?} passed")),
        }
        if Instant::now() >= deadline {
            return Err(last).with_context(|| format!("{what}: not within {within:?}; the last state follows"));
        }
        tokio::time::sleep(PERIOD).await;
    }
}

/// Runs `probe` again and again for `span`: for a condition that must hold all the time, which no event announces.
///
/// # Errors
/// The first error of `probe`.
pub async fn throughout(span: Duration, mut probe: impl AsyncFnMut() -> Result<()>) -> Result<()> {
    let end = Instant::now() + span;
    while Instant::now() < end {
        probe().await?;
        tokio::time::sleep(PERIOD).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::ensure;

    #[tokio::test(start_paused = true)]
    async fn timeout_reports_the_last_state() {
        let mut checks = 0;
        let error = until("the moon", Duration::from_secs(1), async || -> Result<()> {
            checks += 1;
            ensure!(checks > 1000, "half, check {checks}");
            Ok(())
        })
        .await
        .unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("the moon") && text.contains("half, check 20"), "{text}");
    }

    #[tokio::test(start_paused = true)]
    async fn hanging_probe_ends_at_the_bound() {
        let error = until("nothing", Duration::from_secs(1), async || std::future::pending::<Result<()>>().await).await;
        assert!(format!("{:#}", error.unwrap_err()).contains("hung"));
    }

    #[tokio::test(start_paused = true)]
    async fn condition_that_breaks_within_the_span_is_reported() {
        let start = Instant::now();
        let span = Duration::from_secs(1);
        let breaks = async |at: Duration| {
            throughout(span, async || {
                ensure!(start.elapsed() < at, "broken");
                Ok(())
            })
            .await
        };
        assert_eq!(breaks(span / 2).await.unwrap_err().to_string(), "broken");
        assert!(breaks(span * 3).await.is_ok());
    }
}
