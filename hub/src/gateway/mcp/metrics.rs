//! The metrics of tool calls.
//!
//! | family | labels | content |
//! |---|---|---|
//! | `linchpin_tool_calls_total` | `instance`, `server`, `outcome` | the number of tool calls |
//! | `linchpin_tool_call_duration_seconds` | `instance`, `server` | a histogram of the time from the request to its outcome |
//!
//! A call is counted once its tool is known, when its outcome is known; [`CallOutcome`] lists the outcomes. Calls of the
//! hub's own tools are not counted. The series of a server exist from its first call until its instance is no longer
//! listed, so their number is bounded by the servers of the listed instances.

use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How a tool call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CallOutcome {
    /// The server returned a result.
    Ok,
    /// The server returned a result with `isError`.
    ToolError,
    /// The server or the hub answered with a JSON-RPC error.
    Error,
    /// The connection or the server was lost during the call, which may have been executed.
    Interrupted,
    /// The client cancelled the call or went away.
    Cancelled,
    /// The server could not be reached, so the call was not executed.
    Unavailable,
}

impl CallOutcome {
    const ALL: [Self; 6] =
        [Self::Ok, Self::ToolError, Self::Error, Self::Interrupted, Self::Cancelled, Self::Unavailable];

    /// The value of the label `outcome`.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::ToolError => "tool_error",
            Self::Error => "error",
            Self::Interrupted => "interrupted",
            Self::Cancelled => "cancelled",
            Self::Unavailable => "unavailable",
        }
    }
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OutcomeLabels {
    instance: String,
    server: String,
    outcome: &'static str,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ServerLabels {
    instance: String,
    server: String,
}

/// Counts tool calls and measures their durations. All clones count in the same series.
#[derive(Debug, Clone)]
pub(crate) struct CallMetrics {
    calls: Family<OutcomeLabels, Counter>,
    durations: Family<ServerLabels, Histogram, fn() -> Histogram>,
    /// The series of each server, by instance and server.
    servers: Arc<Mutex<BTreeMap<String, BTreeMap<String, ServerSeries>>>>,
}

/// The series of one server. The calls are in the order of [`CallOutcome::ALL`].
#[derive(Debug)]
struct ServerSeries {
    calls: [Counter; CallOutcome::ALL.len()],
    duration: Histogram,
}

impl CallMetrics {
    pub(crate) fn new() -> Self {
        Self {
            calls: Family::default(),
            // From 0.25 ms, a fast local call, to 131 s.
            durations: Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.000_25, 2.0, 20))),
            servers: Arc::default(),
        }
    }

    pub(crate) fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("linchpin");
        registry.register("tool_calls", "Tool calls, by outcome", self.calls.clone());
        registry.register("tool_call_duration_seconds", "Duration of tool calls", self.durations.clone());
    }

    /// Counts a call that ended.
    pub(crate) fn observe(&self, instance: &str, server: &str, outcome: CallOutcome, duration: Duration) {
        let mut servers = self.servers.lock();
        if !servers.get(instance).is_some_and(|servers| servers.contains_key(server)) {
            let series = self.series(instance, server);
            servers.entry(instance.to_owned()).or_default().insert(server.to_owned(), series);
        }
        if let Some(series) = servers.get(instance).and_then(|servers| servers.get(server)) {
            series.calls[outcome as usize].inc();
            series.duration.observe(duration.as_secs_f64());
        }
    }

    /// Creates the series of a server for all outcomes, so that the first call with an outcome is visible as an increase.
    fn series(&self, instance: &str, server: &str) -> ServerSeries {
        let (instance, server) = (instance.to_owned(), server.to_owned());
        let calls = CallOutcome::ALL.map(|outcome| {
            let (instance, server) = (instance.clone(), server.clone());
            self.calls.get_or_create_owned(&OutcomeLabels { instance, server, outcome: outcome.as_str() })
        });
        let duration = self.durations.get_or_create_owned(&ServerLabels { instance, server });
        ServerSeries { calls, duration }
    }

    /// Removes the series of all instances that are no longer listed.
    pub(crate) fn retain_instances(&self, is_listed: impl Fn(&str) -> bool) {
        self.servers.lock().retain(|instance, servers| {
            let listed = is_listed(instance);
            if !listed {
                servers.keys().for_each(|server| self.remove(instance, server));
            }
            listed
        });
    }

    fn remove(&self, instance: &str, server: &str) {
        for outcome in CallOutcome::ALL {
            let (instance, server, outcome) = (instance.to_owned(), server.to_owned(), outcome.as_str());
            self.calls.remove(&OutcomeLabels { instance, server, outcome });
        }
        self.durations.remove(&ServerLabels { instance: instance.to_owned(), server: server.to_owned() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(metrics: &CallMetrics) -> String {
        let (mut registry, mut text) = (Registry::default(), String::new());
        metrics.register(&mut registry);
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        text
    }

    #[test]
    fn a_call_is_counted_by_its_outcome_and_measured() {
        let metrics = CallMetrics::new();
        metrics.observe("shop", "main", CallOutcome::Ok, Duration::from_millis(3));
        metrics.observe("shop", "main", CallOutcome::Ok, Duration::from_millis(3));
        metrics.observe("shop", "main", CallOutcome::ToolError, Duration::from_millis(3));
        let text = text(&metrics);
        let calls = r#"linchpin_tool_calls_total{instance="shop",server="main",outcome="#;
        for (outcome, count) in [("ok", 2), ("tool_error", 1), ("error", 0), ("interrupted", 0), ("cancelled", 0)] {
            assert!(text.contains(&format!("{calls}\"{outcome}\"}} {count}\n")), "{outcome}: {text}");
        }
        let durations = r#"linchpin_tool_call_duration_seconds_count{instance="shop",server="main"} 3"#;
        assert!(text.contains(durations), "{text}");
    }

    #[test]
    fn series_of_an_instance_that_is_not_listed_are_removed() {
        let metrics = CallMetrics::new();
        for (instance, server) in [("shop", "main"), ("shop", "other"), ("notes", "main")] {
            metrics.observe(instance, server, CallOutcome::Ok, Duration::ZERO);
        }
        metrics.retain_instances(|instance| instance == "notes");
        let remaining = text(&metrics);
        assert!(!remaining.contains("shop") && remaining.contains(r#"instance="notes""#), "{remaining}");
        metrics.observe("shop", "main", CallOutcome::Error, Duration::ZERO);
        let again = text(&metrics);
        assert!(again.contains(r#"{instance="shop",server="main",outcome="ok"} 0"#), "it starts at zero: {again}");
    }

    #[test]
    fn outcomes_are_in_the_order_of_their_series() {
        for (index, outcome) in CallOutcome::ALL.into_iter().enumerate() {
            assert_eq!(index, outcome as usize);
        }
    }
}
