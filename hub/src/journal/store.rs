//! The open journal.
//!
//! Owns the connection, and [`Trouble`]: what an error means for the journal. Invariant: `journal.db` is a regular file,
//! mode 0600, and a [`Store`] is of the file that the path names as long as [`Store::is_current`].
//! Never: waits for another process longer than its bound.

use super::schema::{self, Form};
use super::{Change, Recall, change};
use jiff::Timestamp;
use linchpin_shared::problem::{Code, Problem};
use linchpin_shared::space::cannot_write;
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};
use rustix::io::Errno;
use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

/// How long to wait for another process that writes.
const BUSY: Duration = Duration::from_millis(250);

/// Up to this size a journal is read through when it is opened; it takes some 10 ms.
const CHECKED_BYTES: u64 = 8 << 20;

/// So many rows of a table are removed at a time.
const SWEPT_ROWS: u32 = 500;

/// So many pages are given back to the disk at a time.
const FREED_PAGES: u32 = 256;

/// What an error means for the journal.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The file is of no use, for this reason.
    Broken(String),
    /// The file is of a later Linchpin: of this form.
    Newer(usize),
    /// Another process has it.
    Locked,
    /// It cannot be read or written now.
    Failing(io::Error),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Failing(error)
    }
}

impl From<rusqlite::Error> for Trouble {
    fn from(error: rusqlite::Error) -> Self {
        let broken = || Self::Broken(error.to_string());
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::FileLockingProtocolFailed) => {
                Self::Locked
            }
            Some(ErrorCode::DiskFull) => Self::Failing(Errno::NOSPC.into()),
            Some(ErrorCode::ReadOnly) => Self::Failing(Errno::ROFS.into()),
            Some(ErrorCode::PermissionDenied | ErrorCode::AuthorizationForStatementDenied) => {
                Self::Failing(Errno::ACCESS.into())
            }
            Some(
                ErrorCode::SystemIoFailure
                | ErrorCode::CannotOpen
                | ErrorCode::OutOfMemory
                | ErrorCode::NoLargeFileSupport,
            ) => Self::Failing(io::Error::other(error.to_string())),
            // The tables are not what the form says, or the pages are not what the tables say.
            Some(_) | None => broken(),
        }
    }
}

impl Trouble {
    /// As a problem.
    pub(super) fn problem(&self, path: &Path) -> Problem {
        let what = format!("the journal {} cannot be written", path.display());
        match self {
            Self::Broken(why) => super::unusable(format!("{what}: {why}"), path),
            Self::Newer(form) => super::unusable(format!("{what}: it is of form {form}"), path),
            Self::Locked => Problem::new(Code::LockTimeout, format!("{what}: another process has it"))
                .seen("path", path.display().to_string())
                .next(format!("fuser -v {}    (shows who)", path.display()))
                .next("end that program; the hub goes on by itself"),
            Self::Failing(error) => cannot_write(error, what, path),
        }
    }
}

/// The open journal.
#[derive(Debug)]
pub(super) struct Store {
    connection: Connection,
    file: (u64, u64),
}

impl Store {
    /// Opens the journal, or begins one, and recalls what is in it.
    pub(super) fn open(path: &Path) -> Result<(Self, Recall), Trouble> {
        let (file, size) = prepare(path)?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(BUSY)?;
        let form = match schema::form(&connection)? {
            Form::Ours(form) => form,
            Form::Newer(form) => return Err(Trouble::Newer(form)),
            Form::Foreign => return Err(Trouble::Broken(String::from("it is a database of something else"))),
        };
        if form == 0 {
            connection.execute_batch("PRAGMA auto_vacuum = INCREMENTAL")?;
        }
        // A quarter of a megabyte of pages: the hub's memory is counted, and it reads what it wrote only when it starts.
        connection.execute_batch(
            "PRAGMA cache_size = -256; PRAGMA temp_store = MEMORY; PRAGMA trusted_schema = OFF;
             PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;
             PRAGMA wal_autocheckpoint = 256; PRAGMA journal_size_limit = 1048576;",
        )?;
        schema::migrate(&mut connection, form)?;
        if size <= CHECKED_BYTES {
            let found: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
            if found != "ok" {
                return Err(Trouble::Broken(found));
            }
        }
        let recall = change::recall(&connection)?;
        Ok((Self { connection, file }, recall))
    }

    /// Whether the path still names this file.
    pub(super) fn is_current(&self, path: &Path) -> bool {
        path.symlink_metadata().is_ok_and(|facts| (facts.dev(), facts.ino()) == self.file)
    }

    /// Writes these changes as a whole.
    pub(super) fn write<'c>(&mut self, changes: impl Iterator<Item = &'c Change>) -> Result<(), Trouble> {
        let now = Timestamp::now();
        let whole = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for change in changes {
            change.write(&whole, now)?;
        }
        Ok(whole.commit()?)
    }

    /// Removes some of what is older than `before`, and says whether there may be more.
    pub(super) fn sweep(&self, before: Timestamp) -> Result<bool, Trouble> {
        let mut more = false;
        for (table, column) in schema::AGED {
            let some = format!(
                "DELETE FROM {table} WHERE rowid IN (SELECT rowid FROM {table} WHERE {column} < ?1 LIMIT {SWEPT_ROWS})"
            );
            let removed = self.connection.execute(&some, [before.as_millisecond()])?;
            more |= u32::try_from(removed).is_ok_and(|removed| removed == SWEPT_ROWS);
        }
        self.connection.execute_batch(&format!("PRAGMA incremental_vacuum({FREED_PAGES})"))?;
        Ok(more)
    }
}

/// Sees to it that there is a file of ours at `path`, and says which and how large it is.
fn prepare(path: &Path) -> Result<((u64, u64), u64), Trouble> {
    let facts = match path.symlink_metadata() {
        Ok(facts) => facts,
        Err(error) if error.kind() == io::ErrorKind::NotFound => made(path)?.metadata()?,
        Err(error) => return Err(error.into()),
    };
    if !facts.is_file() {
        return Err(Trouble::Broken(String::from("it is not a regular file")));
    }
    if facts.uid() != rustix::process::geteuid().as_raw() || facts.nlink() > 1 {
        return Err(Trouble::Broken(String::from("it is not ours alone")));
    }
    if facts.mode() & 0o077 != 0 {
        std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
    }
    Ok(((facts.dev(), facts.ino()), facts.len()))
}

fn made(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}
