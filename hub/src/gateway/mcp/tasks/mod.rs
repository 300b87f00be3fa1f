//! Tasks: calls whose results are fetched later, in both forms that MCP has: that of 2025-11-25, where the client wants
//! a task, and the extension `io.modelcontextprotocol/tasks` of 2026-07-28, where the server makes one.
//!
//! Owns how a client names a task ([`id`]), where such names stand in messages ([`rekey`]) and the stream of what
//! becomes of tasks ([`follow`]). Which tasks a session began is its client's to know; the calls are in `calls`.
//! Invariant: a client's name of a task says which server has it, is signed for that client's session (or, without a
//! session, for whoever was told it) and is good over restarts of the hub; a server sees its own names only.
//! Never: keeps a result, or says what became of a task in its server's place.

pub(crate) mod follow;
pub(crate) mod id;
pub(crate) mod rekey;

/// The extension of 2026-07-28.
pub(crate) const EXTENSION: &str = "io.modelcontextprotocol/tasks";

/// The notification of 2026-07-28.
pub(crate) const TOLD: &str = "notifications/tasks";

/// The notification of 2025-11-25.
pub(crate) const STATUS: &str = "notifications/tasks/status";

/// The member of `_meta` by which messages of 2025-11-25 name the task that they belong to.
pub(crate) const RELATED: &str = "io.modelcontextprotocol/related-task";
