//! The schema of the journal and its migrations.
//!
//! Each migration is one step forward in `user_version`, in one transaction. A published step is never changed, and there
//! is no way back. A database that is not a journal is not touched.

use rusqlite::Connection;

/// The `application_id` of a journal: "lnch".
const APPLICATION_ID: i32 = 0x6c6e_6368;

/// The migrations. The version of a schema is the number of migrations that it has.
const MIGRATIONS: [&str; 2] = [
    "
    CREATE TABLE sessions (
        id TEXT PRIMARY KEY, scope TEXT NOT NULL, version TEXT NOT NULL, initialize TEXT, level TEXT,
        subscriptions TEXT NOT NULL, tools INTEGER, prompts INTEGER, resources INTEGER, used_at INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX sessions_used_at ON sessions (used_at);
    CREATE TABLE lists (
        instance TEXT NOT NULL, server TEXT NOT NULL, lane TEXT NOT NULL, kind TEXT NOT NULL, items TEXT NOT NULL,
        seen_at INTEGER NOT NULL, PRIMARY KEY (instance, server, lane, kind)
    ) STRICT;
    CREATE INDEX lists_seen_at ON lists (seen_at);
    CREATE TABLE events (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, at INTEGER NOT NULL, topic TEXT NOT NULL, kind TEXT NOT NULL,
        data TEXT NOT NULL
    ) STRICT;
    CREATE INDEX events_at ON events (at);
",
    "
    ALTER TABLE sessions ADD COLUMN tasks TEXT NOT NULL DEFAULT '[]';
",
];

/// The tables that are swept by age, each with the column that tells it.
pub(super) const AGED: [(&str, &str); 3] = [("sessions", "used_at"), ("lists", "seen_at"), ("events", "at")];

/// The kind of a database, with the version of its schema.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum DatabaseKind {
    /// A journal that this Linchpin can use. An empty database has version 0.
    Journal(usize),
    /// A journal of a later Linchpin.
    Newer(usize),
    /// A database of another program.
    Foreign,
}

/// Determines the kind of a database without changing it.
pub(super) fn kind_of(connection: &Connection) -> rusqlite::Result<DatabaseKind> {
    let number = |what: &str| connection.query_row(what, [], |row| row.get::<_, i32>(0));
    let (application, version) = (number("PRAGMA application_id")?, usize::try_from(number("PRAGMA user_version")?));
    let objects = number("SELECT count(*) FROM sqlite_schema")?;
    Ok(match (application, version, objects) {
        (APPLICATION_ID, Ok(version), _) if version > MIGRATIONS.len() => DatabaseKind::Newer(version),
        (0, Ok(0), 0) => DatabaseKind::Journal(0),
        (APPLICATION_ID, Ok(version), _) => DatabaseKind::Journal(version),
        (_, Ok(_) | Err(_), _) => DatabaseKind::Foreign,
    })
}

/// Brings a journal of this version to the newest one.
pub(super) fn migrate(connection: &mut Connection, version: usize) -> rusqlite::Result<()> {
    for (at, step) in MIGRATIONS.iter().enumerate().skip(version) {
        let transaction = connection.transaction()?;
        transaction.execute_batch(step)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", i32::try_from(at + 1).unwrap_or(i32::MAX))?;
        transaction.commit()?;
    }
    Ok(())
}
