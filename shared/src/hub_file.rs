//! `hub.json`, the file by which other processes find the hub.
//!
//! It outlives the hub, so that the next hub keeps the token and the port with which agents were configured. That the
//! file exists does not mean that it is current: the hub's lease and the process identity in the file decide that. It
//! has mode 0600, is written atomically, and is the only place of the token.

pub mod proof;

use crate::home::{Home, check_private_dir};
use crate::problem::{Code, Problem};
use crate::process::Identity;
use crate::registry::private::{self, Untrusted};
use crate::registry::{Lease, atomic};
use crate::space::cannot_write;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The largest file that is read, in bytes. Ours has less than one thousand.
const MAX_BYTES: u64 = 64 << 10;

/// The content of `hub.json`, format 1.
#[derive(Clone, Serialize, Deserialize)]
pub struct HubFile {
    /// The version of the format.
    pub format: u32,
    /// Where the hub listens, for example `http://127.0.0.1:7777`.
    pub url: String,
    /// The port of `url`.
    pub port: u16,
    /// The process of the hub.
    pub process: Identity,
    /// The version of the hub.
    pub version: String,
    /// The bearer token of the API.
    pub token: String,
    /// When the hub started.
    pub started_at: Timestamp,
    /// When the hub was stopped on purpose. After that, the next hub is started only when it is needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped_at: Option<Timestamp>,
}

/// Leaves out the token, so that it never appears in a log.
impl std::fmt::Debug for HubFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HubFile").field("url", &self.url).field("pid", &self.process.pid).finish_non_exhaustive()
    }
}

impl HubFile {
    /// Reads the file, current or not. Returns `None` if it does not exist or cannot be parsed.
    ///
    /// # Errors
    /// If the file exists but may not be read, or if another user may have written it.
    pub fn read(home: &Home) -> Result<Option<Self>, Problem> {
        let path = home.hub_file();
        match private::read(&path, MAX_BYTES) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
            Err(why) if why.is_missing() => Ok(None),
            // If the home itself cannot be used, that explains it better.
            Err(why) => Err(check_private_dir(home.root()).err().unwrap_or_else(|| unreadable(&why, &path))),
        }
    }

    /// Returns the hub that serves now.
    ///
    /// # Errors
    /// Those of [`HubFile::read`].
    pub fn current(home: &Home) -> Result<Option<Self>, Problem> {
        Ok(Self::running(home)?.filter(|file| file.stopped_at.is_none()))
    }

    /// Returns the hub whose process is running. It may be about to stop.
    ///
    /// # Errors
    /// Those of [`HubFile::read`].
    pub fn running(home: &Home) -> Result<Option<Self>, Problem> {
        let Some(file) = Self::read(home)? else { return Ok(None) };
        let held = Lease::is_held(&home.hub_lease()).unwrap_or(true);
        Ok((held && file.process.is_alive()).then_some(file))
    }

    /// Writes the file atomically.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, home: &Home) -> Result<(), Problem> {
        let path = home.hub_file();
        let bytes = serde_json::to_vec_pretty(self).map_err(|error| Problem::new(Code::Internal, error.to_string()))?;
        atomic::write(&path, &bytes)
            .map_err(|error| cannot_write(&error, format!("cannot write {}", path.display()), &path))
    }
}

fn unreadable(why: &Untrusted, path: &Path) -> Problem {
    why.problem(Code::HomeUnusable, path)
        .next("linchpin doctor --fix    (makes our own files private)")
        .next(format!("or: rm {}    (the next hub creates a new one, with a new token)", path.display()))
}
