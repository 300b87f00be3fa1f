//! The two futures that an actor polls beside its inbox and its deadline: a dial and a probe.
//!
//! Dropping one of them gives up the operation.

use super::common::LinkCommon;
use super::dial::{self, LinkConnection};
use super::failure::{Failure, FailureKind, FailurePhase};
use super::machine::{DialAttempt, Input};
use super::metrics::LinkMeter;
use super::request_sender::RequestSender;
use linchpin_shared::protocol::path;
use linchpin_shared::registry::record::Record;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until, timeout};

/// The probe that is under way, if there is one. It ends with its outcome as an input of the machine.
pub(super) type PendingProbe = Option<Pin<Box<dyn Future<Output = Input> + Send>>>;

/// Waits until the limiter allows the dial, and dials.
pub(super) async fn dial_when_allowed(
    common: Arc<LinkCommon>,
    record: Arc<Record>,
    attempt: DialAttempt,
    meter: Arc<LinkMeter>,
) -> Result<LinkConnection, Failure> {
    if !attempt.for_new_record {
        let allowed_at = common.limiter.lock().reserve(Instant::now());
        sleep_until(allowed_at).await;
    }
    dial::dial(&record, &common.config.dial, &meter).await
}

/// Waits for the outcome of the probe that is under way.
pub(super) async fn outcome(probe: &mut PendingProbe) -> Input {
    match probe {
        Some(pending) => {
            let outcome = pending.await;
            *probe = None;
            outcome
        }
        None => std::future::pending().await,
    }
}

/// Probes the peer with a small request, because `hyper` cannot change the interval of its PINGs on an open connection.
/// Every answer shows that the peer is alive, even a reset of the stream.
pub(super) async fn send(sender: RequestSender, within: Duration) -> Input {
    let sent = Instant::now();
    match timeout(within, sender.probe(path::VITALS)).await {
        Ok(Ok(())) => Input::ProbeAnswered(sent.elapsed()),
        Ok(Err(error)) => {
            let failure = error.into_failure(FailurePhase::Serve);
            if failure.kind == FailureKind::StreamReset {
                Input::ProbeAnswered(sent.elapsed())
            } else {
                Input::ProbeFailed(failure)
            }
        }
        Err(_elapsed) => {
            let late = format!("no answer to a probe within {within:?}");
            let failure = Failure::new(FailureKind::PingTimeout, FailurePhase::Serve);
            Input::ProbeFailed(failure.because(late).after(within))
        }
    }
}
