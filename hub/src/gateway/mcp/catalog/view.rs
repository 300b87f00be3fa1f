//! All backends put together, as one client sees them.
//!
//! Owns [`ToolCatalog`] (every backend with its lists, sorted) and [`CatalogView`] (the part of it that a scope shows): the merged
//! lists and their fingerprints; [`super::resolve`] has which backend a name or URI belongs to.
//! Invariant: every name in a merged list resolves to the item it was made of, and what is not listed because it is
//! hidden takes no name from what is; of two equal resource URIs the first backend's counts, in the order of instance
//! names (those of a preferred project before others) and then of the instance's own servers.
//! A backend that is away longer than its grace is not listed any more, but its names still resolve: a call to it
//! gets told that it is away rather than that there is no such tool.

use super::filter::Filter;
use super::list::{List, ListItem, Lists};
use super::naming::Prefix;
use super::scope::ScopePath;
use crate::gateway::mcp::builtin;
use crate::gateway::mcp::catalog::scope::Scope;
use crate::gateway::mcp::protocol::list_kind::ListKind;
use std::borrow::Cow;
use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::Arc;

/// One backend on the board.
#[derive(Debug, Clone)]
pub(crate) struct ServerEntry<B> {
    /// The instance.
    pub(crate) instance: Arc<str>,
    /// Its server.
    pub(crate) server: Arc<str>,
    /// The instance's project directory.
    pub(crate) project: Arc<Path>,
    /// Whether the instance fronts no other.
    pub(crate) alone: bool,
    /// Whether its items are listed.
    pub(crate) listed: bool,
    /// What it offers.
    pub(crate) lists: Lists,
    /// How to reach it.
    pub(crate) backend: B,
}

impl<B> ServerEntry<B> {
    pub(super) fn prefix(&self) -> Prefix<'_> {
        Prefix { instance: &self.instance, server: (!self.alone).then_some(&*self.server) }
    }

    fn shown(&self, kind: ListKind) -> Option<&List> {
        self.lists.get(kind).filter(|_| self.listed).map(|list| &**list)
    }
}

/// Every backend, sorted by instance and then in the instance's order.
#[derive(Debug)]
pub(crate) struct ToolCatalog<B> {
    sources: Vec<ServerEntry<B>>,
    instances: Arc<Vec<InstanceEntry>>,
}

/// An instance, with servers or without: its name and its project directory.
pub(crate) type InstanceEntry = (Arc<str>, Arc<Path>);

impl<B> ToolCatalog<B> {
    /// A board of these backends.
    pub(crate) fn new(mut sources: Vec<ServerEntry<B>>) -> Self {
        sources.sort_by(|a, b| a.instance.cmp(&b.instance));
        Self { sources, instances: Arc::default() }
    }

    /// The same board of all these instances, in order.
    pub(crate) fn of_instances(self, instances: Arc<Vec<InstanceEntry>>) -> Self {
        Self { instances, ..self }
    }

    /// The instances.
    pub(crate) fn instances(&self) -> &Arc<Vec<InstanceEntry>> {
        &self.instances
    }

    /// The backends.
    pub(crate) fn sources(&self) -> &[ServerEntry<B>] {
        &self.sources
    }

    /// What `scope` shows.
    pub(crate) fn view(&self, scope: &Scope) -> CatalogView<'_, B> {
        let sources = match &scope.part {
            ScopePath::All => &self.sources[..],
            ScopePath::Instance(name) => of_instance(&self.sources, name),
            ScopePath::Server(name, server) => {
                let sources = of_instance(&self.sources, name);
                sources.iter().find(|source| source.server == *server).map_or(&[][..], std::slice::from_ref)
            }
        };
        CatalogView { sources, instances: &self.instances, prefixed: scope.is_all(), filter: Arc::clone(&scope.filter) }
    }
}

pub(super) fn of_instance<'b, B>(sources: &'b [ServerEntry<B>], name: &str) -> &'b [ServerEntry<B>] {
    let start = sources.partition_point(|source| *source.instance < *name);
    let len = sources[start..].partition_point(|source| *source.instance == *name);
    &sources[start..start + len]
}

/// What one scope shows of the board.
#[derive(Debug)]
pub(crate) struct CatalogView<'b, B> {
    pub(super) sources: &'b [ServerEntry<B>],
    instances: &'b [InstanceEntry],
    pub(super) prefixed: bool,
    pub(super) filter: Arc<Filter>,
}

impl<'b, B> CatalogView<'b, B> {
    /// The backends of which anything is shown, in order.
    pub(crate) fn backends(&self) -> impl Iterator<Item = &'b B> {
        self.shown_sources().map(|source| &source.backend)
    }

    /// The sources of which anything is shown, those of the preferred project first.
    pub(super) fn shown_sources(&self) -> impl Iterator<Item = &'b ServerEntry<B>> {
        let sources = self.sources;
        let (first, then) = (Arc::clone(&self.filter), Arc::clone(&self.filter));
        let preferred = sources.iter().filter(move |source| first.prefers(&source.project));
        let others = sources.iter().filter(move |source| !then.prefers(&source.project));
        let filter = Arc::clone(&self.filter);
        let shown = move |source: &&ServerEntry<B>| {
            filter.hides(&[&source.instance, &source.server], &source.project).is_none()
        };
        preferred.chain(others).filter(shown)
    }

    /// The rule that hides this item of a source.
    pub(super) fn hides(&self, source: &ServerEntry<B>, key: &str) -> Option<String> {
        self.filter.hides(&[&source.instance, &source.server, key], &source.project)
    }

    /// The only backend, where there is only one to be shown and names are untouched.
    pub(crate) fn single(&self) -> Option<&'b B> {
        match self.sources {
            [_] if !self.prefixed => self.backends().next(),
            _ => None,
        }
    }

    /// The merged list as a JSON array, the hub's own items last.
    pub(crate) fn list(&self, kind: ListKind) -> String {
        let items = if self.searches(kind) { Vec::new() } else { self.items(kind) };
        let theirs = items.iter().map(|(name, _, item)| item.renamed(name));
        let own = if self.prefixed { builtin::listed(kind, &self.filter, &self.instances()) } else { Vec::new() };
        let mut out = String::from("[");
        for json in theirs.chain(own.into_iter().map(Cow::Owned)) {
            if out.len() > 1 {
                out.push(',');
            }
            out.push_str(&json);
        }
        out.push(']');
        out
    }

    /// The names of the instances of which anything is shown.
    pub(crate) fn instances(&self) -> Vec<&'b str> {
        let shown = |(name, project): &&InstanceEntry| self.filter.hides(&[name], project).is_none();
        self.instances.iter().filter(shown).map(|(name, _)| &**name).collect()
    }

    /// Whether this list has nothing of the instances, because it is searched instead.
    pub(crate) fn searches(&self, kind: ListKind) -> bool {
        self.prefixed && kind == ListKind::Tools && self.filter.searches()
    }

    /// The names of the merged list.
    pub(crate) fn names(&self, kind: ListKind) -> Vec<String> {
        self.items(kind).into_iter().map(|(name, _, _)| name.into_owned()).collect()
    }

    /// What tells this list apart from others.
    pub(crate) fn fingerprint(&self, kind: ListKind) -> u64 {
        let mut hasher = DefaultHasher::new();
        if self.searches(kind) {
            return hasher.finish();
        }
        if self.prefixed && kind == ListKind::Resources && self.filter.own_tools() {
            self.instances().hash(&mut hasher);
        }
        for source in self.shown_sources() {
            if let Some(fingerprint) = source.shown(kind).and_then(|list| self.fingerprint_of(source, list)) {
                (&source.instance, &source.server, source.alone, fingerprint).hash(&mut hasher);
            }
        }
        hasher.finish()
    }

    /// What tells the shown part of one list apart from others; none if nothing of it is shown.
    fn fingerprint_of(&self, source: &ServerEntry<B>, list: &List) -> Option<u64> {
        if self.filter.shows_everything() {
            return Some(list.fingerprint()).filter(|_| !list.items().is_empty());
        }
        let mut hasher = DefaultHasher::new();
        let mut shown = list.items().iter().filter(|item| self.hides(source, item.key()).is_none()).peekable();
        shown.peek()?;
        shown.for_each(|item| item.renamed(item.key()).hash(&mut hasher));
        Some(hasher.finish())
    }

    /// The items of the merged list under the names that a client sees.
    pub(crate) fn items(&self, kind: ListKind) -> Vec<(Cow<'b, str>, &'b ServerEntry<B>, &'b ListItem)> {
        self.named_items(kind, |source| source.shown(kind))
    }

    pub(super) fn named_items(
        &self,
        kind: ListKind,
        list: impl Fn(&'b ServerEntry<B>) -> Option<&'b List>,
    ) -> Vec<(Cow<'b, str>, &'b ServerEntry<B>, &'b ListItem)> {
        let mut seen = HashSet::new();
        let mut out = Vec::new();
        for source in self.shown_sources() {
            for item in list(source).map(List::items).unwrap_or_default() {
                let hidden = self.hides(source, item.key()).is_some();
                if hidden && kind.is_by_uri() {
                    continue;
                }
                let name = self.shown_name(kind, source, item.key(), &mut seen);
                let name = name.filter(|name| !(self.prefixed && builtin::takes(kind, &self.filter, name)));
                // A hidden tool keeps its name, so that those of others do not depend on what is hidden.
                if let Some(name) = name.filter(|_| !hidden) {
                    out.push((name, source, item));
                }
            }
        }
        out
    }

    /// The name under which an item is listed; none for a URI that is listed already.
    fn shown_name(
        &self,
        kind: ListKind,
        source: &ServerEntry<B>,
        key: &'b str,
        seen: &mut HashSet<Cow<'b, str>>,
    ) -> Option<Cow<'b, str>> {
        match (kind, self.prefixed) {
            (ListKind::Tools | ListKind::Prompts, true) => Some(Cow::Owned(source.prefix().expose(key))),
            (ListKind::Tools | ListKind::Prompts, false) => {
                let mut name = Cow::Borrowed(key);
                while !seen.insert(name.clone()) {
                    name = Cow::Owned(Prefix { instance: &source.server, server: None }.expose(&name));
                }
                Some(name)
            }
            (ListKind::Resources | ListKind::Templates, _) => {
                seen.insert(Cow::Borrowed(key)).then_some(Cow::Borrowed(key))
            }
        }
    }
}

/// Fingerprints of the three things that clients are told about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fingerprints {
    /// Of the tools.
    pub(crate) tools: u64,
    /// Of the prompts.
    pub(crate) prompts: u64,
    /// Of resources and templates together.
    pub(crate) resources: u64,
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::list::tests::{listed, tools};
    use super::super::resolve::Lookup;
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn source(instance: &str, server: &str, alone: bool, names: &[&str]) -> ServerEntry<String> {
        let mut lists = Lists::default();
        lists.set(ListKind::Tools, tools(names));
        ServerEntry {
            instance: instance.into(),
            server: server.into(),
            project: Path::new(&format!("/p/{instance}")).into(),
            alone,
            listed: true,
            lists,
            backend: format!("{instance}/{server}"),
        }
    }

    fn all() -> Scope {
        ScopePath::All.into()
    }

    pub(crate) fn names(catalog: &ToolCatalog<String>, scope: &Scope) -> Vec<String> {
        catalog.view(scope).names(ListKind::Tools)
    }

    fn catalog() -> ToolCatalog<String> {
        ToolCatalog::new(vec![
            source("shop", "b", false, &["read", "list"]),
            source("shop", "a", false, &["read"]),
            source("blog", "files", true, &["read", "a__b"]),
        ])
    }

    #[test]
    fn names_are_prefixed_where_instances_stand_together() {
        let catalog = catalog();
        assert_eq!(
            names(&catalog, &all()),
            ["blog__read", "blog__a__b", "shop__b__read", "shop__b__list", "shop__a__read"]
        );
        assert_eq!(names(&catalog, &Scope::from(ScopePath::Instance("blog".into()))), ["read", "a__b"]);
        assert_eq!(names(&catalog, &Scope::from(ScopePath::Instance("shop".into()))), ["read", "list", "a__read"]);
        assert_eq!(names(&catalog, &Scope::from(ScopePath::Server("shop".into(), "a".into()))), ["read"]);
        assert!(names(&catalog, &Scope::from(ScopePath::Instance("none".into()))).is_empty());
        assert_eq!(
            catalog.view(&Scope::from(ScopePath::Instance("blog".into()))).list(ListKind::Tools),
            r#"[{"name":"read","n":1.0},{"name":"a__b","n":1.0}]"#
        );
    }

    #[test]
    fn a_name_leads_to_its_backend_or_says_what_is_missing() {
        let catalog = catalog();
        let view = catalog.view(&all());
        let found = |name: &'static str| match view.resolve(ListKind::Tools, name) {
            Lookup::Found { backend, name, .. } => Some((backend.as_str(), name)),
            Lookup::Unlisted(_) | Lookup::Hidden(_) | Lookup::Missing(_) => None,
        };
        assert_eq!(found("blog__a__b"), Some(("blog/files", "a__b")));
        assert_eq!(found("shop__a__read"), Some(("shop/a", "read")));
        assert_eq!(found("shop__read"), None);
        assert_eq!(
            view.resolve(ListKind::Tools, "shop__c__x"),
            Lookup::Missing(vec![&"shop/b".into(), &"shop/a".into()])
        );
        assert_eq!(view.resolve(ListKind::Tools, "read"), Lookup::Missing(vec![]));
        assert_eq!(view.resolve(ListKind::Prompts, "blog__x"), Lookup::Unlisted(vec![&"blog/files".into()]));
    }

    #[test]
    fn a_backend_beyond_its_grace_is_unlisted_but_resolves() {
        let mut away = source("shop", "s", true, &["read"]);
        away.listed = false;
        let catalog = ToolCatalog::new(vec![away]);
        assert!(names(&catalog, &all()).is_empty());
        assert!(matches!(catalog.view(&all()).resolve(ListKind::Tools, "shop__read"), Lookup::Found { .. }));
        assert_eq!(
            catalog.view(&all()).fingerprint(ListKind::Tools),
            ToolCatalog::<String>::new(vec![]).view(&all()).fingerprint(ListKind::Tools)
        );
    }

    #[test]
    fn a_resource_belongs_to_who_lists_it_then_to_a_template_then_to_anyone() {
        let (mut a, mut b) = (source("a", "s", true, &[]), source("b", "s", true, &[]));
        a.lists.set(ListKind::Resources, listed(ListKind::Resources, &["x://1"]));
        b.lists.set(ListKind::Resources, listed(ListKind::Resources, &["x://1", "x://2"]));
        b.lists.set(ListKind::Templates, listed(ListKind::Templates, &["x://{id}"]));
        let catalog = ToolCatalog::new(vec![b, a]);
        let view = catalog.view(&all());
        assert_eq!(view.resource("x://1"), ["a/s"]);
        assert_eq!(view.resource("x://2"), ["b/s"]);
        assert_eq!(view.resource("x://3"), ["b/s"]);
        assert_eq!(view.resource("y://3"), ["a/s", "b/s"]);
        assert_eq!(view.names(ListKind::Resources), ["x://1", "x://2"]);
        assert_eq!(view.template("x://{id}").map(String::as_str), Some("b/s"));
    }

    proptest! {
        #[test]
        fn every_listed_name_leads_to_the_item_it_was_made_of(
            servers in prop::collection::vec(("[a-c]", "[x-z]", prop::collection::hash_set("[a-z_/]{1,5}|([x-z]__){0,3}[ab]|x{150}", 0..5)), 0..6),
            scoped: bool,
        ) {
            let mut seen = HashSet::new();
            let servers: Vec<_> = servers.into_iter().filter(|(i, s, _)| seen.insert((i.clone(), s.clone()))).collect();
            let sources = servers.iter().map(|(instance, server, tools)| {
                let alone = servers.iter().filter(|(other, _, _)| other == instance).count() == 1;
                let tools: Vec<&str> = tools.iter().map(String::as_str).collect();
                source(instance, server, alone, &tools)
            });
            let catalog = ToolCatalog::new(sources.collect());
            let scope = if scoped { Scope::from(ScopePath::Instance("a".into())) } else { all() };
            let view = catalog.view(&scope);
            let mut found = HashSet::new();
            for name in view.names(ListKind::Tools) {
                let Lookup::Found { backend, name: original, .. } = view.resolve(ListKind::Tools, &name) else {
                    return Err(TestCaseError::fail(format!("{name} leads nowhere")));
                };
                prop_assert!(found.insert((backend.clone(), original.to_owned())), "two names lead to one item");
            }
            prop_assert_eq!(found.len(), view.names(ListKind::Tools).len());
        }
    }
}
