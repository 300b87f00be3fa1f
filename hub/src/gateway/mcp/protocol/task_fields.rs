//! Tasks: calls whose results are fetched later, in both forms that MCP has: that of 2025-11-25, where the client wants
//! a task, and the extension `io.modelcontextprotocol/tasks` of 2026-07-28, where the server makes one.
//!
//! Owns how a client names a task ([`crate::gateway::mcp::session::task_id`]), where such names stand in messages ([`super::task_fields`]) and the stream of what
//! becomes of tasks ([`crate::gateway::mcp::relay::follow_tasks`]). Which tasks a session began is its client's to know; the calls are in `calls`.
//! Invariant: a client's name of a task says which server has it, is signed for that client's session (or, without a
//! session, for whoever was told it) and is good over restarts of the hub; a server sees its own names only.
//! Never: keeps a result, or says what became of a task in its server's place.

use super::json::{Object, Span};
/// The extension of 2026-07-28.
pub(crate) const EXTENSION: &str = "io.modelcontextprotocol/tasks";

/// The notification of 2026-07-28.
pub(crate) const TASK_NOTIFICATION: &str = "notifications/tasks";

/// The notification of 2025-11-25.
pub(crate) const TASK_STATUS_NOTIFICATION: &str = "notifications/tasks/status";

/// The member of `_meta` by which messages of 2025-11-25 name the task that they belong to.
pub(crate) const RELATED: &str = "io.modelcontextprotocol/related-task";

/// The `taskId` of params or a result.
pub(crate) fn named(text: &str, at: Span) -> Option<Span> {
    string(text, Object::parse(text, at).ok()?.get("taskId")?)
}

/// The name of the task that a call's result has in place of what was asked for.
pub(crate) fn made(text: &str, result: Span) -> Option<Span> {
    // Most results are no tasks, and may be large.
    if !result.of(text).contains("taskId") {
        return None;
    }
    let members = Object::parse(text, result).ok()?;
    match members.get("resultType") {
        Some(kind) if kind.of(text) == "\"task\"" => string(text, members.get("taskId")?),
        Some(_) => None,
        None => string(text, members.object(text, "task").ok()??.get("taskId")?),
    }
}

/// The name of the task that params or a result say they belong to.
pub(crate) fn related(text: &str, at: Span) -> Option<Span> {
    if !at.of(text).contains(RELATED) {
        return None;
    }
    let meta = Object::parse(text, at).ok()?.object(text, "_meta").ok()??;
    string(text, meta.object(text, RELATED).ok()??.get("taskId")?)
}

fn string(text: &str, at: Span) -> Option<Span> {
    at.of(text).starts_with('"').then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(find: fn(&str, Span) -> Option<Span>, text: &str) -> Option<String> {
        find(text, Span::whole(text)).and_then(|at| at.string(text))
    }

    #[test]
    fn each_name_is_found_where_it_belongs() {
        assert_eq!(of(named, r#"{"status":"working","taskId":"a"}"#).as_deref(), Some("a"));
        assert_eq!(of(named, r#"{"taskId":7}"#), None);
        assert_eq!(of(made, r#"{"task":{"status":"working","taskId":"b"}}"#).as_deref(), Some("b"));
        assert_eq!(of(made, r#"{"resultType":"task","taskId":"c","task":{"taskId":"d"}}"#).as_deref(), Some("c"));
        assert_eq!(of(made, r#"{"resultType":"complete","taskId":"c","task":{"taskId":"d"}}"#), None);
        assert_eq!(of(made, r#"{"structuredContent":{"task":{"taskId":"d"}},"taskId":"e"}"#), None);
        let meta = r#"{"content":[],"_meta":{"x":1,"io.modelcontextprotocol/related-task":{"taskId":"f"}}}"#;
        assert_eq!(of(related, meta).as_deref(), Some("f"));
        assert_eq!(of(related, r#"{"_meta":{"io.modelcontextprotocol/related-task":"f"}}"#), None);
    }
}
