//! The configuration of all links, derived from the settings.

use super::machine::MachineParams;
use super::tcp::DialLimits;
use crate::health::CheckupPolicy;
use linchpin_shared::backoff::BackoffPolicy;
use linchpin_shared::breaker::BreakerPolicy;
use linchpin_shared::settings::LinkSettings;

/// The first delay is this many times longer while an instance was never connected, because nothing shows yet that the
/// instance listens there.
const NEVER_CONNECTED: u32 = 4;

/// The streams of the hub's own on each connection: the vitals, a probe, and one listening stream for each session with a
/// server. They count in the connection window, so that callers who do not read cannot block them.
const OWN_STREAMS: usize = 16;

#[derive(Debug, Clone, Copy)]
pub(super) struct LinkConfig {
    pub(super) machine: MachineParams,
    pub(super) dial: DialLimits,
    pub(super) in_flight: usize,
}

impl From<&LinkSettings> for LinkConfig {
    fn from(link: &LinkSettings) -> Self {
        let reconnect_backoff =
            BackoffPolicy { min: link.backoff_min, max: link.backoff_max, reset_after: link.backoff_reset };
        let connect_backoff = BackoffPolicy {
            min: (reconnect_backoff.min * NEVER_CONNECTED).min(reconnect_backoff.max),
            ..reconnect_backoff
        };
        let breaker = BreakerPolicy {
            failures: link.breaker_failures,
            open: link.breaker_open,
            open_max: link.breaker_open_max,
            successes: link.breaker_successes,
        };
        Self {
            machine: MachineParams {
                connect_backoff,
                reconnect_backoff,
                breaker,
                checkups: CheckupPolicy { base: link.checkup_interval, max: link.checkup_interval_max },
                ping_interval: link.ping_interval,
                // A probe uses the rest of the time, so that both together take what the settings say.
                ping_grace: link.ping_timeout.saturating_sub(link.suspect_ping_timeout),
                probe_interval: link.suspect_ping_interval,
                probe_timeout: link.suspect_ping_timeout,
                remember_gone: link.remember_gone,
            },
            dial: DialLimits {
                dial: link.dial_timeout,
                hello: link.hello_timeout,
                ping_interval: link.ping_interval,
                ping_timeout: link.ping_timeout,
                streams: link.in_flight + OWN_STREAMS,
            },
            in_flight: link.in_flight,
        }
    }
}
