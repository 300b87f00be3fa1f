//! The settings as the code reads them, one type for each section of `default.toml`.
//!
//! Owns names, types and bounds of the values; what each means stands in `default.toml`, in words for its reader.
//! Invariant: every key of `default.toml` has one field here and the reverse, so neither has a value the other lacks.
//! Never: holds a default. Those are in `default.toml` only.

use crate::pattern::Pattern;
use serde::Deserialize;
use std::time::Duration;

/// All sections, as read.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Sections {
    pub(super) hub: Hub,
    pub(super) discovery: Discovery,
    pub(super) link: Link,
    pub(super) gateway: Gateway,
    pub(super) instance: Instance,
    pub(super) log: Log,
}

/// `[hub]`: the hub itself.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hub {
    /// The port it prefers; 0 is any.
    pub port: u16,
    /// Whether requests need the token.
    pub token_required: bool,
    /// Connections that it serves at once.
    pub max_connections: usize,
    /// How long a client may leave what was sent to it unread.
    #[serde(rename = "unread_timeout_ms", deserialize_with = "millis")]
    pub unread_timeout: Duration,
}

/// `[discovery]`: finding instances.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Discovery {
    /// How often the registry is read in any case.
    #[serde(rename = "poll_ms", deserialize_with = "millis")]
    pub poll: Duration,
}

/// `[link]`: the hub's connection to an instance.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// Bound on opening a connection.
    #[serde(rename = "dial_timeout_ms", deserialize_with = "millis")]
    pub dial_timeout: Duration,
    /// Bound on the hello.
    #[serde(rename = "hello_timeout_ms", deserialize_with = "millis")]
    pub hello_timeout: Duration,
    /// How often a healthy connection is asked.
    #[serde(rename = "ping_interval_ms", deserialize_with = "millis")]
    pub ping_interval: Duration,
    /// Within which time it answers.
    #[serde(rename = "ping_timeout_ms", deserialize_with = "millis")]
    pub ping_timeout: Duration,
    /// How often a connection in doubt is asked.
    #[serde(rename = "suspect_ping_interval_ms", deserialize_with = "millis")]
    pub suspect_ping_interval: Duration,
    /// Within which time that one answers.
    #[serde(rename = "suspect_ping_timeout_ms", deserialize_with = "millis")]
    pub suspect_ping_timeout: Duration,
    /// The pause between two check-ups of an instance that is well.
    #[serde(rename = "checkup_interval_ms", deserialize_with = "millis")]
    pub checkup_interval: Duration,
    /// The longest pause between two check-ups.
    #[serde(rename = "checkup_interval_max_ms", deserialize_with = "millis")]
    pub checkup_interval_max: Duration,
    /// The first delay between attempts.
    #[serde(rename = "backoff_min_ms", deserialize_with = "millis")]
    pub backoff_min: Duration,
    /// The longest delay between attempts.
    #[serde(rename = "backoff_max_ms", deserialize_with = "millis")]
    pub backoff_max: Duration,
    /// The proven health after which delays begin anew.
    #[serde(rename = "backoff_reset_ms", deserialize_with = "millis")]
    pub backoff_reset: Duration,
    /// Dials in a second, of all links.
    pub dials_per_second: u32,
    /// Failures in a row that open the breaker.
    pub breaker_failures: u32,
    /// How long it is open the first time.
    #[serde(rename = "breaker_open_ms", deserialize_with = "millis")]
    pub breaker_open: Duration,
    /// How long it is open at most.
    #[serde(rename = "breaker_open_max_ms", deserialize_with = "millis")]
    pub breaker_open_max: Duration,
    /// Successes that close it.
    pub breaker_successes: u32,
    /// Requests under way to one instance.
    pub in_flight: usize,
    /// Requests under way to all.
    pub in_flight_total: usize,
    /// How long an instance that is gone stays listed.
    #[serde(rename = "remember_gone_ms", deserialize_with = "millis")]
    pub remember_gone: Duration,
}

/// `[gateway]`: what agents call.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gateway {
    /// How long a call waits for a server that is down.
    #[serde(rename = "wait_ms", deserialize_with = "millis")]
    pub wait: Duration,
    /// How long the first list waits for instances that are still connecting.
    #[serde(rename = "list_wait_ms", deserialize_with = "millis")]
    pub list_wait: Duration,
    /// How long the lists of a server that is down are still served.
    #[serde(rename = "grace_ms", deserialize_with = "millis")]
    pub grace: Duration,
    /// The largest message.
    pub max_message_bytes: usize,
    /// How long a client may take to send one.
    #[serde(rename = "message_timeout_ms", deserialize_with = "millis")]
    pub message_timeout: Duration,
    /// The largest sum of clients' messages in memory.
    pub max_buffered_bytes: usize,
    /// Sessions that are remembered.
    pub max_sessions: usize,
    /// Clients' own streams that are open at once.
    pub max_streams: usize,
    /// What agents see; everything if there is none.
    pub allow: Vec<Pattern>,
    /// What agents do not see.
    pub deny: Vec<Pattern>,
    /// Whether the hub's own tools are offered.
    pub own_tools: bool,
    /// Which tools are listed.
    pub tools: Tools,
}

/// Which tools an agent's list has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tools {
    /// All of them.
    #[default]
    All,
    /// A few to search, describe and call all of them with.
    Search,
}

/// `[instance]`: the processes of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Instance {
    /// The first delay between restarts.
    #[serde(rename = "backoff_min_ms", deserialize_with = "millis")]
    pub backoff_min: Duration,
    /// The longest delay between restarts.
    #[serde(rename = "backoff_max_ms", deserialize_with = "millis")]
    pub backoff_max: Duration,
    /// The running time after which delays begin anew.
    #[serde(rename = "backoff_reset_ms", deserialize_with = "millis")]
    pub backoff_reset: Duration,
    /// How long a process may take to end.
    #[serde(rename = "stop_timeout_ms", deserialize_with = "millis")]
    pub stop_timeout: Duration,
    /// Whether a command that is no MCP server is given a free port in `PORT`.
    pub give_port: bool,
    /// The longest line of an MCP server.
    pub max_line_bytes: usize,
}

/// `[log]`: log files.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// The size at which a file is put aside.
    pub max_bytes: u64,
    /// How many of those are kept.
    pub keep: usize,
}

impl Sections {
    /// The first value that makes no sense beside the others: its key and the rule that it breaks.
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

/// The keys that may be 0. Everything else counts, waits or holds something, and 0 would stop it.
pub(super) const MAY_BE_ZERO: [&str; 4] = ["hub.port", "log.keep", "gateway.list_wait_ms", "link.remember_gone_ms"];

fn millis<'de, D: serde::Deserializer<'de>>(input: D) -> Result<Duration, D::Error> {
    u64::deserialize(input).map(Duration::from_millis)
}
