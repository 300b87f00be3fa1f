//! The changes that are written to the journal, and the rows behind them.
//!
//! Each change has the whole content of its row. So a change may be written twice, and the last one counts. The journal
//! does not interpret what other rooms save in it.

use super::Recall;
use jiff::Timestamp;
use rusqlite::{Connection, Row, params};
use serde::{Deserialize, Serialize};

/// The number of sessions that are recalled. If there are more, those that were used last are recalled.
const MAX_SESSIONS: u32 = 4096;

/// The number of lists that are recalled. If there are more, those that were seen last are recalled.
const MAX_LISTS: u32 = 8192;

/// A change of the journal.
#[derive(Debug, Clone, PartialEq)]
pub enum JournalChange {
    /// Adds or replaces a session.
    Session(SavedSession),
    /// Removes the session with this id.
    SessionEnded(String),
    /// Adds or replaces a list.
    List(SavedList),
    /// Appends an event to the log.
    Event(JournalEvent),
}

/// An MCP session of an agent, with everything that the next hub needs to continue it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedSession {
    /// The id of the session.
    pub id: String,
    /// The path and the query of its endpoint.
    pub scope: String,
    /// The negotiated protocol version.
    pub version: String,
    /// The unchanged params of its `initialize` request.
    pub initialize: Option<String>,
    /// The log level that the client set.
    pub level: Option<String>,
    /// The resources that the client subscribed to.
    pub subscriptions: Vec<SavedSubscription>,
    /// The MCP tasks of the session, the oldest first.
    pub tasks: Vec<SavedTask>,
    /// The fingerprints of the tools, prompts and resources that the client knows.
    pub fetched: [Option<u64>; 3],
    /// When the session was used last.
    pub used_at: Timestamp,
}

/// An MCP task of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedTask {
    /// The number of the task within its session.
    pub number: u64,
    /// The server of the task. In place of a URI it has the id that the server gave to the task.
    pub of: SavedSubscription,
}

/// A subscription to a resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedSubscription {
    /// The name of the instance.
    pub instance: String,
    /// The name of the server within its instance.
    pub server: String,
    /// The project directory of the instance.
    pub project: String,
    /// The clients that share the session with the server.
    #[serde(rename = "lane")]
    pub session_kind: String,
    /// The URI of the resource.
    pub uri: String,
}

/// A list of an MCP server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedList {
    /// The id of the instance.
    pub instance: String,
    /// The name of the server within its instance.
    pub server: String,
    /// The clients that share the session with the server.
    pub session_kind: String,
    /// The method that lists the items, or `about` for the server's own description.
    pub kind: String,
    /// The result of the method as JSON.
    pub items: String,
}

/// An entry of the event log.
#[derive(Debug, Clone, PartialEq)]
pub struct JournalEvent {
    /// The time of the event.
    pub at: Timestamp,
    /// The topic on which it was published.
    pub topic: String,
    /// The kind of the event.
    pub kind: String,
    /// The details of the event.
    pub data: serde_json::Value,
}

impl JournalChange {
    /// Writes the change. `now` is the time at which lists count as seen.
    pub(super) fn write(&self, to: &Connection, now: Timestamp) -> rusqlite::Result<()> {
        match self {
            Self::Session(session) => session.write(to),
            Self::SessionEnded(id) => to.execute("DELETE FROM sessions WHERE id = ?1", [id]).map(drop),
            Self::List(list) => list.write(to, now),
            Self::Event(event) => event.write(to),
        }
    }
}

impl SavedSession {
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

impl SavedList {
    fn write(&self, to: &Connection, now: Timestamp) -> rusqlite::Result<()> {
        let mut put = to.prepare(
            "INSERT OR REPLACE INTO lists (instance, server, lane, kind, items, seen_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?;
        let row = params![self.instance, self.server, self.session_kind, self.kind, self.items, now.as_millisecond()];
        put.execute(row).map(drop)
    }

    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            instance: row.get(0)?,
            server: row.get(1)?,
            session_kind: row.get(2)?,
            kind: row.get(3)?,
            items: row.get(4)?,
        })
    }
}

impl JournalEvent {
    fn write(&self, to: &Connection) -> rusqlite::Result<()> {
        let mut put = to.prepare("INSERT INTO events (at, topic, kind, data) VALUES (?1, ?2, ?3, ?4)")?;
        put.execute(params![self.at.as_millisecond(), self.topic, self.kind, self.data.to_string()]).map(drop)
    }
}

/// Reads everything that is recalled when a hub starts.
pub(super) fn recall(from: &Connection) -> rusqlite::Result<Recall> {
    let mut sessions = from.prepare(
        "SELECT id, scope, version, initialize, level, subscriptions, tools, prompts, resources, used_at, tasks
         FROM sessions ORDER BY used_at DESC LIMIT ?1",
    )?;
    let sessions = sessions.query_map([MAX_SESSIONS], SavedSession::read)?.collect::<Result<_, _>>()?;
    let mut lists =
        from.prepare("SELECT instance, server, lane, kind, items FROM lists ORDER BY seen_at DESC LIMIT ?1")?;
    let lists = lists.query_map([MAX_LISTS], SavedList::read)?.collect::<Result<_, _>>()?;
    Ok(Recall { sessions, lists })
}
