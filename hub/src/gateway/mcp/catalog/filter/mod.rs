//! What an agent sees of all that there is.
//!
//! Owns [`Filter`]: the rules of the settings and those of one address's query (`/mcp?only=shop,files`), which project
//! comes first, and whether tools are listed or searched. [`query`] reads and writes the query.
//! Invariant: what is hidden is neither listed nor callable, and who asks for it is told by which rule. A session is
//! bound to the query, which its client sends each time, so a choice outlives the hub.
//! Never: depends on what happens to be up.

mod query;

use linchpin_shared::pattern::Pattern;
use linchpin_shared::settings::{self, ToolListing};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The name under which the hub's own tools stand; no instance's own choice.
pub(crate) const BUILTIN: &str = "linchpin";

/// The rules of the settings.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct FilterRules {
    allow: Vec<Pattern>,
    deny: Vec<Pattern>,
    own_tools: bool,
    tools: ToolListing,
}

impl Default for FilterRules {
    fn default() -> Self {
        Self { allow: Vec::new(), deny: Vec::new(), own_tools: false, tools: ToolListing::All }
    }
}

impl From<&settings::GatewaySettings> for FilterRules {
    fn from(settings: &settings::GatewaySettings) -> Self {
        let settings::GatewaySettings { allow, deny, own_tools, tools, .. } = settings.clone();
        Self { allow, deny, own_tools, tools }
    }
}

/// A project's directory, and whether anything else is shown.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct ProjectFilter {
    dir: PathBuf,
    alone: bool,
}

/// What one address shows.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Filter {
    rules: Arc<FilterRules>,
    only: Vec<Pattern>,
    except: Vec<Pattern>,
    project: Option<ProjectFilter>,
    tools: Option<ToolListing>,
}

impl Filter {
    /// That of an address without a query.
    pub(crate) fn of(rules: &Arc<FilterRules>) -> Self {
        Self { rules: Arc::clone(rules), ..Self::default() }
    }

    /// The rule that hides what is at this path of instance, server and item, in this project; none if it is shown. A
    /// shorter path is hidden when all under it is.
    pub(crate) fn hides(&self, path: &[&str], project: &Path) -> Option<String> {
        if self.shows_everything() {
            return None;
        }
        let alone = self.project.as_ref().filter(|wanted| wanted.alone && !related(&wanted.dir, project));
        self.denies(path)
            .or_else(|| unnamed("the setting gateway.allow", &self.rules.allow, path))
            .or_else(|| unnamed("\"only\" of this connection", &self.only, path))
            .or_else(|| alone.map(|wanted| format!("this connection shows the project {} only", wanted.dir.display())))
    }

    /// The rule that hides this tool of the hub's own. They are not among what is chosen from, so only a rule that names
    /// them takes them away.
    pub(crate) fn hides_own(&self, tool: &str) -> Option<String> {
        self.denies(&[BUILTIN, "hub", tool])
    }

    fn denies(&self, path: &[&str]) -> Option<String> {
        named("the setting gateway.deny", &self.rules.deny, path)
            .or_else(|| named("\"except\" of this connection", &self.except, path))
    }

    /// Whether nothing is hidden, so that nothing has to be compared.
    pub(crate) fn shows_everything(&self) -> bool {
        let Self { rules, only, except, project, tools: _ } = self;
        let patterns = [&rules.allow, &rules.deny, only, except];
        patterns.iter().all(|patterns| patterns.is_empty()) && !project.as_ref().is_some_and(|wanted| wanted.alone)
    }

    /// Whether an instance of this project stands before the others; all are equal if no project is preferred.
    pub(crate) fn prefers(&self, project: &Path) -> bool {
        self.project.as_ref().is_none_or(|wanted| related(&wanted.dir, project))
    }

    /// Whether the hub's own tools are offered.
    pub(crate) fn own_tools(&self) -> bool {
        self.rules.own_tools
    }

    /// Whether tools are searched for and not listed.
    pub(crate) fn searches(&self) -> bool {
        self.tools.unwrap_or(self.rules.tools) == ToolListing::Search
    }
}

fn named(rule: &str, patterns: &[Pattern], path: &[&str]) -> Option<String> {
    let pattern = patterns.iter().find(|pattern| pattern.covers(path))?;
    Some(format!("{rule} names {:?}", pattern.to_string()))
}

fn unnamed(rule: &str, patterns: &[Pattern], path: &[&str]) -> Option<String> {
    let shown = patterns.is_empty() || patterns.iter().any(|pattern| pattern.meets(path));
    (!shown).then(|| format!("{rule} does not name it"))
}

/// Whether an instance of the directory `other` belongs to who works in `dir`: it is the same, or one is in the other.
fn related(dir: &Path, other: &Path) -> bool {
    other.starts_with(dir) || dir.starts_with(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(rules: &[(&str, &str)], query: &str) -> Filter {
        let of = |which: &str| -> Vec<Pattern> {
            rules.iter().filter(|(rule, _)| *rule == which).map(|(_, text)| Pattern::parse(text).unwrap()).collect()
        };
        let rules = FilterRules { allow: of("allow"), deny: of("deny"), ..FilterRules::default() };
        Filter::read(&Arc::new(rules), Some(query)).unwrap()
    }

    fn hidden(filter: &Filter, path: &[&str]) -> Option<String> {
        filter.hides(path, Path::new("/p/shop"))
    }

    #[test]
    fn what_is_denied_or_not_allowed_is_hidden_and_the_rule_is_told() {
        let open = filter(&[], "");
        assert!(open.shows_everything() && hidden(&open, &["shop"]).is_none());
        let rules = filter(&[("allow", "shop"), ("allow", "blog/files/read_*"), ("deny", "*/*/delete_*")], "");
        assert!(hidden(&rules, &["shop", "db", "query"]).is_none());
        assert!(hidden(&rules, &["shop", "db", "delete_all"]).unwrap().contains("gateway.deny names \"*/*/delete_*\""));
        assert!(hidden(&rules, &["blog", "files", "write"]).unwrap().contains("gateway.allow does not name it"));
        assert!(hidden(&rules, &["blog", "files", "read_file"]).is_none());
        assert!(hidden(&rules, &["blog", "files"]).is_none(), "a part of it is shown");
        assert!(hidden(&rules, &["blog", "db"]).is_some());
    }

    #[test]
    fn a_connection_can_only_take_away() {
        let rules = [("allow", "shop"), ("deny", "shop/db")];
        let chosen = filter(&rules, "only=shop/db,blog");
        assert!(hidden(&chosen, &["shop", "db", "query"]).unwrap().contains("gateway.deny"));
        assert!(hidden(&chosen, &["blog", "x", "y"]).unwrap().contains("gateway.allow"));
        assert!(hidden(&chosen, &["shop", "files", "y"]).unwrap().contains("\"only\" of this connection"));
        assert!(hidden(&filter(&[], "except=shop"), &["shop", "x", "y"]).unwrap().contains("\"except\""));
    }

    #[test]
    fn own_tools_are_taken_away_by_name_only() {
        assert_eq!(filter(&[("allow", "shop")], "only=blog").hides_own("restart"), None);
        assert!(filter(&[("deny", "linchpin/*/restart")], "").hides_own("restart").is_some());
        assert!(filter(&[], "except=linchpin").hides_own("status").is_some());
    }

    #[test]
    fn a_project_comes_first_or_stands_alone() {
        let first = filter(&[], "project=/p/shop");
        for (dir, related) in
            [("/p/shop", true), ("/p/shop/api", true), ("/p", true), ("/p/shop2", false), ("/q", false)]
        {
            assert_eq!(first.prefers(Path::new(dir)), related, "{dir}");
            assert_eq!(first.hides(&["x"], Path::new(dir)), None);
            let alone = filter(&[], "project=/p/shop&project_only=true");
            assert_eq!(alone.hides(&["x"], Path::new(dir)).is_none(), related, "{dir}");
        }
    }
}
