//! Calls about tasks.
//!
//! Owns `tasks/get`, `tasks/result`, `tasks/update` and `tasks/cancel`, which go to the server that the task's name
//! says, and `tasks/list`, which is made of the client's own tasks, page by page.
//! Invariant: a name that was not given to this client is an unknown task, whatever else it is; and a list lacks a task
//! only if its server says that there is none. Never: answers for a server that is away.

use super::call::{ClientRequest, RequestReply};
use super::dispatch::{RequestHandler, unless_cancelled};
use super::forward::Relay;
use crate::gateway::mcp::protocol::envelope::Envelope;
use crate::gateway::mcp::protocol::errors::RpcError;
use crate::gateway::mcp::protocol::json::{Object, Span, quote};
use crate::gateway::mcp::session::in_flight::{InFlight, InFlightEntry};
use crate::gateway::mcp::session::task_book::StartedTask;
use crate::gateway::mcp::session::task_id;
use crate::gateway::mcp::session::task_id::TaskId;
use crate::gateway::mcp::upstream::Upstream;
use futures_util::future::join_all;
use linchpin_shared::problem::{Code, Problem};
use std::sync::Arc;

/// How many tasks are asked for at once.
const PAGE: usize = 32;

impl RequestHandler {
    /// Whether the result of this request may be a task: its client asks for one, or takes one as it comes.
    pub(crate) fn may_begin_task(&self, call: &ClientRequest) -> Result<bool, RpcError> {
        if call.method != "tools/call" || self.client.is_stateless() {
            return Ok(self.context.tasks && call.method == "tools/call");
        }
        // Most calls do not have the word anywhere.
        Ok(call.text.contains("\"task\"") && call.params()?.is_some_and(|params| params.get("task").is_some()))
    }

    /// A request about one task.
    pub(crate) async fn task(&self, call: &ClientRequest, entry: &mut InFlightEntry) -> Result<RequestReply, RpcError> {
        let has = if self.client.is_stateless() { "tasks/update" } else { "tasks/result" };
        if !matches!(call.method.as_str(), "tasks/get" | "tasks/cancel") && call.method != has {
            return Err(RpcError::method_not_found(&call.method));
        }
        if self.client.is_stateless() && !self.context.tasks {
            return Err(RpcError::needs_tasks());
        }
        let (at, name) = call.string("taskId")?;
        let task =
            task_id::open(self.gateway.clients.key(), self.client.owner(), &name).ok_or_else(|| unknown(&name))?;
        let likely_permanent = async { self.task_server(&task).await };
        let Some(upstream) = unless_cancelled(entry, likely_permanent).await? else {
            return Ok(RequestReply::Cancelled);
        };
        let mut edits = vec![(at, quote(&task.id).into())];
        edits.extend(
            call.params
                .and_then(|at| crate::gateway::mcp::protocol::task_fields::related(&call.text, at))
                .map(|at| (at, quote(&task.id).into())),
        );
        let reads = matches!(call.method.as_str(), "tasks/get" | "tasks/result");
        Relay::new(self, call, &upstream, edits, reads)?.of_task(&task.id).run(entry).await
    }

    /// The server that has a task, if this client sees it.
    async fn task_server(&self, task: &TaskId) -> Result<Arc<Upstream>, RpcError> {
        self.gateway.has_session_for(self.client.session_kind()).await;
        let scope = &self.client.scope;
        let is_its = |upstream: &&Arc<Upstream>| {
            *upstream.server_key.instance == *task.instance && *upstream.server_key.server == *task.server
        };
        // A hub that has just started may not have heard of it yet.
        let mut catalogs = self.gateway.catalogs();
        let deadline = tokio::time::Instant::now() + self.gateway.wait;
        loop {
            catalogs.mark_unchanged();
            let catalog = self.catalog();
            if let Some(upstream) = catalog.view(scope).backends().find(is_its) {
                return Ok(Arc::clone(upstream));
            }
            if !matches!(tokio::time::timeout_at(deadline, catalogs.changed()).await, Ok(Ok(()))) {
                let TaskId { instance, server, .. } = task;
                let detail = format!("the MCP server {server:?} of {instance}, which has this task, is not there");
                let problem = Problem::new(Code::InstanceUnavailable, detail).seen("instance", instance.as_str());
                return Err(RpcError::on_the_way(problem.next("linchpin status")));
            }
        }
    }

    /// `tasks/list`: the client's own tasks that their servers still know, oldest first.
    pub(crate) async fn task_list(
        &self,
        call: &ClientRequest,
        entry: &mut InFlightEntry,
    ) -> Result<RequestReply, RpcError> {
        if self.client.is_stateless() {
            return Err(RpcError::method_not_found(&call.method));
        }
        let (key, owner) = (self.gateway.clients.key(), self.client.owner());
        let cursor = call.params()?.and_then(|params| params.get("cursor")).filter(|at| at.of(&call.text) != "null");
        let after = match cursor {
            None => 0,
            Some(at) => at
                .string(&call.text)
                .and_then(|cursor| task_id::open_cursor(key, owner, &cursor))
                .ok_or_else(|| RpcError::invalid_params("params.cursor is none of this list"))?,
        };
        let mut rest = self.client.tasks();
        rest.retain(|begun| begun.number > after);
        let more = rest.len() > PAGE;
        rest.truncate(PAGE);
        let Some(found) = unless_cancelled(entry, self.looked_up(&rest)).await? else {
            return Ok(RequestReply::Cancelled);
        };
        let next = rest.last().filter(|_| more).map(|last| task_id::cursor(key, owner, last.number));
        let next = next.map_or_else(String::new, |cursor| format!(r#","nextCursor":{}"#, quote(&cursor)));
        Ok(RequestReply::Result(format!(r#"{{"tasks":[{}]{next}}}"#, found.join(","))))
    }

    /// What their servers say of these tasks.
    async fn looked_up(&self, tasks: &[StartedTask]) -> Result<Vec<String>, RpcError> {
        let (mut found, mut gone) = (Vec::new(), Vec::new());
        for (begun, said) in join_all(tasks.iter().map(|begun| async move { (begun, self.look_up(begun).await) })).await
        {
            match said? {
                Some(task) => found.push(task),
                None => gone.push(begun.clone()),
            }
        }
        if !gone.is_empty() {
            self.client.forget_tasks(&gone);
        }
        Ok(found)
    }

    /// A task as it stands in the list; none if its server does not know it any more.
    async fn look_up(&self, begun: &StartedTask) -> Result<Option<String>, RpcError> {
        let (instance, server) = (begun.server_key.instance.to_string(), begun.server_key.server.to_string());
        let upstream = self.task_server(&TaskId { instance, server, id: begun.id.clone() }).await?;
        let call = ClientRequest::read(format!(
            r#"{{"jsonrpc":"2.0","id":0,"method":"tasks/get","params":{{"taskId":{}}}}}"#,
            quote(&begun.id)
        ))?;
        // The cancellation of the whole list ends this too.
        let Ok(mut entry) = InFlight::default().begin(call.id()) else { return Ok(None) };
        let relay = Relay::new(self, &call, &upstream, Vec::new(), true)?.of_task(&begun.id);
        let RequestReply::Response(answer) = relay.run(&mut entry).await? else { return Ok(None) };
        match Envelope::parse_trusted(&answer) {
            Ok(Envelope::Response { result: Some(result), .. }) => Ok(Some(result.of(&answer).to_owned())),
            Ok(Envelope::Response { error: Some(error), .. }) if is_unknown(&answer, error) => Ok(None),
            Ok(Envelope::Response { .. } | Envelope::Request { .. } | Envelope::Notification { .. }) | Err(_) => {
                let detail = format!("{upstream} does not say how its task is");
                let problem = Problem::new(Code::ServerUnavailable, detail).seen("answer", answer);
                Err(RpcError::on_the_way(problem.next(format!("linchpin logs {}", begun.server_key.instance))))
            }
        }
    }
}

/// Whether an error says that there is no such task.
fn is_unknown(text: &str, error: Span) -> bool {
    let code = || Object::parse(text, error).ok()?.get("code");
    code().is_some_and(|at| at.of(text) == "-32602")
}

fn unknown(name: &str) -> RpcError {
    let shown: String = name.chars().take(40).collect();
    let problem = Problem::new(Code::NotFound, format!("there is no task {shown:?} of this client"));
    RpcError::unknown(problem.next("use the taskId that the call was answered with, in the same session"))
}
