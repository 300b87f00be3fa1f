//! `hub.json`: how everybody else finds the hub.
//!
//! Owns the file's format and the question "is that hub there?". The file outlives the hub, so that the next one keeps
//! the token and the port that agents were configured with; whether it is current is told by the hub's lease and by the
//! identity in it, never by the file's existence.
//! Invariant: mode 0600, written as a whole. Never: put the token anywhere else.

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
    /// The format.
    pub format: u32,
    /// Where the hub listens, for example `http://127.0.0.1:7777`.
    pub url: String,
    /// The port of `url`.
    pub port: u16,
    /// The hub's process.
    pub process: Identity,
    /// The hub's version.
    pub version: String,
    /// The bearer token of the API.
    pub token: String,
    /// Since when it runs.
    pub started_at: Timestamp,
    /// Since when it stops, or was stopped, on purpose. Whoever sees this starts the next hub only when it is needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped_at: Option<Timestamp>,
}

/// Without the token, which never goes to a log.
impl std::fmt::Debug for HubFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HubFile").field("url", &self.url).field("pid", &self.process.pid).finish_non_exhaustive()
    }
}

impl HubFile {
    /// The file as it is, current or not; `None` when there is none or it cannot be understood.
    ///
    /// # Errors
    /// When the file exists and may not be read, or another user may have written it.
    pub fn read(home: &Home) -> Result<Option<Self>, Problem> {
        let path = home.hub_file();
        match private::read(&path, MAX_BYTES) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
            Err(why) if why.is_missing() => Ok(None),
            // Of a home that cannot be used no file can.
            Err(why) => Err(check_private_dir(home.root()).err().unwrap_or_else(|| unreadable(&why, &path))),
        }
    }

    /// The hub that serves now.
    ///
    /// # Errors
    /// As [`HubFile::read`].
    pub fn current(home: &Home) -> Result<Option<Self>, Problem> {
        Ok(Self::running(home)?.filter(|file| file.stopped_at.is_none()))
    }

    /// The hub whose process runs now; it may be about to stop.
    ///
    /// # Errors
    /// As [`HubFile::read`].
    pub fn running(home: &Home) -> Result<Option<Self>, Problem> {
        let Some(file) = Self::read(home)? else { return Ok(None) };
        let held = Lease::is_held(&home.hub_lease()).unwrap_or(true);
        Ok((held && file.process.is_alive()).then_some(file))
    }

    /// Writes the file as a whole.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, home: &Home) -> Result<(), Problem> {
        let path = home.hub_file();
        let bytes = serde_json::to_vec_pretty(self).map_err(|error| Problem::new(Code::Internal, error.to_string()))?;
        atomic::write(&path, &bytes)
            .map_err(|error| cannot_write(&error, format!("cannot write {}", path.display()), &path))
    }
}

fn unreadable(why: &Untrusted, path: &Path) -> Problem {
    why.problem(Code::HomeUnusable, path)
        .next("linchpin doctor --fix    (closes what is ours and open to others)")
        .next(format!("or: rm {}    (the next hub makes a new one, with a new token)", path.display()))
}
