//! The list of declared servers: MCP servers that the hub starts on first use.
//!
//! Owns `servers.json`, format 1: beside the settings, mode 0600, because it holds what the agents' own files held, with
//! their secrets. It is the only place from which the hub takes a command that nobody typed.
//! Invariant: it is read only if it is ours and closed to others, like a record, and replaced as a whole; a newer format
//! is read for what is known and never written; fields that are not known here survive.
//! Never: shows a value of it in an error, a log or its `Debug`.

mod server;

pub use server::{How, Server};

use crate::home::Home;
use crate::name;
use crate::problem::{Code, Problem};
use crate::redact;
use crate::registry::private;
use crate::registry::{Lease, atomic};
use crate::space::cannot_write;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The format that this version writes.
pub const FORMAT: u32 = 1;

/// The largest list that is read, in bytes.
const MAX_BYTES: u64 = 8 << 20;

/// How long another writer of the list is waited for. It needs milliseconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// All declared servers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Declared {
    /// The format, see [`FORMAT`].
    pub format: u32,
    /// The servers by their names, which are those of their instances.
    #[serde(default)]
    pub servers: BTreeMap<String, Server>,
    /// Which files of agents were changed, so that it can be undone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub imports: Vec<Import>,
    /// Fields of other formats.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// One change of an agent's file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Import {
    /// The file that was changed, as it was named.
    pub file: PathBuf,
    /// The file as it was before.
    pub backup: PathBuf,
    /// The objects in it that were changed, each by the keys that lead to it.
    pub paths: Vec<Vec<String>>,
    /// SHA-256 of the file as it was after, in hexadecimal digits.
    pub after: String,
    /// The servers that went from there into the list, by their names in the list.
    pub servers: Vec<String>,
    /// When.
    pub at: Timestamp,
}

impl Default for Declared {
    fn default() -> Self {
        Self { format: FORMAT, servers: BTreeMap::new(), imports: Vec::new(), other: Map::new() }
    }
}

impl Declared {
    /// The list of this home; an empty one when there is no file.
    ///
    /// # Errors
    /// [`Code::BadSettings`] when the file may not be trusted, is not JSON of this format, or names what no server can be.
    pub fn read(home: &Home) -> Result<Self, Problem> {
        let path = home.declared_file();
        match private::read(&path, MAX_BYTES) {
            Ok(bytes) => Self::parse(&bytes, &path),
            Err(why) if why.is_missing() => Ok(Self::default()),
            Err(why) => Err(why
                .problem(Code::BadSettings, &path)
                .next(format!("chmod 600 {}    (if it is yours: it names commands that are run)", path.display()))),
        }
    }

    fn parse(bytes: &[u8], path: &Path) -> Result<Self, Problem> {
        let bad = |why: String| {
            Problem::new(Code::BadSettings, format!("the list of declared servers cannot be used: {why}"))
                .seen("path", path.display().to_string())
                .next("correct it, or remove it and run linchpin import again")
        };
        let mut input = serde_json::Deserializer::from_slice(bytes);
        let list: Self = serde_path_to_error::deserialize(&mut input).map_err(|error| bad(told(&error)))?;
        input.end().map_err(|error| bad(error.to_string()))?;
        for (name, server) in &list.servers {
            name::check(name).map_err(|problem| bad(problem.detail))?;
            server.check().map_err(|why| bad(format!("{name}: {why}")))?;
        }
        Ok(list)
    }

    /// Changes the list: reads it, lets `change` do its work, and replaces the file, while no other does the same. Nothing
    /// is written when `change` fails.
    ///
    /// # Errors
    /// As [`Declared::read`], what `change` says, [`Code::LockTimeout`], or what keeps the file from being written.
    pub fn change<T>(home: &Home, change: impl FnOnce(&mut Self) -> Result<T, Problem>) -> Result<T, Problem> {
        home.prepare()?;
        let lock = home.root().join("servers.lock");
        let locked = Lease::acquire(&lock, PATIENCE)
            .map_err(|error| cannot_write(&error, format!("cannot lock {}", lock.display()), &lock))?;
        let Some(_locked) = locked else {
            return Err(Problem::new(Code::LockTimeout, "another linchpin changes the list of declared servers")
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
            return Err(Problem::new(Code::BadSettings, "a newer linchpin wrote the list of declared servers")
                .seen("path", path.display().to_string())
                .next("use that linchpin for changing it"));
        }
        let failed = |error: std::io::Error| cannot_write(&error, format!("cannot write {}", path.display()), &path);
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).map_err(failed)?;
        }
        let bytes = serde_json::to_vec_pretty(self).map_err(|error| failed(error.into()))?;
        atomic::write(&path, &bytes).map_err(failed)
    }
}

/// What is wrong and where, without the value that is: it may be a secret.
fn told(error: &serde_path_to_error::Error<serde_json::Error>) -> String {
    let text = error.inner().to_string();
    let text = match text.split_once("invalid type: ").or_else(|| text.split_once("invalid value: ")) {
        Some((_, rest)) => format!("expected {}", rest.rsplit_once("expected ").map_or(rest, |(_, what)| what)),
        None => redact::text(&text),
    };
    format!("{text} (in {})", error.path())
}

#[cfg(test)]
mod tests;
