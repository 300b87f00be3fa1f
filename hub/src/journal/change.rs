//! What is kept in the journal, and how it is written.
//!
//! Owns [`Change`] and the rows behind it. Invariant: each change says all of its row, so writing one twice is writing it
//! once, and the last one counts. Never: knows what a row means to who keeps it.

use super::Recall;
use jiff::Timestamp;
use rusqlite::{Connection, Row, params};
use serde::{Deserialize, Serialize};

/// So many sessions and lists are recalled at most: of more, only those that were used last.
const MAX_SESSIONS: u32 = 4096;
const MAX_LISTS: u32 = 8192;

/// One change.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// A session as it is now.
    Session(Session),
    /// The session of this id was ended.
    SessionEnded(String),
    /// A list as it is now.
    List(List),
    /// Something happened.
    Event(Event),
}

/// An agent's MCP session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Its id.
    pub id: String,
    /// Path and query of its address.
    pub scope: String,
    /// The agreed version.
    pub version: String,
    /// The params of its `initialize`, as they came.
    pub initialize: Option<String>,
    /// The log level that it asked for.
    pub level: Option<String>,
    /// The resources that it subscribed to.
    pub subscriptions: Vec<Subscription>,
    /// The tasks that it began, oldest first.
    pub tasks: Vec<SavedTask>,
    /// Fingerprints of the tools, prompts and resources that it knows.
    pub fetched: [Option<u64>; 3],
    /// When it was used last.
    pub used_at: Timestamp,
}

/// A task that a session began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedTask {
    /// Its place among those of the session.
    pub number: u64,
    /// Its server, and in place of a URI the server's name of it.
    pub of: Subscription,
}

/// A subscription to a resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscription {
    /// The instance.
    pub instance: String,
    /// Its server.
    pub server: String,
    /// The instance's project directory.
    pub project: String,
    /// For whom the session with the server is.
    pub lane: String,
    /// What of it.
    pub uri: String,
}

/// A list of an MCP server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct List {
    /// The id of the instance.
    pub instance: String,
    /// Its server.
    pub server: String,
    /// For whom the session with the server is.
    pub lane: String,
    /// What it lists.
    pub kind: String,
    /// The list.
    pub items: String,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// When.
    pub at: Timestamp,
    /// On which topic.
    pub topic: String,
    /// What.
    pub kind: String,
    /// The details.
    pub data: serde_json::Value,
}

impl Change {
    /// Writes it, as of `now`.
    pub(super) fn write(&self, to: &Connection, now: Timestamp) -> rusqlite::Result<()> {
        match self {
            Self::Session(session) => session.write(to),
            Self::SessionEnded(id) => to.execute("DELETE FROM sessions WHERE id = ?1", [id]).map(drop),
            Self::List(list) => list.write(to, now),
            Self::Event(event) => event.write(to),
        }
    }
}

impl Session {
    fn write(&self, to: &Connection) -> rusqlite::Result<()> {
        let [tools, prompts, resources] = self.fetched.map(|print| print.map(u64::cast_signed));
        let subscriptions = serde_json::to_string(&self.subscriptions).unwrap_or_else(|_| String::from("[]"));
        let tasks = serde_json::to_string(&self.tasks).unwrap_or_else(|_| String::from("[]"));
        let mut put = to.prepare(
            "INSERT OR REPLACE INTO sessions
             (id, scope, version, initialize, level, subscriptions, tools, prompts, resources, used_at, tasks)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
        )?;
        put.execute(params![
            self.id,
            self.scope,
            self.version,
            self.initialize,
            self.level,
            subscriptions,
            tools,
            prompts,
            resources,
            self.used_at.as_millisecond(),
            tasks
        ])
        .map(drop)
    }

    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let print = |at| Ok::<_, rusqlite::Error>(row.get::<_, Option<i64>>(at)?.map(i64::cast_unsigned));
        Ok(Self {
            id: row.get(0)?,
            scope: row.get(1)?,
            version: row.get(2)?,
            initialize: row.get(3)?,
            level: row.get(4)?,
            subscriptions: serde_json::from_str(&row.get::<_, String>(5)?).unwrap_or_default(),
            fetched: [print(6)?, print(7)?, print(8)?],
            used_at: Timestamp::from_millisecond(row.get(9)?).unwrap_or_default(),
            tasks: serde_json::from_str(&row.get::<_, String>(10)?).unwrap_or_default(),
        })
    }
}

impl List {
    fn write(&self, to: &Connection, now: Timestamp) -> rusqlite::Result<()> {
        let mut put = to.prepare(
            "INSERT OR REPLACE INTO lists (instance, server, lane, kind, items, seen_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?;
        let row = params![self.instance, self.server, self.lane, self.kind, self.items, now.as_millisecond()];
        put.execute(row).map(drop)
    }

    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            instance: row.get(0)?,
            server: row.get(1)?,
            lane: row.get(2)?,
            kind: row.get(3)?,
            items: row.get(4)?,
        })
    }
}

impl Event {
    fn write(&self, to: &Connection) -> rusqlite::Result<()> {
        let mut put = to.prepare("INSERT INTO events (at, topic, kind, data) VALUES (?1, ?2, ?3, ?4)")?;
        put.execute(params![self.at.as_millisecond(), self.topic, self.kind, self.data.to_string()]).map(drop)
    }
}

/// Everything that is recalled when a hub starts.
pub(super) fn recall(from: &Connection) -> rusqlite::Result<Recall> {
    let mut sessions = from.prepare(
        "SELECT id, scope, version, initialize, level, subscriptions, tools, prompts, resources, used_at, tasks
         FROM sessions ORDER BY used_at DESC LIMIT ?1",
    )?;
    let sessions = sessions.query_map([MAX_SESSIONS], Session::read)?.collect::<Result<_, _>>()?;
    let mut lists =
        from.prepare("SELECT instance, server, lane, kind, items FROM lists ORDER BY seen_at DESC LIMIT ?1")?;
    let lists = lists.query_map([MAX_LISTS], List::read)?.collect::<Result<_, _>>()?;
    Ok(Recall { sessions, lists })
}
