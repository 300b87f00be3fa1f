//! All backends put together, as one client sees them.
//!
//! Owns [`Board`] (every backend with its lists, sorted) and [`View`] (the part of it that a scope shows): the merged
//! lists, their fingerprints, and which backend a name or URI belongs to.
//! Invariant: every name in a merged list resolves to the item it was made of; of two equal resource URIs the first
//! backend's counts, in the order of instance names and then of the instance's own servers.
//! A backend that is away longer than its grace is not listed any more, but its names still resolve: a call to it
//! gets told that it is away rather than that there is no such tool.

use super::list::{Item, Kind, List, Lists};
use crate::gateway::mcp::naming::{Prefix, split};
use crate::gateway::mcp::scope::Scope;
use crate::gateway::mcp::template;
use std::borrow::Cow;
use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

/// One backend on the board.
#[derive(Debug, Clone)]
pub(crate) struct Source<B> {
    /// The instance.
    pub(crate) instance: Arc<str>,
    /// Its server.
    pub(crate) server: Arc<str>,
    /// Whether the instance fronts no other.
    pub(crate) alone: bool,
    /// Whether its items are listed.
    pub(crate) listed: bool,
    /// What it offers.
    pub(crate) lists: Lists,
    /// How to reach it.
    pub(crate) backend: B,
}

impl<B> Source<B> {
    fn prefix(&self) -> Prefix<'_> {
        Prefix { instance: &self.instance, server: (!self.alone).then_some(&*self.server) }
    }

    fn shown(&self, kind: Kind) -> Option<&List> {
        self.lists.get(kind).filter(|_| self.listed).map(|list| &**list)
    }
}

/// Where a name leads.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Lookup<'b, B> {
    /// To this item of this backend.
    Found {
        /// The backend.
        backend: &'b B,
        /// The name there.
        name: &'b str,
        /// Whether a call may be repeated.
        repeatable: bool,
    },
    /// To these backends, whose lists are not known yet.
    Unlisted(Vec<&'b B>),
    /// Nowhere, as far as the lists of these backends say.
    Missing(Vec<&'b B>),
}

/// Every backend, sorted by instance and then in the instance's order.
#[derive(Debug)]
pub(crate) struct Board<B> {
    sources: Vec<Source<B>>,
}

impl<B> Board<B> {
    /// A board of these backends.
    pub(crate) fn new(mut sources: Vec<Source<B>>) -> Self {
        sources.sort_by(|a, b| a.instance.cmp(&b.instance));
        Self { sources }
    }

    /// The backends.
    pub(crate) fn sources(&self) -> &[Source<B>] {
        &self.sources
    }

    /// What `scope` shows.
    pub(crate) fn view(&self, scope: &Scope) -> View<'_, B> {
        let sources = match scope {
            Scope::All => &self.sources[..],
            Scope::Instance(name) => of_instance(&self.sources, name),
            Scope::Server(name, server) => {
                let sources = of_instance(&self.sources, name);
                sources.iter().find(|source| source.server == *server).map_or(&[][..], std::slice::from_ref)
            }
        };
        View { sources, prefixed: *scope == Scope::All }
    }
}

fn of_instance<'b, B>(sources: &'b [Source<B>], name: &str) -> &'b [Source<B>] {
    let start = sources.partition_point(|source| *source.instance < *name);
    let len = sources[start..].partition_point(|source| *source.instance == *name);
    &sources[start..start + len]
}

/// What one scope shows of the board.
#[derive(Debug)]
pub(crate) struct View<'b, B> {
    sources: &'b [Source<B>],
    prefixed: bool,
}

impl<'b, B> View<'b, B> {
    /// The backends, in order.
    pub(crate) fn backends(&self) -> impl Iterator<Item = &'b B> {
        self.sources.iter().map(|source| &source.backend)
    }

    /// The only backend, where there is only one to be shown and names are untouched.
    pub(crate) fn single(&self) -> Option<&'b B> {
        match self.sources {
            [source] if !self.prefixed => Some(&source.backend),
            _ => None,
        }
    }

    /// The merged list as a JSON array.
    pub(crate) fn list(&self, kind: Kind) -> String {
        let mut out = String::from("[");
        for (name, _, item) in self.items(kind) {
            if out.len() > 1 {
                out.push(',');
            }
            out.push_str(&item.renamed(&name));
        }
        out.push(']');
        out
    }

    /// The names of the merged list.
    pub(crate) fn names(&self, kind: Kind) -> Vec<String> {
        self.items(kind).into_iter().map(|(name, _, _)| name.into_owned()).collect()
    }

    /// What tells this list apart from others.
    pub(crate) fn print(&self, kind: Kind) -> u64 {
        let mut hasher = DefaultHasher::new();
        for source in self.sources {
            if let Some(list) = source.shown(kind).filter(|list| !list.items().is_empty()) {
                (&source.instance, &source.server, source.alone, list.print()).hash(&mut hasher);
            }
        }
        hasher.finish()
    }

    /// Where the name of a tool or prompt leads.
    pub(crate) fn resolve(&self, kind: Kind, name: &str) -> Lookup<'b, B> {
        if !self.prefixed {
            return self.resolve_untouched(kind, name);
        }
        let Some((instance, rest)) = split(name) else { return Lookup::Missing(Vec::new()) };
        let sources = of_instance(self.sources, instance);
        let found = sources.iter().find_map(|source| match (source.alone, split(rest)) {
            (true, _) => Some((source, rest)),
            (false, Some((server, rest))) => (*source.server == *server).then_some((source, rest)),
            (false, None) => None,
        });
        match found {
            Some((source, rest)) => lookup(source, rest, kind, |key| source.prefix().expose(key) == name),
            None => missing(sources, kind),
        }
    }

    /// Where names are untouched they say nothing about their server: with several, the listing itself is searched.
    fn resolve_untouched(&self, kind: Kind, name: &str) -> Lookup<'b, B> {
        if let [source] = self.sources {
            return lookup(source, name, kind, |_| false);
        }
        let everything = self.named_items(kind, |source| source.lists.get(kind).map(|list| &**list));
        match everything.into_iter().find(|(shown, _, _)| *shown == name) {
            Some((_, source, item)) => found(source, item),
            None => missing(self.sources, kind),
        }
    }

    /// The backends to ask for a resource: who lists it, else whose template can make it, else each in order.
    pub(crate) fn resource(&self, uri: &str) -> Vec<&'b B> {
        let has = |kind: Kind, fits: &dyn Fn(&List) -> bool| {
            let fitting = self.sources.iter().filter(|source| source.lists.get(kind).is_some_and(|list| fits(list)));
            fitting.map(|source| &source.backend).collect::<Vec<_>>()
        };
        let owners = has(Kind::Resources, &|list| list.find(uri).is_some());
        if let Some(owner) = owners.first() {
            return vec![owner];
        }
        let makers = has(Kind::Templates, &|list| list.items().iter().any(|item| template::matches(item.key(), uri)));
        if makers.is_empty() { self.backends().collect() } else { makers }
    }

    /// The backend that offers this template.
    pub(crate) fn template(&self, template: &str) -> Option<&'b B> {
        let offers =
            |source: &&Source<B>| source.lists.get(Kind::Templates).is_some_and(|list| list.find(template).is_some());
        self.sources.iter().find(offers).map(|source| &source.backend)
    }

    /// The items of the merged list under the names that a client sees.
    fn items(&self, kind: Kind) -> Vec<(Cow<'b, str>, &'b Source<B>, &'b Item)> {
        self.named_items(kind, |source| source.shown(kind))
    }

    fn named_items(
        &self,
        kind: Kind,
        list: impl Fn(&'b Source<B>) -> Option<&'b List>,
    ) -> Vec<(Cow<'b, str>, &'b Source<B>, &'b Item)> {
        let mut seen = HashSet::new();
        let mut out = Vec::new();
        for source in self.sources {
            for item in list(source).map(List::items).unwrap_or_default() {
                if let Some(name) = self.shown_name(kind, source, item.key(), &mut seen) {
                    out.push((name, source, item));
                }
            }
        }
        out
    }

    /// The name under which an item is listed; none for a URI that is listed already.
    fn shown_name(
        &self,
        kind: Kind,
        source: &Source<B>,
        key: &'b str,
        seen: &mut HashSet<Cow<'b, str>>,
    ) -> Option<Cow<'b, str>> {
        match (kind, self.prefixed) {
            (Kind::Tools | Kind::Prompts, true) => Some(Cow::Owned(source.prefix().expose(key))),
            (Kind::Tools | Kind::Prompts, false) => {
                let mut name = Cow::Borrowed(key);
                while !seen.insert(name.clone()) {
                    name = Cow::Owned(Prefix { instance: &source.server, server: None }.expose(&name));
                }
                Some(name)
            }
            (Kind::Resources | Kind::Templates, _) => seen.insert(Cow::Borrowed(key)).then_some(Cow::Borrowed(key)),
        }
    }
}

/// Looks a name up in one source; `exposes` tells whether an item stands under a name that had to be changed.
fn lookup<'b, B>(source: &'b Source<B>, name: &str, kind: Kind, exposes: impl Fn(&str) -> bool) -> Lookup<'b, B> {
    let Some(list) = source.lists.get(kind) else { return Lookup::Unlisted(vec![&source.backend]) };
    match list.find(name).or_else(|| list.items().iter().find(|item| exposes(item.key()))) {
        Some(item) => found(source, item),
        None => Lookup::Missing(vec![&source.backend]),
    }
}

fn found<'b, B>(source: &'b Source<B>, item: &'b Item) -> Lookup<'b, B> {
    Lookup::Found { backend: &source.backend, name: item.key(), repeatable: item.repeatable() }
}

/// Nothing of this name: for want of lists, or although they are known.
fn missing<B>(sources: &[Source<B>], kind: Kind) -> Lookup<'_, B> {
    let unlisted: Vec<&B> =
        sources.iter().filter(|source| source.lists.get(kind).is_none()).map(|source| &source.backend).collect();
    if unlisted.is_empty() {
        Lookup::Missing(sources.iter().map(|source| &source.backend).collect())
    } else {
        Lookup::Unlisted(unlisted)
    }
}

#[cfg(test)]
mod tests {
    use super::super::list::tests::{listed, tools};
    use super::*;
    use proptest::prelude::*;

    fn source(instance: &str, server: &str, alone: bool, names: &[&str]) -> Source<String> {
        let mut lists = Lists::default();
        lists.set(Kind::Tools, tools(names));
        Source {
            instance: instance.into(),
            server: server.into(),
            alone,
            listed: true,
            lists,
            backend: format!("{instance}/{server}"),
        }
    }

    fn names(board: &Board<String>, scope: &Scope) -> Vec<String> {
        board.view(scope).names(Kind::Tools)
    }

    fn board() -> Board<String> {
        Board::new(vec![
            source("shop", "b", false, &["read", "list"]),
            source("shop", "a", false, &["read"]),
            source("blog", "files", true, &["read", "a__b"]),
        ])
    }

    #[test]
    fn names_are_prefixed_where_instances_stand_together() {
        let board = board();
        assert_eq!(
            names(&board, &Scope::All),
            ["blog__read", "blog__a__b", "shop__b__read", "shop__b__list", "shop__a__read"]
        );
        assert_eq!(names(&board, &Scope::Instance("blog".into())), ["read", "a__b"]);
        assert_eq!(names(&board, &Scope::Instance("shop".into())), ["read", "list", "a__read"]);
        assert_eq!(names(&board, &Scope::Server("shop".into(), "a".into())), ["read"]);
        assert!(names(&board, &Scope::Instance("none".into())).is_empty());
        assert_eq!(
            board.view(&Scope::Instance("blog".into())).list(Kind::Tools),
            r#"[{"name":"read","n":1.0},{"name":"a__b","n":1.0}]"#
        );
    }

    #[test]
    fn a_name_leads_to_its_backend_or_says_what_is_missing() {
        let board = board();
        let all = board.view(&Scope::All);
        let found = |name: &'static str| match all.resolve(Kind::Tools, name) {
            Lookup::Found { backend, name, .. } => Some((backend.as_str(), name)),
            Lookup::Unlisted(_) | Lookup::Missing(_) => None,
        };
        assert_eq!(found("blog__a__b"), Some(("blog/files", "a__b")));
        assert_eq!(found("shop__a__read"), Some(("shop/a", "read")));
        assert_eq!(found("shop__read"), None);
        assert_eq!(all.resolve(Kind::Tools, "shop__c__x"), Lookup::Missing(vec![&"shop/b".into(), &"shop/a".into()]));
        assert_eq!(all.resolve(Kind::Tools, "read"), Lookup::Missing(vec![]));
        assert_eq!(all.resolve(Kind::Prompts, "blog__x"), Lookup::Unlisted(vec![&"blog/files".into()]));
    }

    #[test]
    fn a_backend_beyond_its_grace_is_unlisted_but_resolves() {
        let mut away = source("shop", "s", true, &["read"]);
        away.listed = false;
        let board = Board::new(vec![away]);
        assert!(names(&board, &Scope::All).is_empty());
        assert!(matches!(board.view(&Scope::All).resolve(Kind::Tools, "shop__read"), Lookup::Found { .. }));
        assert_eq!(
            board.view(&Scope::All).print(Kind::Tools),
            Board::<String>::new(vec![]).view(&Scope::All).print(Kind::Tools)
        );
    }

    #[test]
    fn a_resource_belongs_to_who_lists_it_then_to_a_template_then_to_anyone() {
        let (mut a, mut b) = (source("a", "s", true, &[]), source("b", "s", true, &[]));
        a.lists.set(Kind::Resources, listed(Kind::Resources, &["x://1"]));
        b.lists.set(Kind::Resources, listed(Kind::Resources, &["x://1", "x://2"]));
        b.lists.set(Kind::Templates, listed(Kind::Templates, &["x://{id}"]));
        let board = Board::new(vec![b, a]);
        let all = board.view(&Scope::All);
        assert_eq!(all.resource("x://1"), ["a/s"]);
        assert_eq!(all.resource("x://2"), ["b/s"]);
        assert_eq!(all.resource("x://3"), ["b/s"]);
        assert_eq!(all.resource("y://3"), ["a/s", "b/s"]);
        assert_eq!(all.names(Kind::Resources), ["x://1", "x://2"]);
        assert_eq!(all.template("x://{id}").map(String::as_str), Some("b/s"));
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
            let board = Board::new(sources.collect());
            let scope = if scoped { Scope::Instance("a".into()) } else { Scope::All };
            let view = board.view(&scope);
            let mut found = HashSet::new();
            for name in view.names(Kind::Tools) {
                let Lookup::Found { backend, name: original, .. } = view.resolve(Kind::Tools, &name) else {
                    return Err(TestCaseError::fail(format!("{name} leads nowhere")));
                };
                prop_assert!(found.insert((backend.clone(), original.to_owned())), "two names lead to one item");
            }
            prop_assert_eq!(found.len(), view.names(Kind::Tools).len());
        }
    }
}
