//! A tool or prompt that was found, called.
//!
//! Owns what a call needs beside being carried: headers that repeat its arguments, made anew because only what the hub
//! knows of the tool counts, and the task that a tool of 2025-11-25 may need where its client cannot ask for one.
//! Invariant: a tool is called once; it is called again only when its server said, before doing anything, that the
//! headers are others by now. Never: looks into what it gave back, but for that.

use super::call::{ClientRequest, ParamEdits, RequestReply};
use super::call_outcome::CallInProgress;
use super::dispatch::RequestHandler;
use super::forward::Relay;
use super::route::{Routed, refresh};
use crate::gateway::mcp::catalog::list::CallHints;
use crate::gateway::mcp::protocol::envelope::Envelope;
use crate::gateway::mcp::protocol::errors::RpcError;
use crate::gateway::mcp::protocol::json::{Object, Span, insert, quote, splice};
use crate::gateway::mcp::protocol::list_kind::ListKind;
use crate::gateway::mcp::session::in_flight::InFlightEntry;
use crate::gateway::mcp::upstream::Upstream;
use std::sync::Arc;

impl RequestHandler {
    /// Calls a tool, whose outcome is counted, or gets a prompt.
    pub(crate) async fn called(
        &self,
        call: &ClientRequest,
        routed: &Routed,
        edits: ParamEdits<'_>,
        arguments: &str,
        entry: &mut InFlightEntry,
    ) -> Result<RequestReply, RpcError> {
        let server_key = &routed.upstream.server_key;
        let in_progress = (call.method == "tools/call")
            .then(|| CallInProgress::new(&self.gateway.calls, &server_key.instance, &server_key.server));
        let reply = self.call_routed(call, routed, edits, arguments, entry).await;
        if let Some(in_progress) = in_progress {
            in_progress.finish(&reply);
        }
        reply
    }

    async fn call_routed(
        &self,
        call: &ClientRequest,
        routed: &Routed,
        edits: ParamEdits<'_>,
        arguments: &str,
        entry: &mut InFlightEntry,
    ) -> Result<RequestReply, RpcError> {
        if routed.hints.needs_task && self.client.is_stateless() && is_older(&routed.upstream) {
            return self.driven(call, routed, edits, entry).await;
        }
        let relay = |hints: &CallHints, edits| {
            let relay = Relay::new(self, call, &routed.upstream, edits, hints.repeatable)?;
            Ok::<_, RpcError>(relay.about(&routed.name).repeating(hints.param_headers.as_deref(), arguments))
        };
        let reply = relay(&routed.hints, edits.clone())?.run(entry).await?;
        if !is_mismatch(&reply) {
            return Ok(reply);
        }
        // The tool's schema is another one by now.
        refresh(std::slice::from_ref(&routed.upstream), ListKind::Tools).await;
        let lists = routed.upstream.known().lists.get(ListKind::Tools).cloned();
        let item = lists.as_ref().and_then(|list| list.find(&routed.name));
        match item.filter(|item| item.hints().param_headers != routed.hints.param_headers) {
            Some(item) => {
                self.check_headers(&Routed { hints: item.hints().clone(), ..routed.clone() }, arguments)?;
                relay(item.hints(), edits)?.run(entry).await
            }
            None => Ok(reply),
        }
    }

    /// Calls a tool that can only be called as a task, for a client whose version has no such call: the hub asks for the
    /// task and answers with its result. What the task asks meanwhile reaches the client as of any other call.
    async fn driven(
        &self,
        call: &ClientRequest,
        routed: &Routed,
        edits: ParamEdits<'_>,
        entry: &mut InFlightEntry,
    ) -> Result<RequestReply, RpcError> {
        let begun = {
            let augmented = augmented(call, edits)?;
            let relay = Relay::new(self, &augmented, &routed.upstream, Vec::new(), false)?;
            relay.about(&routed.name).without_tasks().run(entry).await?
        };
        let RequestReply::Response(response) = &begun else { return Ok(begun) };
        let made = || match Envelope::parse_trusted(response).ok()? {
            Envelope::Response { result, .. } => {
                crate::gateway::mcp::protocol::task_fields::made(response, result?)?.string(response)
            }
            Envelope::Request { .. } | Envelope::Notification { .. } => None,
        };
        // An error, or a server that did it at once.
        let Some(task) = made() else { return Ok(begun) };
        let mut given_up = CancelTaskOnDrop::of(&routed.upstream, &task);
        let wait = result_of(call, &task)?;
        let reply = Relay::new(self, &wait, &routed.upstream, Vec::new(), true)?.of_task(&task).run(entry).await;
        given_up.over = !matches!(reply, Ok(RequestReply::Cancelled));
        reply
    }
}

/// Whether a server has sessions only.
fn is_older(upstream: &Upstream) -> bool {
    upstream.session().is_some_and(|session| !session.speaks_modern())
}

/// Whether the answer says that the headers are not those of the tool.
fn is_mismatch(reply: &RequestReply) -> bool {
    let RequestReply::Response(text) = reply else { return false };
    let code = || match Envelope::parse_trusted(text).ok()? {
        Envelope::Response { error, .. } => Object::parse(text, error?).ok()?.get("code"),
        Envelope::Request { .. } | Envelope::Notification { .. } => None,
    };
    text.contains("-32020") && code().is_some_and(|at| at.of(text) == "-32020")
}

/// The same call, as a task.
fn augmented(call: &ClientRequest, mut edits: ParamEdits<'_>) -> Result<ClientRequest, RpcError> {
    let text = splice(&call.text, &mut edits);
    let params = params_of(&text)?;
    let has = Object::parse(&text, params).is_ok_and(|params| params.get("task").is_some());
    ClientRequest::read(if has { text } else { insert(&text, params, r#""task":{}"#) })
}

/// A request for the result of this task, in the place of a call.
fn result_of(call: &ClientRequest, task: &str) -> Result<ClientRequest, RpcError> {
    let (id, task) = (call.id(), quote(task));
    ClientRequest::read(format!(
        r#"{{"jsonrpc":"2.0","id":{id},"method":"tasks/result","params":{{"taskId":{task}}}}}"#
    ))
}

fn params_of(text: &str) -> Result<Span, RpcError> {
    ClientRequest::read(text.to_owned())?.params.ok_or_else(|| RpcError::invalid_params("there are no params"))
}

/// A task whose client does not wait for it any more is cancelled.
struct CancelTaskOnDrop {
    upstream: Arc<Upstream>,
    params: String,
    over: bool,
}

impl CancelTaskOnDrop {
    fn of(upstream: &Arc<Upstream>, task: &str) -> Self {
        Self { upstream: Arc::clone(upstream), params: format!(r#"{{"taskId":{}}}"#, quote(task)), over: false }
    }
}

impl Drop for CancelTaskOnDrop {
    fn drop(&mut self) {
        let Some(session) = self.upstream.session().filter(|_| !self.over) else { return };
        let (upstream, params) = (Arc::clone(&self.upstream), std::mem::take(&mut self.params));
        tokio::spawn(async move {
            if let Err(broken) = upstream.ask(&session, "tasks/cancel", &params).await {
                tracing::debug!(server = %upstream, why = %broken.into_problem().detail, "a task was not cancelled");
            }
        });
    }
}
