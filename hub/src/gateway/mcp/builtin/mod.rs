//! The hub's own tools and resources on `/mcp`, so that an agent can see and mend what is wrong.
//!
//! Owns [`BuiltinTool`] (which there are, what they are called, who is offered them) and [`HubApi`] (whom they ask). [`schema`] has
//! their descriptions, [`answer`] and [`resources`] what they say, [`news`] when that changes, [`super::catalog::search`] the ranking of tools.
//! Invariant: they answer at once, whatever is down, with what the API's routes answer; what a connection does not see
//! they do not show. Never: spawn a command or stop an instance; they restart what is supervised already.

pub(crate) mod answer;
pub(crate) mod news;
pub(crate) mod resources;
mod schema;

use super::catalog::filter::{BUILTIN, Filter};
use super::catalog::scope::Scope;
use super::protocol::errors::RpcError;
use super::protocol::list_kind::ListKind;
use futures_util::future::BoxFuture;
use linchpin_shared::problem::{Code, Problem};
use serde_json::Value;
use std::fmt::Debug;
use std::sync::Arc;

/// What the own tools ask: the answers of the API's routes.
pub trait HubApi: Send + Sync {
    /// `GET /status`.
    fn status(&self) -> Value;

    /// `GET /v1/instances/NAME`.
    ///
    /// # Errors
    /// [`Code::InstanceNotFound`].
    fn instance(&self, name: &str) -> Result<Value, Problem>;

    /// `GET /v1/instances/NAME/link`.
    ///
    /// # Errors
    /// [`Code::InstanceNotFound`].
    fn link_history(self: Arc<Self>, name: String) -> BoxFuture<'static, Result<Value, Problem>>;

    /// `GET /v1/instances/NAME/logs`: the last lines of one process, or of all.
    ///
    /// # Errors
    /// What that route says.
    fn logs(
        self: Arc<Self>,
        name: String,
        process: Option<String>,
        lines: usize,
    ) -> BoxFuture<'static, Result<String, Problem>>;

    /// `POST /v1/instances/NAME/restart`: which processes are restarted.
    ///
    /// # Errors
    /// What that route says.
    fn restart(
        self: Arc<Self>,
        name: String,
        process: Option<String>,
    ) -> BoxFuture<'static, Result<Vec<String>, Problem>>;
}

impl Debug for dyn HubApi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HubApi")
    }
}

/// A tool of the hub's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BuiltinTool {
    /// What runs, and how it is.
    Status,
    /// Why an instance is as it is.
    Explain,
    /// What its processes wrote.
    Logs,
    /// Restarts its processes.
    Restart,
    /// Finds tools.
    Search,
    /// Describes one.
    Describe,
    /// Calls one.
    Call,
}

impl BuiltinTool {
    /// All of them, in the order in which they are listed.
    pub(crate) const ALL: [Self; 7] =
        [Self::Status, Self::Explain, Self::Logs, Self::Restart, Self::Search, Self::Describe, Self::Call];

    /// Its name without the hub's.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Explain => "explain",
            Self::Logs => "logs",
            Self::Restart => "restart",
            Self::Search => "search_tools",
            Self::Describe => "describe_tool",
            Self::Call => "call_tool",
        }
    }

    /// The tool of this name, if it is offered at this address; why not, if a rule hides it.
    pub(crate) fn find(kind: ListKind, scope: &Scope, name: &str) -> Option<Result<Self, RpcError>> {
        let name = name.strip_prefix(BUILTIN)?.strip_prefix("__")?;
        let offered = scope.is_all() && kind == ListKind::Tools;
        let own = Self::ALL.into_iter().find(|own| offered && own.name() == name && own.is_on(&scope.filter))?;
        Some(scope.filter.hides_own(own.name()).map_or(Ok(own), |rule| {
            let detail = format!("the tool {BUILTIN}__{name} is hidden: {rule}");
            let problem = Problem::new(Code::UnknownTool, detail);
            Err(RpcError::unknown(problem.next("a person can change that: linchpin config show --origin")))
        }))
    }

    /// Whether settings or address switch it on.
    const fn needs_search(self) -> bool {
        match self {
            Self::Status | Self::Explain | Self::Logs | Self::Restart => false,
            Self::Search | Self::Describe | Self::Call => true,
        }
    }

    fn is_on(self, filter: &Filter) -> bool {
        if self.needs_search() { filter.searches() } else { filter.own_tools() }
    }
}

/// What the hub adds to a list, of its own and of these instances.
pub(crate) fn listed(kind: ListKind, filter: &Filter, instances: &[&str]) -> Vec<String> {
    let shown = |own: &BuiltinTool| own.is_on(filter) && filter.hides_own(own.name()).is_none();
    match kind {
        ListKind::Tools => BuiltinTool::ALL.into_iter().filter(shown).map(|own| schema::of(own).to_string()).collect(),
        ListKind::Prompts => Vec::new(),
        ListKind::Resources | ListKind::Templates if !filter.own_tools() => Vec::new(),
        ListKind::Resources => resources::listed(instances),
        ListKind::Templates => resources::templates(),
    }
}

/// Whether a name that some instance offers is one of the hub's own.
pub(crate) fn takes(kind: ListKind, filter: &Filter, name: &str) -> bool {
    match kind {
        ListKind::Tools => {
            let own = name.strip_prefix(BUILTIN).and_then(|rest| rest.strip_prefix("__"));
            own.is_some_and(|name| BuiltinTool::ALL.into_iter().any(|own| own.name() == name && own.is_on(filter)))
        }
        ListKind::Prompts => false,
        ListKind::Resources | ListKind::Templates => filter.own_tools() && name.starts_with(resources::SCHEME),
    }
}
