//! The metrics of links.
//!
//! [`LinkMetrics`] has the families of all links, and [`LinkMeter`] updates the series of one link. A link that ends
//! removes its series, so their number is bounded by the number of links. The hub itself reads no metric: it decides by
//! its own state.

use super::failure::{Failure, FailureKind};
use super::status::{LinkState, LinkStatus};
use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tokio::time::Instant;

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct InstanceLabels {
    instance: String,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StateLabels {
    instance: String,
    state: &'static str,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct FailureLabels {
    instance: String,
    kind: &'static str,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct BoundLabels {
    instance: String,
    bound: &'static str,
}

/// The label of requests that were rejected because of the limit of one link.
const OWN_BOUND: &str = "link";

/// The label of requests that were rejected because of the limit over all links.
const TOTAL_BOUND: &str = "all";

type Seconds = Counter<f64, AtomicU64>;

/// The metric families of all links.
#[derive(Debug, Clone)]
pub(super) struct LinkMetrics {
    connections: Family<InstanceLabels, Counter>,
    sockets: Family<InstanceLabels, Counter>,
    dials: Family<InstanceLabels, Counter>,
    retries: Family<InstanceLabels, Counter>,
    failures: Family<FailureLabels, Counter>,
    trips: Family<InstanceLabels, Counter>,
    states: Family<StateLabels, Seconds>,
    in_flight: Family<InstanceLabels, Gauge>,
    rejected: Family<BoundLabels, Counter>,
    reconnect: Histogram,
    round_trip: Histogram,
}

impl LinkMetrics {
    pub(super) fn new() -> Self {
        Self {
            connections: Family::default(),
            sockets: Family::default(),
            dials: Family::default(),
            retries: Family::default(),
            failures: Family::default(),
            trips: Family::default(),
            states: Family::default(),
            in_flight: Family::default(),
            rejected: Family::default(),
            // From 1 ms to 65 s, and from 16 µs to 2 s. Fast operations must be distinguishable as well as slow ones.
            reconnect: Histogram::new(exponential_buckets(0.001, 2.0, 17)),
            round_trip: Histogram::new(exponential_buckets(0.000_016, 2.0, 18)),
        }
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let link = registry.sub_registry_with_prefix("linchpin_link");
        link.register("connections", "Connections whose peer proved its identity", self.connections.clone());
        link.register("tcp_connections", "TCP connections opened", self.sockets.clone());
        link.register("dials", "Attempts to connect", self.dials.clone());
        link.register("retries", "Attempts to connect after a failure", self.retries.clone());
        link.register("failures", "Failed dials and connections, by kind of failure", self.failures.clone());
        link.register("breaker_trips", "Openings of the circuit breaker", self.trips.clone());
        link.register("state_seconds", "Time spent in each state", self.states.clone());
        link.register("in_flight", "Requests in flight", self.in_flight.clone());
        link.register(
            "rejected",
            "Requests rejected because too many were in flight, by the limit that was reached",
            self.rejected.clone(),
        );
        link.register(
            "reconnect_seconds",
            "Time from the loss of an instance until it accepts requests again",
            self.reconnect.clone(),
        );
        link.register("round_trip_seconds", "Round trips of the hub's own small requests", self.round_trip.clone());
    }
}

/// Updates the series of one link.
#[derive(Debug)]
pub(super) struct LinkMeter {
    instance: String,
    metrics: LinkMetrics,
    sockets: Counter,
    rejected: [Counter; 2],
    in_flight: Gauge,
    state_since: Mutex<(LinkState, Instant)>,
    lost_since: Mutex<Option<Instant>>,
}

impl LinkMeter {
    pub(super) fn new(metrics: &LinkMetrics, instance: &str, status: &LinkStatus) -> Arc<Self> {
        let labels = InstanceLabels { instance: instance.to_owned() };
        let rejected =
            |bound| metrics.rejected.get_or_create_owned(&BoundLabels { instance: instance.to_owned(), bound });
        // These series exist from the beginning, so that the first event is visible as an increase.
        for family in [&metrics.connections, &metrics.dials, &metrics.retries, &metrics.trips] {
            drop(family.get_or_create(&labels));
        }
        metrics.dials.get_or_create(&labels).inc_by(status.dials);
        Arc::new(Self {
            instance: instance.to_owned(),
            sockets: metrics.sockets.get_or_create_owned(&labels),
            rejected: [rejected(OWN_BOUND), rejected(TOTAL_BOUND)],
            in_flight: metrics.in_flight.get_or_create_owned(&labels),
            metrics: metrics.clone(),
            state_since: Mutex::new((status.state, Instant::now())),
            lost_since: Mutex::new(None),
        })
    }

    pub(super) fn socket_opened(&self) {
        self.sockets.inc();
    }

    /// Counts a rejected request. `own` says whether the limit of this link was reached, not the one over all links.
    pub(super) fn rejected(&self, own: bool) {
        self.rejected[usize::from(!own)].inc();
    }

    /// Records a round trip of the hub's own small requests.
    pub(super) fn round_trip(&self, took: Duration) {
        self.metrics.round_trip.observe(took.as_secs_f64());
    }

    /// Counts a failed dial or connection.
    pub(super) fn failed(&self, failure: &Failure) {
        let kind = failure.kind.as_str();
        self.metrics.failures.get_or_create(&FailureLabels { instance: self.instance.clone(), kind }).inc();
    }

    /// Counts what changed from one status to the next. An instance counts as lost while the link accepts no requests.
    pub(super) fn transition(&self, before: &LinkStatus, after: &LinkStatus, accepts_requests: bool) {
        let labels = InstanceLabels { instance: self.instance.clone() };
        self.metrics.connections.get_or_create(&labels).inc_by(after.connections - before.connections);
        self.metrics.trips.get_or_create(&labels).inc_by(after.trips - before.trips);
        let dials = after.dials - before.dials;
        self.metrics.dials.get_or_create(&labels).inc_by(dials);
        if after.attempts > 0 {
            self.metrics.retries.get_or_create(&labels).inc_by(dials);
        }
        self.enter_state(after.state);
        let mut lost_since = self.lost_since.lock();
        match (accepts_requests, *lost_since) {
            (true, Some(since)) => {
                self.metrics.reconnect.observe(since.elapsed().as_secs_f64());
                *lost_since = None;
            }
            (false, None) if after.connections > 0 => *lost_since = Some(Instant::now()),
            (true, None) | (false, Some(_) | None) => {}
        }
    }

    /// Adds the time since the last call to the state before, and continues in this state.
    fn enter_state(&self, state: LinkState) {
        let mut state_since = self.state_since.lock();
        let (before, since) = std::mem::replace(&mut *state_since, (state, Instant::now()));
        let spent = StateLabels { instance: self.instance.clone(), state: before.as_str() };
        self.metrics.states.get_or_create(&spent).inc_by(state_since.1.duration_since(since).as_secs_f64());
    }

    /// Updates the series that are not counted as they change.
    pub(super) fn refresh(&self, in_flight: usize) {
        let state = self.state_since.lock().0;
        self.enter_state(state);
        self.in_flight.set(i64::try_from(in_flight).unwrap_or(i64::MAX));
    }

    /// Removes all series of the link.
    pub(super) fn forget(&self) {
        let LinkMetrics { connections, sockets, dials, retries, failures, trips, states, in_flight, rejected, .. } =
            &self.metrics;
        let instance = self.instance.clone();
        let labels = InstanceLabels { instance: instance.clone() };
        for family in [connections, sockets, dials, retries, trips] {
            family.remove(&labels);
        }
        in_flight.remove(&labels);
        for kind in FailureKind::ALL {
            failures.remove(&FailureLabels { instance: instance.clone(), kind: kind.as_str() });
        }
        for state in LinkState::ALL {
            states.remove(&StateLabels { instance: instance.clone(), state: state.as_str() });
        }
        for bound in [OWN_BOUND, TOTAL_BOUND] {
            rejected.remove(&BoundLabels { instance: instance.clone(), bound });
        }
    }
}
