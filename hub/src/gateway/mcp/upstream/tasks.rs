//! What a server says of tasks, and asks because of them.
//!
//! Owns the way of both to the client that has the task: news of its status, progress after its call was answered, and
//! questions. Invariant: who has not the task hears nothing of it, and no client sees a server's name of a task.
//! Never: waits for a client.

use super::{RequestCause, Upstream};
use crate::gateway::mcp::protocol::json::{Span, splice};
use crate::gateway::mcp::session::client::Client;
use std::borrow::Cow;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// A server may ask before the answer arrived that says that there is a task.
const TOLD_WITHIN: Duration = Duration::from_secs(1);

/// How often to look whether a client can be asked; people do not notice it.
const LOOK: Duration = Duration::from_millis(100);

impl Upstream {
    /// News of the task that is named at `at`.
    pub(crate) fn task_told(&self, text: &str, at: Span) {
        let Some(id) = at.string(text) else { return };
        for client in self.clients.with_task(&self.server_key, &id) {
            client.send(&splice(text, &mut [(at, self.name_for(&client, &id).into())]));
        }
    }

    /// Progress whose request was answered: with a task, which goes on.
    pub(super) fn task_progress(&self, text: &str, params: Option<Span>, token: Span, number: u64) {
        let Some((client, wanted)) = self.clients.task_progress(&self.server_key, number) else { return };
        let mut edits = vec![(token, Cow::Owned(wanted))];
        edits.extend(self.related_edit(&client, text, params));
        client.send(&splice(text, &mut edits));
    }

    /// The edit by which params or a result name the task they belong to as this client knows it.
    pub(crate) fn related_edit(
        &self,
        client: &Client,
        text: &str,
        at: Option<Span>,
    ) -> Option<(Span, Cow<'static, str>)> {
        let at = crate::gateway::mcp::protocol::task_fields::related(text, at?)?;
        Some((at, Cow::Owned(self.name_for(client, &at.string(text)?))))
    }

    /// Whom to ask what this task needs, as soon as it can be asked: a client that polls comes for the question when it
    /// sees that its task needs input. The call on whose stream the question came counts only if the task is its
    /// client's, because a server may use any stream; or if nobody has the task, which may be about to be told.
    pub(super) async fn cause_of_task(&self, id: &str, came: Option<RequestCause>) -> Option<RequestCause> {
        let begun = Instant::now();
        let is_its =
            |cause: &RequestCause| cause.task.as_deref() == Some(id) || cause.client.has_task(&self.server_key, id);
        let came = match came {
            Some(cause) if is_its(&cause) => return Some(cause),
            came => came,
        };
        loop {
            match self.asks_task(id) {
                Some(cause) if cause.streams || cause.client.is_listening() => return Some(cause),
                None if begun.elapsed() > TOLD_WITHIN => return came,
                Some(_) | None => tokio::time::sleep(LOOK).await,
            }
        }
    }

    /// The client that has this task, on the stream of its `tasks/result` where there is one, else on its own. The
    /// question stays open as long as that stream, or as long as the client.
    fn asks_task(&self, id: &str) -> Option<RequestCause> {
        let waits = |cause: &&RequestCause| cause.task.as_deref() == Some(id);
        let waiting = self.calls.lock().values().filter(waits).max_by_key(|cause| cause.call).cloned();
        if waiting.is_some() {
            return waiting;
        }
        let client = self.clients.with_task(&self.server_key, id).into_iter().next()?;
        let (out, _) = mpsc::channel(1);
        Some(RequestCause { call: self.next_id(), client, out, streams: false, token: None, task: Some(id.to_owned()) })
    }

    fn name_for(&self, client: &Client, id: &str) -> String {
        client.name_of(self.clients.key(), &self.server_key, id)
    }
}
