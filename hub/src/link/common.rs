//! What all links of a hub share.

use super::config::LinkConfig;
use super::limiter::DialLimiter;
use super::machine::Context;
use super::metrics::LinkMetrics;
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::time::Instant;

pub(super) struct LinkCommon {
    pub(super) config: LinkConfig,
    pub(super) limiter: Mutex<DialLimiter>,
    pub(super) metrics: LinkMetrics,
    /// Asks discovery to read the registry now.
    pub(super) request_rescan: Box<dyn Fn() + Send + Sync>,
}

/// The present time and fresh randomness for one step of a machine.
pub(super) fn context_now() -> Context {
    // Without randomness from the system the delays lose their jitter, which is harmless.
    let random = getrandom::u64().unwrap_or(u64::MAX / 2);
    Context { now: Instant::now(), wall: Timestamp::now(), random, last_read: None, process_stopped: false }
}
