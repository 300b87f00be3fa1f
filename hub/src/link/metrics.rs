//! What is counted about links.
//!
//! Owns [`Metrics`], the families of all links, and [`Meter`], the part of one link. The names stand here, beside what
//! they count; who serves them only encodes them.
//! Invariant: counters only grow, and a link that is forgotten takes its series along, so they are as many as the links.
//! Never: is read by the hub itself. What the hub decides by is in its own state.

use super::status::{State, Status};
use linchpin_shared::failure::{Failure, Kind};
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
struct Of {
    instance: String,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct InState {
    instance: String,
    state: &'static str,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Failed {
    instance: String,
    kind: &'static str,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Bound {
    instance: String,
    bound: &'static str,
}

/// Which bound on what is in flight was reached.
pub(super) const OWN_BOUND: &str = "link";
pub(super) const ALL_BOUND: &str = "all";

type Seconds = Counter<f64, AtomicU64>;

/// The families of all links.
#[derive(Debug, Clone)]
pub(super) struct Metrics {
    connections: Family<Of, Counter>,
    sockets: Family<Of, Counter>,
    dials: Family<Of, Counter>,
    retries: Family<Of, Counter>,
    failures: Family<Failed, Counter>,
    trips: Family<Of, Counter>,
    states: Family<InState, Seconds>,
    in_flight: Family<Of, Gauge>,
    rejected: Family<Bound, Counter>,
    reconnect: Histogram,
    round_trip: Histogram,
}

impl Metrics {
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
            // From 1 ms to 65 s, and from 16 µs to 2 s: what is quick must be told apart as well as what is slow.
            reconnect: Histogram::new(exponential_buckets(0.001, 2.0, 17)),
            round_trip: Histogram::new(exponential_buckets(0.000_016, 2.0, 18)),
        }
    }

    /// Lists the families.
    pub(super) fn register(&self, registry: &mut Registry) {
        let link = registry.sub_registry_with_prefix("linchpin_link");
        link.register("connections", "Connections that were proven", self.connections.clone());
        link.register("tcp_connections", "TCP connections that were opened", self.sockets.clone());
        link.register("dials", "Attempts to connect", self.dials.clone());
        link.register("retries", "Attempts to connect after a failure", self.retries.clone());
        link.register("failures", "Dials and connections that failed, by kind", self.failures.clone());
        link.register("breaker_trips", "How often the breaker opened", self.trips.clone());
        link.register("state_seconds", "Time spent in each state", self.states.clone());
        link.register("in_flight", "Requests in flight", self.in_flight.clone());
        link.register("rejected", "Requests refused for too many in flight, by bound", self.rejected.clone());
        link.register("reconnect_seconds", "From the loss of an instance until it is usable", self.reconnect.clone());
        link.register("round_trip_seconds", "Round trips of the hub's own requests", self.round_trip.clone());
    }
}

/// What is counted about one link.
#[derive(Debug)]
pub(super) struct Meter {
    instance: String,
    metrics: Metrics,
    sockets: Counter,
    rejected: [Counter; 2],
    in_flight: Gauge,
    now_in: Mutex<(State, Instant)>,
    lost: Mutex<Option<Instant>>,
}

impl Meter {
    pub(super) fn new(metrics: &Metrics, instance: &str, status: &Status) -> Arc<Self> {
        let of = Of { instance: instance.to_owned() };
        let bound = |bound| metrics.rejected.get_or_create_owned(&Bound { instance: instance.to_owned(), bound });
        // Series that show nothing yet are there from the beginning, so that a first event is seen as a growth.
        for family in [&metrics.connections, &metrics.dials, &metrics.retries, &metrics.trips] {
            drop(family.get_or_create(&of));
        }
        metrics.dials.get_or_create(&of).inc_by(status.dials);
        Arc::new(Self {
            instance: instance.to_owned(),
            sockets: metrics.sockets.get_or_create_owned(&of),
            rejected: [bound(OWN_BOUND), bound(ALL_BOUND)],
            in_flight: metrics.in_flight.get_or_create_owned(&of),
            metrics: metrics.clone(),
            now_in: Mutex::new((status.state, Instant::now())),
            lost: Mutex::new(None),
        })
    }

    /// A TCP connection was opened.
    pub(super) fn socket(&self) {
        self.sockets.inc();
    }

    /// A request was refused: `own` is whether for the bound of this link.
    pub(super) fn rejected(&self, own: bool) {
        self.rejected[usize::from(!own)].inc();
    }

    /// The hub's own small requests take this long.
    pub(super) fn round_trip(&self, took: Duration) {
        self.metrics.round_trip.observe(took.as_secs_f64());
    }

    /// A dial or a connection failed.
    pub(super) fn failed(&self, failure: &Failure) {
        let kind = failure.kind.as_str();
        self.metrics.failures.get_or_create(&Failed { instance: self.instance.clone(), kind }).inc();
    }

    /// The link went from one status to another. Whether requests pass now decides what counts as lost.
    pub(super) fn stepped(&self, before: &Status, after: &Status, passes: bool) {
        let of = Of { instance: self.instance.clone() };
        self.metrics.connections.get_or_create(&of).inc_by(after.connections - before.connections);
        self.metrics.trips.get_or_create(&of).inc_by(after.trips - before.trips);
        let dials = after.dials - before.dials;
        self.metrics.dials.get_or_create(&of).inc_by(dials);
        if after.attempts > 0 {
            self.metrics.retries.get_or_create(&of).inc_by(dials);
        }
        self.is_in(after.state);
        let mut lost = self.lost.lock();
        match (passes, *lost) {
            (true, Some(since)) => {
                self.metrics.reconnect.observe(since.elapsed().as_secs_f64());
                *lost = None;
            }
            (false, None) if after.connections > 0 => *lost = Some(Instant::now()),
            (true, None) | (false, Some(_) | None) => {}
        }
    }

    /// Accounts for the time until now, which the link goes on to spend in this state.
    fn is_in(&self, state: State) {
        let mut now_in = self.now_in.lock();
        let (before, since) = std::mem::replace(&mut *now_in, (state, Instant::now()));
        let spent = InState { instance: self.instance.clone(), state: before.as_str() };
        self.metrics.states.get_or_create(&spent).inc_by(now_in.1.duration_since(since).as_secs_f64());
    }

    /// Brings up to date what is only known when somebody looks.
    pub(super) fn look(&self, in_flight: usize) {
        let state = self.now_in.lock().0;
        self.is_in(state);
        self.in_flight.set(i64::try_from(in_flight).unwrap_or(i64::MAX));
    }

    /// The link is forgotten, and its series with it.
    pub(super) fn forget(&self) {
        let Metrics { connections, sockets, dials, retries, failures, trips, states, in_flight, rejected, .. } =
            &self.metrics;
        let instance = self.instance.clone();
        let of = Of { instance: instance.clone() };
        for family in [connections, sockets, dials, retries, trips] {
            family.remove(&of);
        }
        in_flight.remove(&of);
        for kind in Kind::ALL {
            failures.remove(&Failed { instance: instance.clone(), kind: kind.as_str() });
        }
        for state in State::ALL {
            states.remove(&InState { instance: instance.clone(), state: state.as_str() });
        }
        for bound in [OWN_BOUND, ALL_BOUND] {
            rejected.remove(&Bound { instance: instance.clone(), bound });
        }
    }
}
