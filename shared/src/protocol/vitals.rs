//! The state of an instance: its processes and its MCP servers.
//!
//! With `?watch=1`, an instance sends its whole state at once and again at every change, one JSON object in each line. A
//! reader needs no history, because the last line is complete. It contains no environment, no arguments and no output.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use uuid::Uuid;

/// The whole state of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vitals {
    /// The format of the message, see [`super::FORMAT`].
    pub format: u32,
    /// The generation of the instance.
    pub generation: Uuid,
    /// When this generation started.
    pub started_at: Timestamp,
    /// The processes that the instance supervises.
    pub processes: Vec<ProcessVitals>,
    /// The MCP servers of the instance.
    pub servers: Vec<ServerVitals>,
}

/// The state of a supervised process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessVitals {
    /// The name of the process, which is unique in the instance.
    pub name: String,
    /// The state of the process.
    pub state: ProcessState,
    /// The pid, while the process runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// How often the process was started again after it ended by itself.
    pub restarts: u32,
    /// When the process entered this state.
    pub since: Timestamp,
    /// How the process ended last, in words: `exit 1`, `signal 9 (SIGKILL)`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_end: Option<String>,
    /// The time of the next start, while the process waits for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_start: Option<Timestamp>,
    /// The port that the process got in the variable `PORT`, while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub given_port: Option<u16>,
    /// The ports on which the process or its descendants listen.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Port>,
}

/// A TCP port on which a process listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Port {
    /// The number of the port.
    pub port: u16,
    /// The address, which is `0.0.0.0` or `::` for all addresses.
    pub address: IpAddr,
}

/// The state of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProcessState {
    /// The process runs.
    Running,
    /// The process ended and waits to be started again.
    Waiting,
    /// The process is being stopped.
    Stopping,
    /// The process ended and is not started again.
    Ended,
}

/// The state of an MCP server of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerVitals {
    /// The name of the server, which is unique in the instance.
    pub name: String,
    /// How the instance reaches the server.
    pub transport: Transport,
    /// Whether the server can receive a message now. An HTTP server that is not probed counts as up while its process
    /// runs.
    pub up: bool,
    /// The number of the server run, beginning with 1. It grows when all MCP sessions with the server have ended, for
    /// example because the server was restarted.
    pub epoch: u64,
}

/// How an instance reaches an MCP server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// Standard input and output of a child process.
    Stdio,
    /// Streamable HTTP at a URL.
    Http,
}
