//! The open journal file, and the meaning of its errors.
//!
//! `journal.db` is a regular file with mode 0600. Another process that has the database locked is waited for only for a
//! limited time.

use super::schema::{self, DatabaseKind};
use super::{JournalChange, Recall, change};
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

/// How long to wait for another process that has the database locked.
const BUSY_TIMEOUT: Duration = Duration::from_millis(250);

/// Journals up to this size are checked completely when they are opened, which takes some 10 ms.
const CHECKED_BYTES: u64 = 8 << 20;

/// The number of rows of a table that one sweep removes.
const SWEPT_ROWS: u32 = 500;

/// The number of pages that one sweep returns to the file system.
const FREED_PAGES: u32 = 256;

/// What an error of SQLite or of the file system means for the journal.
#[derive(Debug)]
pub(super) enum JournalError {
    /// The file cannot be used as a journal, for this reason.
    Corrupt(String),
    /// A later Linchpin wrote the file, with this schema version.
    Newer(usize),
    /// Another process has the database locked.
    Locked,
    /// The file cannot be read or written at the moment.
    Io(io::Error),
}

impl From<io::Error> for JournalError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<rusqlite::Error> for JournalError {
    fn from(error: rusqlite::Error) -> Self {
        let corrupt = || Self::Corrupt(error.to_string());
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::FileLockingProtocolFailed) => {
                Self::Locked
            }
            Some(ErrorCode::DiskFull) => Self::Io(Errno::NOSPC.into()),
            Some(ErrorCode::ReadOnly) => Self::Io(Errno::ROFS.into()),
            Some(ErrorCode::PermissionDenied | ErrorCode::AuthorizationForStatementDenied) => {
                Self::Io(Errno::ACCESS.into())
            }
            Some(
                ErrorCode::SystemIoFailure
                | ErrorCode::CannotOpen
                | ErrorCode::OutOfMemory
                | ErrorCode::NoLargeFileSupport,
            ) => Self::Io(io::Error::other(error.to_string())),
            // The tables do not match the schema version, or the pages do not match the tables.
            Some(_) | None => corrupt(),
        }
    }
}

impl JournalError {
    pub(super) fn problem(&self, path: &Path) -> Problem {
        let what = format!("the journal {} cannot be written", path.display());
        match self {
            Self::Corrupt(why) => super::unusable(format!("{what}: {why}"), path),
            Self::Newer(version) => super::unusable(format!("{what}: its schema version is {version}"), path),
            Self::Locked => Problem::new(Code::LockTimeout, format!("{what}: another process has it locked"))
                .seen("path", path.display().to_string())
                .next(format!("fuser -v {}    (shows the process)", path.display()))
                .next("end that process; after that, the hub writes the journal again"),
            Self::Io(error) => cannot_write(error, what, path),
        }
    }
}

#[derive(Debug)]
pub(super) struct JournalStore {
    connection: Connection,
    /// The device and the inode of the file.
    file: (u64, u64),
}

impl JournalStore {
    /// Opens the journal, or creates one, and reads what has to be recalled.
    pub(super) fn open(path: &Path) -> Result<(Self, Recall), JournalError> {
        let (file, size) = prepare(path)?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        let version = match schema::kind_of(&connection)? {
            DatabaseKind::Journal(version) => version,
            DatabaseKind::Newer(version) => return Err(JournalError::Newer(version)),
            DatabaseKind::Foreign => {
                return Err(JournalError::Corrupt(String::from("it is the database of another program")));
            }
        };
        if version == 0 {
            connection.execute_batch("PRAGMA auto_vacuum = INCREMENTAL")?;
        }
        // The cache has a quarter of a megabyte, because the hub reads the journal only when it starts.
        connection.execute_batch(
            "PRAGMA cache_size = -256; PRAGMA temp_store = MEMORY; PRAGMA trusted_schema = OFF;
             PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;
             PRAGMA wal_autocheckpoint = 256; PRAGMA journal_size_limit = 1048576;",
        )?;
        schema::migrate(&mut connection, version)?;
        if size <= CHECKED_BYTES {
            let found: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
            if found != "ok" {
                return Err(JournalError::Corrupt(found));
            }
        }
        let recall = change::recall(&connection)?;
        Ok((Self { connection, file }, recall))
    }

    /// Whether the path still refers to this file.
    pub(super) fn is_current(&self, path: &Path) -> bool {
        path.symlink_metadata().is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.file)
    }

    /// Writes these changes in one transaction.
    pub(super) fn write<'c>(&mut self, changes: impl Iterator<Item = &'c JournalChange>) -> Result<(), JournalError> {
        let now = Timestamp::now();
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for change in changes {
            change.write(&transaction, now)?;
        }
        Ok(transaction.commit()?)
    }

    /// Removes some of the rows that are older than `before`. Returns whether there may be more of them.
    pub(super) fn sweep(&self, before: Timestamp) -> Result<bool, JournalError> {
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

/// Checks the file at `path`, or creates it. Returns its device and inode, and its size.
fn prepare(path: &Path) -> Result<((u64, u64), u64), JournalError> {
    let metadata = match path.symlink_metadata() {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => create(path)?.metadata()?,
        Err(error) => return Err(error.into()),
    };
    if !metadata.is_file() {
        return Err(JournalError::Corrupt(String::from("it is not a regular file")));
    }
    if metadata.uid() != rustix::process::geteuid().as_raw() || metadata.nlink() > 1 {
        return Err(JournalError::Corrupt(String::from("it belongs to another user or has a second name")));
    }
    if metadata.mode() & 0o077 != 0 {
        std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
    }
    Ok(((metadata.dev(), metadata.ino()), metadata.len()))
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}
