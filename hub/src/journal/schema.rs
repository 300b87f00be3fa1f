//! The form of the journal.
//!
//! Owns its migrations. Each is one step forward in `user_version` and happens as a whole or not at all; a step that was
//! published is never changed. Never: goes back, or touches a database that is not a journal.

use rusqlite::Connection;

/// Marks a database as a journal of ours: "lnch".
const APPLICATION: i32 = 0x6c6e_6368;

/// The steps; the form of a journal is how many of them it has.
const STEPS: [&str; 2] = [
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

/// What is swept by age, and by which column.
pub(super) const AGED: [(&str, &str); 3] = [("sessions", "used_at"), ("lists", "seen_at"), ("events", "at")];

/// What a database is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// A journal, of this form; an empty one has form 0.
    Ours(usize),
    /// A journal of a later Linchpin, of this form.
    Newer(usize),
    /// No journal.
    Foreign,
}

/// What a database is, which is read and not changed.
pub(super) fn form(connection: &Connection) -> rusqlite::Result<Form> {
    let number = |what: &str| connection.query_row(what, [], |row| row.get::<_, i32>(0));
    let (application, form) = (number("PRAGMA application_id")?, usize::try_from(number("PRAGMA user_version")?));
    let objects = number("SELECT count(*) FROM sqlite_schema")?;
    Ok(match (application, form, objects) {
        (APPLICATION, Ok(form), _) if form > STEPS.len() => Form::Newer(form),
        (0, Ok(0), 0) => Form::Ours(0),
        (APPLICATION, Ok(form), _) => Form::Ours(form),
        (_, Ok(_) | Err(_), _) => Form::Foreign,
    })
}

/// Brings a journal of this form to the newest one.
pub(super) fn migrate(connection: &mut Connection, form: usize) -> rusqlite::Result<()> {
    for (at, step) in STEPS.iter().enumerate().skip(form) {
        let whole = connection.transaction()?;
        whole.execute_batch(step)?;
        whole.pragma_update(None, "application_id", APPLICATION)?;
        whole.pragma_update(None, "user_version", i32::try_from(at + 1).unwrap_or(i32::MAX))?;
        whole.commit()?;
    }
    Ok(())
}
