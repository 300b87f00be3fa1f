//! One declared server.
//!
//! Its environment, its headers and its arguments may contain secrets, so `Debug` shows none of them. Variables in its
//! values are not expanded.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// A server in the list, with its command or its URL.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "ServerEntry", into = "ServerEntry")]
pub struct ServerSpec {
    /// The absolute path of its project directory, in which a command runs.
    pub project_dir: PathBuf,
    /// The command or the URL of the server.
    pub endpoint: ServerEndpoint,
    /// The files of agents that it came from.
    pub from: Vec<String>,
    /// Unknown fields, which are kept.
    pub other: Map<String, Value>,
}

/// How a server is reached.
#[derive(Clone, PartialEq, Eq)]
pub enum ServerEndpoint {
    /// A command that speaks MCP on its standard input and output.
    Stdio {
        /// The name or the path of the program.
        command: String,
        /// The arguments of the program.
        args: Vec<String>,
        /// The variables that are added to the environment of the hub.
        env: BTreeMap<String, String>,
    },
    /// A server that listens at a URL.
    Url {
        /// The URL of the MCP endpoint.
        url: String,
        /// The headers of every request to the server.
        headers: BTreeMap<String, String>,
    },
}

/// The serialized form of a server.
#[derive(Serialize, Deserialize)]
struct ServerEntry {
    project_dir: PathBuf,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    command: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    args: Vec<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    env: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    headers: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    from: Vec<String>,
    #[serde(flatten)]
    other: Map<String, Value>,
}

impl TryFrom<ServerEntry> for ServerSpec {
    type Error = &'static str;

    fn try_from(entry: ServerEntry) -> Result<Self, Self::Error> {
        let ServerEntry { project_dir, command, args, env, url, headers, from, other } = entry;
        let endpoint = match (command, url) {
            (Some(command), None) => ServerEndpoint::Stdio { command, args, env },
            (None, Some(url)) => ServerEndpoint::Url { url, headers },
            (None, None) => return Err("a server needs a command or a url"),
            (Some(_), Some(_)) => return Err("a server has either a command or a url"),
        };
        Ok(Self { project_dir, endpoint, from, other })
    }
}

impl From<ServerSpec> for ServerEntry {
    fn from(server: ServerSpec) -> Self {
        let ServerSpec { project_dir, endpoint, from, other } = server;
        let (mut command, mut args, mut env) = (None, Vec::new(), BTreeMap::new());
        let (mut url, mut headers) = (None, BTreeMap::new());
        match endpoint {
            ServerEndpoint::Stdio { command: program, args: words, env: variables } => {
                (command, args, env) = (Some(program), words, variables);
            }
            ServerEndpoint::Url { url: at, headers: of } => (url, headers) = (Some(at), of),
        }
        Self { project_dir, command, args, env, url, headers, from, other }
    }
}

impl ServerSpec {
    /// Checks the values. The error says which of them is impossible.
    pub(super) fn check(&self) -> Result<(), String> {
        if !self.project_dir.is_absolute() {
            return Err("project_dir is not an absolute path".to_owned());
        }
        match &self.endpoint {
            ServerEndpoint::Stdio { command, args, env } => {
                let pairs = env.iter().flat_map(|(name, value)| [name, value]);
                let has_nul = args.iter().chain([command]).chain(pairs).any(|text| text.contains('\0'));
                let bad_name = env.keys().find(|name| name.is_empty() || name.contains('='));
                match (command.is_empty(), has_nul, bad_name) {
                    (true, _, _) => Err("the command is empty".to_owned()),
                    (_, true, _) => Err("a value contains a NUL character".to_owned()),
                    (_, _, Some(name)) => Err(format!("{name:?} is not a valid name of a variable")),
                    (false, false, None) => Ok(()),
                }
            }
            ServerEndpoint::Url { url, .. } if url.is_empty() => Err("the URL is empty".to_owned()),
            ServerEndpoint::Url { .. } => Ok(()),
        }
    }
}

/// Shows no value that may be a secret.
impl fmt::Debug for ServerSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerSpec")
            .field("project_dir", &self.project_dir)
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

/// Shows no value that may be a secret.
impl fmt::Debug for ServerEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdio { command, .. } => f.debug_struct("Stdio").field("command", command).finish_non_exhaustive(),
            Self::Url { .. } => f.debug_struct("Url").finish_non_exhaustive(),
        }
    }
}
