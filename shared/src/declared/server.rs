//! One declared server: what to run or where it listens, and where it belongs.
//!
//! Owns [`Server`] and its check. Invariant: environment and headers, and arguments too, may hold secrets, so none of
//! them is in its `Debug`. Never: resolves a variable; what stands here is meant as it stands.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// One declared server.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct Server {
    /// The directory that it belongs to, in which a command runs. Absolute.
    pub project_dir: PathBuf,
    /// How it is reached.
    pub how: How,
    /// The files that it came from.
    pub from: Vec<String>,
    /// Fields of other formats.
    pub other: Map<String, Value>,
}

/// How a server is reached.
#[derive(Clone, PartialEq, Eq)]
pub enum How {
    /// It is a command that speaks MCP on its standard input and output.
    Stdio {
        /// The program.
        command: String,
        /// Its arguments.
        args: Vec<String>,
        /// Variables on top of the hub's environment.
        env: BTreeMap<String, String>,
    },
    /// It listens at a URL.
    Url {
        /// Where.
        url: String,
        /// Headers that every request to it carries.
        headers: BTreeMap<String, String>,
    },
}

/// A server as it stands in the file.
#[derive(Serialize, Deserialize)]
struct Written {
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

impl TryFrom<Written> for Server {
    type Error = &'static str;

    fn try_from(written: Written) -> Result<Self, Self::Error> {
        let Written { project_dir, command, args, env, url, headers, from, other } = written;
        let how = match (command, url) {
            (Some(command), None) => How::Stdio { command, args, env },
            (None, Some(url)) => How::Url { url, headers },
            (None, None) => return Err("a server needs a command or a url"),
            (Some(_), Some(_)) => return Err("a server has either a command or a url"),
        };
        Ok(Self { project_dir, how, from, other })
    }
}

impl From<Server> for Written {
    fn from(server: Server) -> Self {
        let Server { project_dir, how, from, other } = server;
        let (mut command, mut args, mut env) = (None, Vec::new(), BTreeMap::new());
        let (mut url, mut headers) = (None, BTreeMap::new());
        match how {
            How::Stdio { command: program, args: words, env: variables } => {
                (command, args, env) = (Some(program), words, variables);
            }
            How::Url { url: at, headers: of } => (url, headers) = (Some(at), of),
        }
        Self { project_dir, command, args, env, url, headers, from, other }
    }
}

impl Server {
    /// Says what of it cannot be.
    pub(super) fn check(&self) -> Result<(), String> {
        if !self.project_dir.is_absolute() {
            return Err("project_dir is not an absolute path".to_owned());
        }
        match &self.how {
            How::Stdio { command, args, env } => {
                let pairs = env.iter().flat_map(|(name, value)| [name, value]);
                let has_nul = args.iter().chain([command]).chain(pairs).any(|text| text.contains('\0'));
                let bad_name = env.keys().find(|name| name.is_empty() || name.contains('='));
                match (command.is_empty(), has_nul, bad_name) {
                    (true, _, _) => Err("the command is empty".to_owned()),
                    (_, true, _) => Err("a text has a NUL character".to_owned()),
                    (_, _, Some(name)) => Err(format!("no variable can be called {name:?}")),
                    (false, false, None) => Ok(()),
                }
            }
            How::Url { url, .. } if url.is_empty() => Err("the URL is empty".to_owned()),
            How::Url { .. } => Ok(()),
        }
    }
}

/// Without what may be secret.
impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("project_dir", &self.project_dir).field("how", &self.how).finish_non_exhaustive()
    }
}

/// Without what may be secret.
impl fmt::Debug for How {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdio { command, .. } => f.debug_struct("Stdio").field("command", command).finish_non_exhaustive(),
            Self::Url { .. } => f.debug_struct("Url").finish_non_exhaustive(),
        }
    }
}
