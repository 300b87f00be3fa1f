//! Which backend a name or URI belongs to.
//!
//! Owns [`Lookup`] and the part of [`CatalogView`] that answers it. Invariant: every name in a merged list resolves to the item
//! it was made of; what is hidden resolves to the rule that hides it, whether it exists or not.
//! Never: asks a backend; what its lists say counts.

use super::list::{CallHints, List, ListItem};
use super::naming::split;
use super::view::{CatalogView, ServerEntry, of_instance};
use crate::gateway::mcp::protocol::list_kind::ListKind;
use crate::gateway::mcp::protocol::template;

/// Where a name leads.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Lookup<'b, B> {
    /// To this item of this backend.
    Found {
        /// The backend.
        backend: &'b B,
        /// The name there.
        name: &'b str,
        /// How it may be called.
        hints: &'b CallHints,
    },
    /// To these backends, whose lists are not known yet.
    Unlisted(Vec<&'b B>),
    /// Nowhere: this rule hides it.
    Hidden(String),
    /// Nowhere, as far as the lists of these backends say.
    Missing(Vec<&'b B>),
}

impl<'b, B> CatalogView<'b, B> {
    /// Where the name of a tool or prompt leads.
    pub(crate) fn resolve(&self, kind: ListKind, name: &str) -> Lookup<'b, B> {
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
            Some((source, rest)) => self.lookup(source, rest, kind, |key| source.prefix().expose(key) == name),
            None => self.missing(sources, kind),
        }
    }

    /// Where names are untouched they say nothing about their server: with several, the listing itself is searched.
    fn resolve_untouched(&self, kind: ListKind, name: &str) -> Lookup<'b, B> {
        if let [source] = self.sources {
            return self.lookup(source, name, kind, |_| false);
        }
        let everything = self.named_items(kind, |source| source.lists.get(kind).map(|list| &**list));
        match everything.into_iter().find(|(shown, _, _)| *shown == name) {
            Some((_, source, item)) => found(source, item),
            None => self.missing(self.sources, kind),
        }
    }

    /// The backends to ask for a resource: who lists it, else whose template can make it, else each in order.
    pub(crate) fn resource(&self, uri: &str) -> Vec<&'b B> {
        let shown: Vec<_> = self.shown_sources().filter(|source| self.hides(source, uri).is_none()).collect();
        let has = |kind: ListKind, fits: &dyn Fn(&List) -> bool| {
            let fitting = shown.iter().filter(|source| source.lists.get(kind).is_some_and(|list| fits(list)));
            fitting.map(|source| &source.backend).collect::<Vec<_>>()
        };
        let owners = has(ListKind::Resources, &|list| list.find(uri).is_some());
        if let Some(owner) = owners.first() {
            return vec![owner];
        }
        let makers =
            has(ListKind::Templates, &|list| list.items().iter().any(|item| template::matches(item.key(), uri)));
        if makers.is_empty() && self.hidden(uri).is_none() {
            return shown.iter().map(|source| &source.backend).collect();
        }
        makers
    }

    /// The rule that hides a resource or template, if somebody has it but nobody whose is shown.
    pub(crate) fn hidden(&self, uri: &str) -> Option<String> {
        let has = |source: &&ServerEntry<B>| {
            let listed = |kind: ListKind| source.lists.get(kind).is_some_and(|list| list.find(uri).is_some());
            listed(ListKind::Resources) || listed(ListKind::Templates)
        };
        self.sources.iter().filter(has).find_map(|source| self.hides(source, uri))
    }

    /// The backend that offers this template.
    pub(crate) fn template(&self, template: &str) -> Option<&'b B> {
        let offers = |source: &&ServerEntry<B>| {
            source.lists.get(ListKind::Templates).is_some_and(|list| list.find(template).is_some())
        };
        let shown = |source: &&ServerEntry<B>| self.hides(source, template).is_none();
        self.shown_sources().filter(offers).find(shown).map(|source| &source.backend)
    }

    /// Looks a name up in one source; `exposes` tells whether an item stands under a name that had to be changed.
    fn lookup(
        &self,
        source: &'b ServerEntry<B>,
        name: &str,
        kind: ListKind,
        exposes: impl Fn(&str) -> bool,
    ) -> Lookup<'b, B> {
        let list = source.lists.get(kind);
        let item = list.and_then(|list| list.find(name).or_else(|| list.items().iter().find(|it| exposes(it.key()))));
        if let Some(rule) = self.hides(source, item.map_or(name, ListItem::key)) {
            return Lookup::Hidden(rule);
        }
        match (item, list) {
            (Some(item), _) => found(source, item),
            (None, Some(_)) => Lookup::Missing(vec![&source.backend]),
            (None, None) => Lookup::Unlisted(vec![&source.backend]),
        }
    }

    /// Nothing of this name: for want of lists, or although they are known.
    fn missing(&self, sources: &'b [ServerEntry<B>], kind: ListKind) -> Lookup<'b, B> {
        let hides = |source: &ServerEntry<B>| self.filter.hides(&[&source.instance, &source.server], &source.project);
        let shown: Vec<_> = sources.iter().filter(|source| hides(source).is_none()).collect();
        if let (true, Some(rule)) = (shown.is_empty(), sources.iter().find_map(hides)) {
            return Lookup::Hidden(rule);
        }
        let unlisted: Vec<&B> =
            shown.iter().filter(|source| source.lists.get(kind).is_none()).map(|source| &source.backend).collect();
        if unlisted.is_empty() {
            Lookup::Missing(shown.into_iter().map(|source| &source.backend).collect())
        } else {
            Lookup::Unlisted(unlisted)
        }
    }
}

fn found<'b, B>(source: &'b ServerEntry<B>, item: &'b ListItem) -> Lookup<'b, B> {
    Lookup::Found { backend: &source.backend, name: item.key(), hints: item.hints() }
}

#[cfg(test)]
mod tests {
    use super::super::list::tests::listed;
    use super::super::view::tests::{names, source};
    use super::*;
    use crate::gateway::mcp::catalog::filter::Filter;
    use crate::gateway::mcp::catalog::scope::{Scope, ScopePath};
    use crate::gateway::mcp::catalog::view::ToolCatalog;
    use std::sync::Arc;

    fn chosen(part: ScopePath, query: &str) -> Scope {
        Scope { part, filter: Arc::new(Filter::read(&Arc::default(), Some(query)).unwrap()) }
    }

    fn catalog(shop: &[&str]) -> ToolCatalog<String> {
        let mut blog = source("blog", "files", true, &["read"]);
        let mut last = source("shop", "b", false, &["read"]);
        blog.lists.set(ListKind::Resources, listed(ListKind::Resources, &["x://1"]));
        last.lists.set(ListKind::Resources, listed(ListKind::Resources, &["x://1", "x://2"]));
        ToolCatalog::new(vec![source("shop", "a", false, shop), last, blog])
    }

    #[test]
    fn what_is_hidden_is_neither_listed_nor_found_and_the_rest_keeps_its_names() {
        let (catalog, scope) = (catalog(&["read", "write"]), chosen(ScopePath::All, "except=shop/a/write,blog"));
        assert_eq!(names(&catalog, &scope), ["shop__a__read", "shop__b__read"]);
        let view = catalog.view(&scope);
        let hidden = |name: &str| matches!(view.resolve(ListKind::Tools, name), Lookup::Hidden(_));
        assert!(hidden("shop__a__write") && hidden("blog__read") && hidden("blog__none"));
        assert!(!hidden("shop__a__read") && !hidden("shop__b__none"));
        // What an instance shows under untouched names does not change with what is hidden.
        let one = chosen(ScopePath::Instance("shop".into()), "except=shop/a/read");
        assert_eq!(names(&catalog, &one), ["write", "b__read"]);
        let view = catalog.view(&one);
        assert!(matches!(view.resolve(ListKind::Tools, "b__read"), Lookup::Found { .. }));
        assert!(catalog.view(&chosen(ScopePath::Instance("blog".into()), "except=blog")).single().is_none());
    }

    #[test]
    fn a_hidden_resource_is_that_of_the_next_who_has_it() {
        let catalog = catalog(&[]);
        assert_eq!(catalog.view(&chosen(ScopePath::All, "")).resource("x://1"), ["blog/files"]);
        assert_eq!(catalog.view(&chosen(ScopePath::All, "except=blog")).resource("x://1"), ["shop/b"]);
        let scope = chosen(ScopePath::All, "except=*/*/x://*");
        let view = catalog.view(&scope);
        assert!(view.resource("x://1").is_empty() && view.hidden("x://1").is_some());
        assert!(view.names(ListKind::Resources).is_empty());
    }

    #[test]
    fn a_change_of_what_is_hidden_is_no_change() {
        let scope = chosen(ScopePath::All, "except=shop/a/write*");
        let fingerprint = |tools: &[&str]| catalog(tools).view(&scope).fingerprint(ListKind::Tools);
        assert_eq!(fingerprint(&["read", "write"]), fingerprint(&["read", "write", "write_all"]));
        assert_ne!(fingerprint(&["read", "write"]), fingerprint(&["read", "list"]));
    }

    #[test]
    fn the_instances_of_a_project_come_first() {
        let scope = chosen(ScopePath::All, "project=/p/shop");
        let catalog = catalog(&["read"]);
        assert_eq!(names(&catalog, &scope), ["shop__a__read", "shop__b__read", "blog__read"]);
        assert_eq!(catalog.view(&scope).resource("x://1"), ["shop/b"]);
        let alone = chosen(ScopePath::All, "project=/p/shop&project_only=true");
        assert_eq!(names(&catalog, &alone), ["shop__a__read", "shop__b__read"]);
    }
}
