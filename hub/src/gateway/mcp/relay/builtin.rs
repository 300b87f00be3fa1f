//! The hub's own tools and resources, called.
//!
//! Owns how such a call finds its answer, and `linchpin__call_tool`, which is the call of another tool in a wrapping.
//! Invariant: a tool that is called through it is called as it would be directly: progress, cancellation and errors are
//! its own. Never: waits for a server to answer for the hub.

use super::call::{Call, Reply};
use super::dispatch::{Caller, unless_cancelled};
use crate::gateway::mcp::builtin::{HubApi, Own, answer, resources};
use crate::gateway::mcp::catalog::search::{Found, rank};
use crate::gateway::mcp::protocol::errors::RpcError;
use crate::gateway::mcp::protocol::json::{Object, Span, quote};
use crate::gateway::mcp::protocol::list_kind::Kind;
use crate::gateway::mcp::session::in_flight::Entry;
use linchpin_shared::problem::{Code, Problem};
use serde::Deserialize;
use serde_json::{Value, json};
use std::borrow::Cow;
use std::sync::{Arc, Weak};

/// What is called through `linchpin__call_tool`: where name and arguments stood, and what they are.
struct Wrapped<'c> {
    name: String,
    arguments: &'c str,
    name_at: Span,
    arguments_at: Span,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Query {
    #[serde(default)]
    query: String,
    limit: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    name: String,
}

impl Caller {
    /// A call of one of the hub's own tools.
    pub(crate) async fn own(&self, call: &Call, own: Own, entry: &mut Entry) -> Result<Reply, RpcError> {
        if own == Own::Call {
            return self.call_tool(call, entry).await;
        }
        let arguments = call.params()?.and_then(|params| params.get("arguments"));
        self.own_with(own, arguments.map_or("{}", |at| at.of(&call.text)), entry).await
    }

    async fn own_with(&self, own: Own, arguments: &str, entry: &mut Entry) -> Result<Reply, RpcError> {
        let work = async {
            let answer = match own {
                Own::Search => self.search(arguments).await,
                Own::Describe => self.describe(arguments).await,
                Own::Status | Own::Explain | Own::Logs | Own::Restart | Own::Call => match self.facts() {
                    Ok(facts) => answer::of(own, facts, &self.client.scope, arguments).await,
                    Err(problem) => Err(problem),
                },
            };
            Ok(Reply::Result(answer::result(answer)))
        };
        Ok(unless_cancelled(entry, work).await?.unwrap_or(Reply::Cancelled))
    }

    fn facts(&self) -> Result<Arc<dyn HubApi>, Problem> {
        let facts = self.gateway.facts.get().and_then(Weak::upgrade);
        facts.ok_or_else(|| Problem::new(Code::Internal, "the hub is not open yet, or is closing").next("try again"))
    }

    /// Another tool, called as if its client had called it directly.
    async fn call_tool(&self, call: &Call, entry: &mut Entry) -> Result<Reply, RpcError> {
        let wrapped = wrapped(call)?;
        match Own::find(Kind::Tools, &self.client.scope, &wrapped.name).transpose()? {
            None => {}
            Some(Own::Call) => return Err(RpcError::invalid_params("a call of a call: name the tool that is meant")),
            Some(own) => return self.own_with(own, wrapped.arguments, entry).await,
        }
        let routed = unless_cancelled(entry, self.route(Kind::Tools, &wrapped.name)).await?;
        let Some(routed) = routed else { return Ok(Reply::Cancelled) };
        let edits = vec![
            (wrapped.name_at, Cow::Owned(quote(&routed.name))),
            (wrapped.arguments_at, Cow::Borrowed(wrapped.arguments)),
        ];
        self.called(call, &routed, edits, wrapped.arguments, entry).await
    }

    /// The tools that a query finds.
    async fn search(&self, arguments: &str) -> Result<(String, Value), Problem> {
        let Query { query, limit } = answer::arguments(arguments)?;
        self.settle(Kind::Tools).await;
        let board = self.gateway.fresh_board(self.client.lane());
        let view = board.view(&self.client.scope);
        let tools = view.items(Kind::Tools).into_iter();
        let tools: Vec<_> = tools.map(|(name, _, item)| described(&name, &item.renamed(&name))).collect();
        let all = tools.len();
        let found = rank(&query, tools);
        let shown: Vec<_> = found.iter().take(limit.unwrap_or(10).clamp(1, 100)).collect();
        let mut text = format!("{} of {all} tools fit; the best {}:\n", found.len(), shown.len());
        for Found { name, description } in &shown {
            text.push_str(&format!("{name}: {}\n", description.lines().next().unwrap_or_default()));
        }
        let shown: Vec<_> = shown.iter().map(|it| json!({"name": it.name, "description": it.description})).collect();
        Ok((text, json!({"tools": shown, "found": found.len(), "all": all})))
    }

    /// One tool, as it would be listed.
    async fn describe(&self, arguments: &str) -> Result<(String, Value), Problem> {
        let Named { name } = answer::arguments(arguments)?;
        // The same errors as a call would have: unknown, hidden, or not there just now.
        self.route(Kind::Tools, &name).await.map_err(RpcError::into_problem)?;
        let board = self.gateway.fresh_board(self.client.lane());
        let items = board.view(&self.client.scope).items(Kind::Tools);
        let json = items.into_iter().find(|(shown, _, _)| *shown == name).map(|(_, _, item)| item.renamed(&name));
        let json = json.ok_or_else(|| {
            let detail = format!("the tool {name:?} is not listed just now: its server has been away for long");
            Problem::new(Code::ServerUnavailable, detail).next("linchpin__status says why")
        })?;
        let tool: Value = serde_json::from_str(&json).unwrap_or_default();
        Ok((json.into_owned(), json!({"tool": tool})))
    }

    /// Whether this is a resource of the hub's own.
    pub(crate) fn is_own(&self, uri: &str) -> bool {
        let scope = &self.client.scope;
        uri.starts_with(resources::SCHEME) && scope.is_all() && scope.choice.own_tools()
    }

    /// `completion/complete` for a template of them.
    pub(crate) fn own_completion(&self, call: &Call, template: &str) -> Result<Reply, RpcError> {
        let wrong = || RpcError::invalid_params("params.argument must have a name and a value");
        let argument = call.params()?.and_then(|params| params.object(&call.text, "argument").ok()?);
        let member = |key: &str| argument.as_ref()?.get(key)?.string(&call.text);
        let (name, begun) = member("name").zip(member("value")).ok_or_else(wrong)?;
        let board = self.board();
        let names = board.view(&self.client.scope).instances();
        let completed = resources::completed(template, &name, &begun, &names);
        completed.map(Reply::Result).ok_or_else(|| RpcError::invalid_params("there is nothing to complete"))
    }

    /// `resources/read` of one of them.
    pub(crate) async fn own_resource(&self, uri: &str) -> Result<Reply, RpcError> {
        let facts = self.facts().map_err(RpcError::on_the_way)?;
        resources::read(facts, &self.client.scope, uri).await.map(Reply::Result)
    }
}

/// What a call of `linchpin__call_tool` wraps.
fn wrapped(call: &Call) -> Result<Wrapped<'_>, RpcError> {
    let wrong = || RpcError::invalid_params("params.arguments must be {\"name\": TOOL, \"arguments\": {…}}");
    let (name_at, _) = call.string("name")?;
    let arguments_at = call.params()?.and_then(|params| params.get("arguments")).ok_or_else(wrong)?;
    let object = Object::parse(&call.text, arguments_at).map_err(|_| wrong())?;
    let name = object.get("name").and_then(|at| at.string(&call.text)).ok_or_else(wrong)?;
    let arguments = object.get("arguments").map_or("{}", |at| at.of(&call.text));
    Ok(Wrapped { name, arguments, name_at, arguments_at })
}

fn described(name: &str, json: &str) -> Found {
    let object = Object::parse(json, Span::whole(json)).ok();
    let member = |key: &str| object.as_ref()?.get(key)?.string(json);
    let description = member("description").or_else(|| member("title")).unwrap_or_default();
    Found { name: name.to_owned(), description }
}
