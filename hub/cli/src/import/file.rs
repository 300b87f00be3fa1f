//! A file that belongs to an agent: read, backed up, replaced.
//!
//! Owns [`Content`] and the way a file is replaced. Invariant: what is replaced is exactly what was read: a regular file of
//! ours, with one name, unchanged since; links are followed and stay; mode stays; the backup is written before, for us
//! only, and never over another one. Never: writes in place.

use super::edit::{self, Change};
use super::{edit_toml, jsonc};
use jiff::Timestamp;
use linchpin_shared::problem::{Code, Problem};
use linchpin_shared::registry::atomic;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::fs::OpenOptions;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The largest file that is read, in bytes. Claude Code keeps its histories in the same file as its servers.
const MAX_BYTES: u64 = 256 << 20;

/// A file and what stands in it.
#[derive(Debug, Clone)]
pub(super) struct Content {
    /// As it was named.
    pub(super) file: PathBuf,
    /// Where it really is.
    pub(super) real: PathBuf,
    pub(super) text: String,
    mode: u32,
}

impl Content {
    /// Reads a file; `None` when there is none.
    ///
    /// # Errors
    /// When it cannot be read, or is no file that could be replaced.
    pub(super) fn read(file: &Path) -> Result<Option<Self>, Problem> {
        let look = |error: &io::Error| {
            Problem::from_io(error, Code::BadRequest, format!("cannot read {}", file.display()))
                .next(format!("ls -l {}", file.display()))
        };
        let real = match file.canonicalize() {
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
            found => found.map_err(|error| look(&error))?,
        };
        let facts = real.metadata().map_err(|error| look(&error))?;
        let ours = rustix::process::geteuid().as_raw();
        let why = match () {
            () if !facts.is_file() => Some("it is not a regular file"),
            () if facts.uid() != ours => Some("it belongs to another user"),
            () if facts.nlink() > 1 => Some("it has several names (hard links), of which one would be left behind"),
            () if facts.len() > MAX_BYTES => Some("it is too large"),
            () => None,
        };
        if let Some(why) = why {
            return Err(Problem::new(Code::BadRequest, format!("{} is not touched: {why}", real.display()))
                .next(format!("ls -l {}", real.display()))
                .next("linchpin import FILE…    (with the files that you want)"));
        }
        let bytes = std::fs::read(&real).map_err(|error| look(&error))?;
        let text = String::from_utf8(bytes).map_err(|_| {
            Problem::new(Code::BadRequest, format!("{} is not UTF-8", file.display())).next("save it as UTF-8")
        })?;
        Ok(Some(Self { file: file.to_owned(), real, text, mode: facts.mode() & 0o7777 }))
    }

    /// What stands in it.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub(super) fn value(&self) -> Result<Value, Problem> {
        value(&self.text, &self.real)
    }

    /// Where its backup will be: beside it, under a name that is free.
    pub(super) fn backup(&self, now: Timestamp) -> PathBuf {
        let stamp = now.strftime("%Y%m%dT%H%M%SZ");
        let name = self.file.file_name().unwrap_or_default().to_string_lossy();
        let names = (1..).map(|n| match n {
            1 => format!("{name}.linchpin-backup-{stamp}"),
            n => format!("{name}.linchpin-backup-{stamp}-{n}"),
        });
        let mut paths = names.map(|name| self.file.with_file_name(name));
        paths.find(|path| path.symlink_metadata().is_err()).unwrap_or_default()
    }

    /// Writes the backup.
    ///
    /// # Errors
    /// When it cannot be written, or is there already.
    pub(super) fn back_up(&self, backup: &Path) -> Result<(), Problem> {
        let write = || {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(backup)?;
            file.write_all(self.text.as_bytes())?;
            file.sync_all()
        };
        write().map_err(|error| {
            Problem::from_io(&error, Code::Internal, format!("cannot write the backup {}", backup.display()))
                .next("nothing was changed; make room there, and try again")
        })
    }

    /// Replaces the file by this text.
    ///
    /// # Errors
    /// [`Code::Cancelled`] when it is not any more what was read; what keeps it from being written. It is then as it was.
    pub(super) fn replace(&self, text: &str) -> Result<(), Problem> {
        let now = Self::read(&self.file)?;
        if !now.is_some_and(|now| now.real == self.real && now.text == self.text) {
            return Err(Problem::new(Code::Cancelled, format!("{} was changed meanwhile", self.file.display()))
                .next("close the agent, which may write it at any moment, and try again"));
        }
        atomic::write_as(&self.real, text.as_bytes(), self.mode).map_err(|error| {
            Problem::from_io(&error, Code::Internal, format!("cannot write {}", self.real.display()))
                .next("it is as it was")
        })
    }
}

/// What stands in a text, by the name of its file.
///
/// # Errors
/// Where it cannot be read.
pub(super) fn value(text: &str, file: &Path) -> Result<Value, Problem> {
    // An agent that was never configured may have left an empty file.
    if text.trim().is_empty() {
        return Ok(Value::Object(serde_json::Map::new()));
    }
    let read = if is_toml(file) { edit_toml::read(text) } else { jsonc::parse(text).map(|node| node.value()) };
    read.map_err(|problem| unreadable(file, &problem))
}

/// The text with these changes, by the name of its file.
///
/// # Errors
/// As the editors have it.
pub(super) fn changed(text: &str, file: &Path, changes: &[Change]) -> Result<String, Problem> {
    if changes.is_empty() {
        return Ok(text.to_owned());
    }
    let changed = if is_toml(file) { edit_toml::toml(text, changes) } else { edit::json(text, changes) };
    changed.map_err(|problem| unreadable(file, &problem))
}

fn unreadable(file: &Path, problem: &Problem) -> Problem {
    Problem::new(problem.code, format!("{}: {}", file.display(), problem.detail))
        .next("correct it: its agent cannot read it either")
        .next("linchpin import FILE…    (with the other files)")
}

fn is_toml(file: &Path) -> bool {
    file.extension().is_some_and(|extension| extension == "toml")
}

/// What tells a text from others.
pub(super) fn print(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}
