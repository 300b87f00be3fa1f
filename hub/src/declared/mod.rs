//! The list of declared servers: MCP servers that the hub starts on first use.
//!
//! The list is `servers.json`, format 1, beside the settings. It contains what the files of agents contained, including
//! their secrets, so its mode is 0600, and no error, log or `Debug` output shows a value of it. It is the only place from
//! which the hub takes a command that no person typed. Therefore it is read only if it belongs to the user and no one else
//! can write it, like a record. It is replaced as a whole, and unknown fields are kept. A newer format is read, as far as
//! it is known, but not written.

mod server;

pub use server::{ServerEndpoint, ServerSpec};

use jiff::Timestamp;
use linchpin_shared::home::Home;
use linchpin_shared::name;
use linchpin_shared::problem::{Code, Problem};
use linchpin_shared::redact;
use linchpin_shared::registry::private;
use linchpin_shared::registry::{Lease, atomic};
use linchpin_shared::space::cannot_write;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The format that this version writes.
pub const FORMAT: u32 = 1;

/// The size of the largest list that is read, in bytes.
const MAX_BYTES: u64 = 8 << 20;

/// How long to wait for another writer of the list. A change takes milliseconds.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// The list of declared servers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServerList {
    /// The format of the file, see [`FORMAT`].
    pub format: u32,
    /// The servers by name. The instance of a server has the same name.
    #[serde(default)]
    pub servers: BTreeMap<String, ServerSpec>,
    /// The changes of files of agents, so that they can be undone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub imports: Vec<ImportRecord>,
    /// Unknown fields, which are kept.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// A change of a file of an agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ImportRecord {
    /// The path of the file, as the user named it.
    pub file: PathBuf,
    /// The path of the copy of the file before the change.
    pub backup: PathBuf,
    /// The objects that were changed, each as the list of keys that lead to it.
    pub paths: Vec<Vec<String>>,
    /// The SHA-256 of the file after the change, in hexadecimal digits.
    pub after: String,
    /// The names in the list of the servers that came from the file.
    pub servers: Vec<String>,
    /// When the file was changed.
    pub at: Timestamp,
}

impl Default for ServerList {
    fn default() -> Self {
        Self { format: FORMAT, servers: BTreeMap::new(), imports: Vec::new(), other: Map::new() }
    }
}

impl ServerList {
    /// Reads the list of this home. Without a file, the list is empty.
    ///
    /// # Errors
    /// [`Code::BadSettings`] if the file cannot be trusted, is not JSON of this format, or contains an impossible server.
    pub fn read(home: &Home) -> Result<Self, Problem> {
        let path = home.declared_file();
        match private::read(&path, MAX_BYTES) {
            Ok(bytes) => Self::parse(&bytes, &path),
            Err(why) if why.is_missing() => Ok(Self::default()),
            Err(why) => Err(why.problem(Code::BadSettings, &path).next(format!(
                "chmod 600 {}    (if the file is yours: it contains commands that the hub runs)",
                path.display()
            ))),
        }
    }

    fn parse(bytes: &[u8], path: &Path) -> Result<Self, Problem> {
        let bad = |why: String| {
            Problem::new(Code::BadSettings, format!("the list of declared servers cannot be used: {why}"))
                .seen("path", path.display().to_string())
                .next("correct it, or remove it and run linchpin import again")
        };
        let mut input = serde_json::Deserializer::from_slice(bytes);
        let list: Self = serde_path_to_error::deserialize(&mut input).map_err(|error| bad(describe(&error)))?;
        input.end().map_err(|error| bad(error.to_string()))?;
        for (name, server) in &list.servers {
            name::check(name).map_err(|problem| bad(problem.detail))?;
            server.check().map_err(|why| bad(format!("{name}: {why}")))?;
        }
        Ok(list)
    }

    /// Changes the list under a lock: reads the file, calls `change`, and replaces the file. If `change` fails, nothing is
    /// written.
    ///
    /// # Errors
    /// The errors of [`ServerList::read`] and of `change`, [`Code::LockTimeout`], or an error of writing the file.
    pub fn change<T>(home: &Home, change: impl FnOnce(&mut Self) -> Result<T, Problem>) -> Result<T, Problem> {
        home.prepare()?;
        let lock = home.root().join("servers.lock");
        let locked = Lease::acquire(&lock, LOCK_TIMEOUT)
            .map_err(|error| cannot_write(&error, format!("cannot lock {}", lock.display()), &lock))?;
        let Some(_locked) = locked else {
            return Err(Problem::new(
                Code::LockTimeout,
                "another linchpin process is changing the list of declared servers",
            )
            .seen("path", lock.display().to_string())
            .next("try again in a moment"));
        };
        let mut list = Self::read(home)?;
        let done = change(&mut list)?;
        list.write(home)?;
        Ok(done)
    }

    fn write(&self, home: &Home) -> Result<(), Problem> {
        let path = home.declared_file();
        if self.format > FORMAT {
            return Err(Problem::new(
                Code::BadSettings,
                "a later version of linchpin wrote the list of declared servers",
            )
            .seen("path", path.display().to_string())
            .next("use the later version to change it"));
        }
        let failed = |error: std::io::Error| cannot_write(&error, format!("cannot write {}", path.display()), &path);
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).map_err(failed)?;
        }
        let bytes = serde_json::to_vec_pretty(self).map_err(|error| failed(error.into()))?;
        atomic::write(&path, &bytes).map_err(failed)
    }
}

/// Describes an error and its place without the value, which may be a secret.
fn describe(error: &serde_path_to_error::Error<serde_json::Error>) -> String {
    let text = error.inner().to_string();
    let text = match text.split_once("invalid type: ").or_else(|| text.split_once("invalid value: ")) {
        Some((_, rest)) => format!("expected {}", rest.rsplit_once("expected ").map_or(rest, |(_, what)| what)),
        None => redact::text(&text),
    };
    format!("{text} (in {})", error.path())
}

#[cfg(test)]
mod tests;
