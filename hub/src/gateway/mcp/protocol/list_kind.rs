//! (docs)

use crate::gateway::mcp::catalog::view::Fingerprints;
use std::hash::Hash;

/// One of the lists of MCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum ListKind {
    /// Tools, by name.
    Tools,
    /// Prompts, by name.
    Prompts,
    /// Resources, by URI.
    Resources,
    /// Resource templates, by URI template.
    Templates,
}

impl ListKind {
    /// All of them.
    pub(crate) const ALL: [Self; 4] = [Self::Tools, Self::Prompts, Self::Resources, Self::Templates];

    /// Method, member of the result, key of an item, capability.
    const fn facts(self) -> (&'static str, &'static str, &'static str, &'static str) {
        match self {
            Self::Tools => ("tools/list", "tools", "name", "tools"),
            Self::Prompts => ("prompts/list", "prompts", "name", "prompts"),
            Self::Resources => ("resources/list", "resources", "uri", "resources"),
            Self::Templates => ("resources/templates/list", "resourceTemplates", "uriTemplate", "resources"),
        }
    }

    /// The method that asks for it.
    pub(crate) const fn method(self) -> &'static str {
        self.facts().0
    }

    /// The member of the result that holds it.
    pub(crate) const fn member(self) -> &'static str {
        self.facts().1
    }

    /// The capability under which a backend offers it.
    pub(crate) const fn capability(self) -> &'static str {
        self.facts().3
    }

    /// The list that this method asks for.
    pub(crate) fn of_method(method: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.method() == method)
    }

    pub(crate) const fn key(self) -> &'static str {
        self.facts().2
    }

    /// What clients are told about it.
    pub(crate) const fn topic(self) -> ListChange {
        match self {
            Self::Tools => ListChange::Tools,
            Self::Prompts => ListChange::Prompts,
            Self::Resources | Self::Templates => ListChange::Resources,
        }
    }

    /// Whether its items go by their URIs, which no prefix is put before.
    pub(crate) const fn is_by_uri(self) -> bool {
        matches!(self, Self::Resources | Self::Templates)
    }

    /// Its place among all.
    pub(crate) const fn index(self) -> usize {
        match self {
            Self::Tools => 0,
            Self::Prompts => 1,
            Self::Resources => 2,
            Self::Templates => 3,
        }
    }
}

/// What a notification of a changed list is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ListChange {
    /// Tools.
    Tools,
    /// Prompts.
    Prompts,
    /// Resources and templates.
    Resources,
}

impl ListChange {
    /// All of them.
    pub(crate) const ALL: [Self; 3] = [Self::Tools, Self::Prompts, Self::Resources];

    /// The notification that says so.
    pub(crate) const fn message(self) -> &'static str {
        match self {
            Self::Tools => r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#,
            Self::Prompts => r#"{"jsonrpc":"2.0","method":"notifications/prompts/list_changed"}"#,
            Self::Resources => r#"{"jsonrpc":"2.0","method":"notifications/resources/list_changed"}"#,
        }
    }

    pub(crate) const fn of(self, fingerprints: Fingerprints) -> u64 {
        match self {
            Self::Tools => fingerprints.tools,
            Self::Prompts => fingerprints.prompts,
            Self::Resources => fingerprints.resources,
        }
    }
}
