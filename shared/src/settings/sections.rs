//! The settings as typed values, one type for each section of `default.toml`.
//!
//! Every key of `default.toml` has a field here, and every field has a key there. The default values, and the
//! descriptions for users, are only in `default.toml`.

use crate::pattern::Pattern;
use serde::Deserialize;
use std::time::Duration;

/// The settings of all sections, without their origins.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Sections {
    pub(super) hub: HubSettings,
    pub(super) discovery: DiscoverySettings,
    pub(super) link: LinkSettings,
    pub(super) gateway: GatewaySettings,
    pub(super) instance: InstanceSettings,
    pub(super) log: LogSettings,
}

/// The section `[hub]`: the HTTP server of the hub.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HubSettings {
    /// The preferred port, or 0 for any port.
    pub port: u16,
    /// Whether requests need the token of the hub.
    pub token_required: bool,
    /// The number of simultaneous connections.
    pub max_connections: usize,
    /// How long a client may leave data unread.
    #[serde(rename = "unread_timeout_ms", deserialize_with = "millis")]
    pub unread_timeout: Duration,
}

/// The section `[discovery]`: how the hub finds instances.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiscoverySettings {
    /// The interval between two reads of the registry without change notifications.
    #[serde(rename = "poll_ms", deserialize_with = "millis")]
    pub poll: Duration,
}

/// The section `[link]`: the hub's connections to instances.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkSettings {
    /// The time limit for opening a connection.
    #[serde(rename = "dial_timeout_ms", deserialize_with = "millis")]
    pub dial_timeout: Duration,
    /// The time limit for the hello.
    #[serde(rename = "hello_timeout_ms", deserialize_with = "millis")]
    pub hello_timeout: Duration,
    /// After this much silence a connection sends a PING.
    #[serde(rename = "ping_interval_ms", deserialize_with = "millis")]
    pub ping_interval: Duration,
    /// The time limit for the answer to a PING.
    #[serde(rename = "ping_timeout_ms", deserialize_with = "millis")]
    pub ping_timeout: Duration,
    /// The interval between two probes of a suspect connection.
    #[serde(rename = "suspect_ping_interval_ms", deserialize_with = "millis")]
    pub suspect_ping_interval: Duration,
    /// The time limit for the answer to a probe.
    #[serde(rename = "suspect_ping_timeout_ms", deserialize_with = "millis")]
    pub suspect_ping_timeout: Duration,
    /// The interval between two check-ups of a healthy instance.
    #[serde(rename = "checkup_interval_ms", deserialize_with = "millis")]
    pub checkup_interval: Duration,
    /// The longest interval between two check-ups.
    #[serde(rename = "checkup_interval_max_ms", deserialize_with = "millis")]
    pub checkup_interval_max: Duration,
    /// The first delay between two dials.
    #[serde(rename = "backoff_min_ms", deserialize_with = "millis")]
    pub backoff_min: Duration,
    /// The longest delay between two dials.
    #[serde(rename = "backoff_max_ms", deserialize_with = "millis")]
    pub backoff_max: Duration,
    /// The time of proven health after which the delays start at the minimum again.
    #[serde(rename = "backoff_reset_ms", deserialize_with = "millis")]
    pub backoff_reset: Duration,
    /// The number of dials per second over all links.
    pub dials_per_second: u32,
    /// The number of failures in a row that open the breaker.
    pub breaker_failures: u32,
    /// How long the breaker stays open the first time.
    #[serde(rename = "breaker_open_ms", deserialize_with = "millis")]
    pub breaker_open: Duration,
    /// How long the breaker stays open at most.
    #[serde(rename = "breaker_open_max_ms", deserialize_with = "millis")]
    pub breaker_open_max: Duration,
    /// The number of successes in a row that close the breaker.
    pub breaker_successes: u32,
    /// The number of simultaneous requests to one instance.
    pub in_flight: usize,
    /// The number of simultaneous requests to all instances.
    pub in_flight_total: usize,
    /// How long an instance stays listed after it is gone.
    #[serde(rename = "remember_gone_ms", deserialize_with = "millis")]
    pub remember_gone: Duration,
}

/// The section `[gateway]`: the MCP gateway for agents.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatewaySettings {
    /// How long a call waits for a server that is down.
    #[serde(rename = "wait_ms", deserialize_with = "millis")]
    pub wait: Duration,
    /// How long the first list waits for instances that are still connecting.
    #[serde(rename = "list_wait_ms", deserialize_with = "millis")]
    pub list_wait: Duration,
    /// How long the lists of a server that is down stay listed.
    #[serde(rename = "grace_ms", deserialize_with = "millis")]
    pub grace: Duration,
    /// The size of the largest message.
    pub max_message_bytes: usize,
    /// How long a client may take to send the body of a message.
    #[serde(rename = "message_timeout_ms", deserialize_with = "millis")]
    pub message_timeout: Duration,
    /// The memory for the messages of all clients together.
    pub max_buffered_bytes: usize,
    /// The number of sessions that are remembered.
    pub max_sessions: usize,
    /// The number of simultaneous streams of clients.
    pub max_streams: usize,
    /// The patterns of what agents see. Without patterns, agents see everything.
    pub allow: Vec<Pattern>,
    /// The patterns of what agents do not see.
    pub deny: Vec<Pattern>,
    /// Whether the hub offers its own tools.
    pub own_tools: bool,
    /// Which tools a list contains.
    pub tools: ToolListing,
}

/// Which tools the tool list of an agent contains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToolListing {
    /// All tools.
    #[default]
    All,
    /// A few tools that search, describe and call all others.
    Search,
}

/// The section `[instance]`: the processes of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstanceSettings {
    /// The first delay between two restarts.
    #[serde(rename = "backoff_min_ms", deserialize_with = "millis")]
    pub backoff_min: Duration,
    /// The longest delay between two restarts.
    #[serde(rename = "backoff_max_ms", deserialize_with = "millis")]
    pub backoff_max: Duration,
    /// The running time after which the delays start at the minimum again.
    #[serde(rename = "backoff_reset_ms", deserialize_with = "millis")]
    pub backoff_reset: Duration,
    /// How long a process may take to end before it is killed.
    #[serde(rename = "stop_timeout_ms", deserialize_with = "millis")]
    pub stop_timeout: Duration,
    /// Whether a command that is not an MCP server gets a free port in `PORT`.
    pub give_port: bool,
    /// The size of the longest line of an MCP server.
    pub max_line_bytes: usize,
}

/// The section `[log]`: log files.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogSettings {
    /// The size at which a log file is rotated.
    pub max_bytes: u64,
    /// The number of rotated files that are kept.
    pub keep: usize,
}

impl Sections {
    /// Finds the first value that contradicts another one, and returns its key and the rule that it breaks.
    pub(super) fn contradiction(&self) -> Option<(&'static str, &'static str)> {
        let (link, instance, gateway) = (&self.link, &self.instance, &self.gateway);
        let rules = [
            (
                "gateway.max_buffered_bytes",
                gateway.max_buffered_bytes >= gateway.max_message_bytes,
                "must not be less than gateway.max_message_bytes",
            ),
            ("link.backoff_max_ms", link.backoff_max >= link.backoff_min, "must not be less than link.backoff_min_ms"),
            (
                "link.checkup_interval_max_ms",
                link.checkup_interval_max >= link.checkup_interval,
                "must not be less than link.checkup_interval_ms",
            ),
            (
                "link.breaker_open_max_ms",
                link.breaker_open_max >= link.breaker_open,
                "must not be less than link.breaker_open_ms",
            ),
            (
                "instance.backoff_max_ms",
                instance.backoff_max >= instance.backoff_min,
                "must not be less than instance.backoff_min_ms",
            ),
        ];
        rules.into_iter().find(|(_, holds, _)| !holds).map(|(key, _, rule)| (key, rule))
    }
}

/// The keys that may be 0. Every other value is a count, a time or a size that makes no sense as 0.
pub(super) const MAY_BE_ZERO: [&str; 4] = ["hub.port", "log.keep", "gateway.list_wait_ms", "link.remember_gone_ms"];

fn millis<'de, D: serde::Deserializer<'de>>(input: D) -> Result<Duration, D::Error> {
    u64::deserialize(input).map(Duration::from_millis)
}
