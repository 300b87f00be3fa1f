//! What a link does beside its connection: dialling in turn, and asking for a sign of life.
//!
//! Owns the two futures that an actor holds while it serves letters and deadlines. Each ends with an input for the
//! machine. Invariant: dropping one gives up what it does. Never: decides what follows.

use super::actor::Common;
use super::dial::{self, Line};
use super::lane::Lane;
use super::machine::{Dial, Input};
use super::metrics::Meter;
use linchpin_shared::failure::{Failure, Kind, Phase};
use linchpin_shared::protocol::path;
use linchpin_shared::registry::record::Record;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until, timeout};

/// A probe that may or may not be under way.
pub(super) type Probing = Option<Pin<Box<dyn Future<Output = Input> + Send>>>;

/// Dials when it is this link's turn.
pub(super) async fn dial_in_turn(
    common: Arc<Common>,
    record: Arc<Record>,
    dial: Dial,
    meter: Arc<Meter>,
) -> Result<Line, Failure> {
    if !dial.fresh {
        let turn = common.limiter.lock().reserve(Instant::now());
        sleep_until(turn).await;
    }
    dial::dial(&record, &common.numbers.dial, &meter).await
}

/// The answer to the probe that is under way.
pub(super) async fn answered(probing: &mut Probing) -> Input {
    match probing {
        Some(under_way) => {
            let answer = under_way.await;
            *probing = None;
            answer
        }
        None => std::future::pending().await,
    }
}

/// Asks the peer for a sign of life. `hyper` cannot change the pace of its PINGs on a living connection, so this is a
/// small request; whatever the peer answers, even a reset of the stream, shows that it lives.
pub(super) async fn ask(lane: Lane, within: Duration) -> Input {
    let asked = Instant::now();
    match timeout(within, lane.probe(path::VITALS)).await {
        Ok(Ok(())) => Input::ProbeAnswered(asked.elapsed()),
        Ok(Err(error)) if error.failure.kind == Kind::StreamReset => Input::ProbeAnswered(asked.elapsed()),
        Ok(Err(error)) => Input::ProbeFailed(Failure { phase: Phase::Serve, ..error.failure }),
        Err(_elapsed) => {
            let late = format!("no answer to a probe within {within:?}");
            Input::ProbeFailed(Failure::new(Kind::PingTimeout, Phase::Serve).because(late).after(within))
        }
    }
}
