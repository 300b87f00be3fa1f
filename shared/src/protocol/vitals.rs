//! How an instance is: its processes and its MCP servers.
//!
//! Owns [`Vitals`], the instance's whole state as one value. `?watch=1` sends it now and again at every change, one JSON
//! object a line, so a reader needs no history: the last line is the truth.
//! Invariant: a server's `epoch` grows whenever its MCP sessions ended (a restart); the same epoch means the same life.
//! Never: carries environment, arguments with secrets, or output.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use uuid::Uuid;

/// An instance's whole state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vitals {
    /// The format, see [`super::FORMAT`].
    pub format: u32,
    /// Which life of the instance speaks.
    pub generation: Uuid,
    /// Since when it runs.
    pub started_at: Timestamp,
    /// Its supervised processes.
    pub processes: Vec<Process>,
    /// Its MCP servers.
    pub servers: Vec<Server>,
}

/// A supervised process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its name, unique in the instance.
    pub name: String,
    /// What it is doing.
    pub state: ProcessState,
    /// Its pid while it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// How often it was started again after it had ended by itself.
    pub restarts: u32,
    /// Since when it is in this state.
    pub since: Timestamp,
    /// How it ended last, for people: `exit 1`, `signal 9 (SIGKILL)`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_end: Option<String>,
    /// When it will be started again, while it waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_start: Option<Timestamp>,
    /// The port that it was given in the variable `PORT`, while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub given_port: Option<u16>,
    /// Where it, or what it started, really listens.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Port>,
}

/// A TCP port on which a process listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Port {
    /// The port.
    pub port: u16,
    /// On which address: one, or `0.0.0.0` or `::` for all.
    pub address: IpAddr,
}

/// What a process is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProcessState {
    /// It runs.
    Running,
    /// It ended and waits to be started again.
    Waiting,
    /// It is being stopped.
    Stopping,
    /// It ended and will not be started again.
    Ended,
}

/// An MCP server that an instance fronts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// Its name, unique in the instance.
    pub name: String,
    /// How the instance reaches it.
    pub transport: Transport,
    /// Whether it can take a message now. An HTTP server that is not probed counts as up while its process runs.
    pub up: bool,
    /// Which life of the server this is, beginning with 1.
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
