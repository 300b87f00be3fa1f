//! A file of an agent: how it is read, backed up and replaced.
//!
//! A file is replaced only if it is still exactly what was read: a regular file that belongs to this user, has one name, and is unchanged.
//! Links are followed and stay, and the mode stays. The backup is written first, with mode 0600, and never overwrites
//! another one. No file is written in place.

use super::edit::{self, ObjectEdit};
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

/// The largest file that is read, in bytes. Claude Code keeps its history in the same file as its servers.
const MAX_BYTES: u64 = 256 << 20;

/// A file and its content.
#[derive(Debug, Clone)]
pub(super) struct FileContent {
    /// The path by which it was named.
    pub(super) file: PathBuf,
    /// The path with links resolved.
    pub(super) real: PathBuf,
    pub(super) text: String,
    mode: u32,
}

impl FileContent {
    /// Reads a file; returns `None` if it does not exist.
    ///
    /// # Errors
    /// If it cannot be read, or could not be replaced.
    pub(super) fn read(file: &Path) -> Result<Option<Self>, Problem> {
        let unreadable_file = |error: &io::Error| {
            Problem::from_io(error, Code::BadRequest, format!("cannot read {}", file.display()))
                .next(format!("ls -l {}", file.display()))
        };
        let real = match file.canonicalize() {
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
            found => found.map_err(|error| unreadable_file(&error))?,
        };
        let metadata = real.metadata().map_err(|error| unreadable_file(&error))?;
        let ours = rustix::process::geteuid().as_raw();
        let why = match () {
            () if !metadata.is_file() => Some("it is not a regular file"),
            () if metadata.uid() != ours => Some("it belongs to another user"),
            () if metadata.nlink() > 1 => {
                Some("it has several names (hard links), and only one of them would be updated")
            }
            () if metadata.len() > MAX_BYTES => Some("it is too large"),
            () => None,
        };
        if let Some(why) = why {
            return Err(Problem::new(Code::BadRequest, format!("{} is left unchanged: {why}", real.display()))
                .next(format!("ls -l {}", real.display()))
                .next("linchpin import FILE…    (with the files to import)"));
        }
        let bytes = std::fs::read(&real).map_err(|error| unreadable_file(&error))?;
        let text = String::from_utf8(bytes).map_err(|_| {
            Problem::new(Code::BadRequest, format!("{} is not UTF-8", file.display())).next("save it in UTF-8")
        })?;
        Ok(Some(Self { file: file.to_owned(), real, text, mode: metadata.mode() & 0o7777 }))
    }

    /// Parses the content.
    ///
    /// # Errors
    /// If it cannot be parsed.
    pub(super) fn value(&self) -> Result<Value, Problem> {
        value(&self.text, &self.real)
    }

    /// Returns the path of its backup: in the same directory, with a name that is free.
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
    /// If it cannot be written, or exists already.
    pub(super) fn back_up(&self, backup: &Path) -> Result<(), Problem> {
        let write = || {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(backup)?;
            file.write_all(self.text.as_bytes())?;
            file.sync_all()
        };
        write().map_err(|error| {
            Problem::from_io(&error, Code::Internal, format!("cannot write the backup {}", backup.display()))
                .next("nothing was changed; free some space there, and try again")
        })
    }

    /// Replaces the content by this text.
    ///
    /// # Errors
    /// [`Code::Cancelled`] if the file was changed since it was read; otherwise what prevents writing. The file is
    /// unchanged then.
    pub(super) fn replace(&self, text: &str) -> Result<(), Problem> {
        let now = Self::read(&self.file)?;
        if !now.is_some_and(|now| now.real == self.real && now.text == self.text) {
            return Err(Problem::new(Code::Cancelled, format!("{} was changed in the meantime", self.file.display()))
                .next("close the agent, which may write the file at any time, and try again"));
        }
        atomic::write_as(&self.real, text.as_bytes(), self.mode).map_err(|error| {
            Problem::from_io(&error, Code::Internal, format!("cannot write {}", self.real.display()))
                .next("the file is unchanged")
        })
    }
}

/// Parses a text; the name of its file tells its format.
///
/// # Errors
/// If it cannot be parsed.
pub(super) fn value(text: &str, file: &Path) -> Result<Value, Problem> {
    // An agent that was never configured may have left an empty file.
    if text.trim().is_empty() {
        return Ok(Value::Object(serde_json::Map::new()));
    }
    let read = if is_toml(file) { edit_toml::read(text) } else { jsonc::parse(text).map(|node| node.value()) };
    read.map_err(|problem| unreadable(file, &problem))
}

/// Returns the text with these changes; the name of its file tells its format.
///
/// # Errors
/// Those of the two editors.
pub(super) fn changed(text: &str, file: &Path, changes: &[ObjectEdit]) -> Result<String, Problem> {
    if changes.is_empty() {
        return Ok(text.to_owned());
    }
    let changed = if is_toml(file) { edit_toml::toml(text, changes) } else { edit::json(text, changes) };
    changed.map_err(|problem| unreadable(file, &problem))
}

fn unreadable(file: &Path, problem: &Problem) -> Problem {
    Problem::new(problem.code, format!("{}: {}", file.display(), problem.detail))
        .next("correct it, because its agent cannot read it either")
        .next("linchpin import FILE…    (with the other files only)")
}

fn is_toml(file: &Path) -> bool {
    file.extension().is_some_and(|extension| extension == "toml")
}

/// Returns a hash of the text.
pub(super) fn fingerprint(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}
