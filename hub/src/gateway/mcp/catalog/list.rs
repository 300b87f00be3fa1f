//! The lists of one backend.
//!
//! Owns [`ListKind`] (the four lists of MCP), [`List`] (one of them as the backend gave it) and [`Lists`]. An item is kept
//! as the JSON text that came, with the place of its key, so that it can be handed on with another name and nothing
//! else changed. Invariant: two lists are the same exactly if their fingerprints are.
//! Never: reads more of an item than its key and how it may be called.

use crate::gateway::mcp::protocol::json::MAX_ELEMENTS;
use crate::gateway::mcp::protocol::json::{Object, Span, Unreadable, elements, quote, splice};
use crate::gateway::mcp::protocol::list_kind::ListKind;
use crate::gateway::mcp::protocol::param_headers::ParamHeaders;
use std::borrow::Cow;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

/// How an item may be called.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct CallHints {
    /// Whether the backend says that calling it twice does no harm.
    pub(crate) repeatable: bool,
    /// Whether it can only be called as a task of 2025-11-25.
    pub(crate) needs_task: bool,
    /// Which arguments headers repeat.
    pub(crate) param_headers: Option<Arc<ParamHeaders>>,
}

/// One tool, prompt, resource or template.
#[derive(Debug, Clone)]
pub(crate) struct ListItem {
    json: Box<str>,
    key: Box<str>,
    place: Span,
    hints: CallHints,
    /// Why its definition is invalid for clients over HTTP.
    invalid: Option<Box<str>>,
}

impl ListItem {
    fn parse(kind: ListKind, json: &str) -> Option<Self> {
        let object = Object::parse(json, Span::whole(json)).ok()?;
        let place = object.get(kind.key())?;
        let hints = object.object(json, "annotations").ok().flatten();
        let hinted =
            |name: &str| hints.as_ref().and_then(|hints| hints.get(name)).is_some_and(|at| at.of(json) == "true");
        let param_headers = if kind == ListKind::Tools { ParamHeaders::of_tool(json) } else { Ok(None) };
        let (param_headers, invalid) = match param_headers {
            Ok(param_headers) => (param_headers.map(Arc::new), None),
            Err(why) => (None, Some(why.into())),
        };
        let execution = object.object(json, "execution").ok().flatten();
        let support = execution.and_then(|execution| execution.get("taskSupport"));
        let hints = CallHints {
            repeatable: hinted("readOnlyHint") || hinted("idempotentHint"),
            needs_task: support.is_some_and(|at| at.of(json) == "\"required\""),
            param_headers,
        };
        Some(Self { key: place.string(json)?.into(), place, hints, invalid, json: json.into() })
    }

    /// Its name or URI, as the backend has it.
    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    /// How it may be called.
    pub(crate) fn hints(&self) -> &CallHints {
        &self.hints
    }

    /// Its JSON under another name.
    pub(crate) fn renamed(&self, name: &str) -> Cow<'_, str> {
        if *name == *self.key {
            return Cow::Borrowed(&self.json);
        }
        Cow::Owned(splice(&self.json, &mut [(self.place, Cow::Owned(quote(name)))]))
    }
}

/// One list of one backend, complete.
#[derive(Debug)]
pub(crate) struct List {
    items: Vec<ListItem>,
    /// Places of the items in the order of their keys.
    by_key: Vec<u32>,
    fingerprint: u64,
}

impl List {
    /// A list without items.
    pub(crate) fn empty() -> Self {
        ListDraft::new(ListKind::Tools).finish()
    }

    /// The list that is written so.
    pub(crate) fn read(kind: ListKind, text: &str) -> Option<Self> {
        let mut draft = ListDraft::new(kind);
        draft.page(text).ok()?;
        Some(draft.finish())
    }

    /// As the result of one request for all of it.
    pub(crate) fn text(&self, kind: ListKind) -> String {
        let items: Vec<&str> = self.items.iter().map(|item| &*item.json).collect();
        format!(r#"{{"{}":[{}]}}"#, kind.member(), items.join(","))
    }

    /// Its items, in the backend's order.
    pub(crate) fn items(&self) -> &[ListItem] {
        &self.items
    }

    /// The item of this key.
    pub(crate) fn find(&self, key: &str) -> Option<&ListItem> {
        let at = self.by_key.binary_search_by(|at| self.items[*at as usize].key.as_ref().cmp(key)).ok()?;
        Some(&self.items[self.by_key[at] as usize])
    }

    /// What tells it apart from other lists.
    pub(crate) fn fingerprint(&self) -> u64 {
        self.fingerprint
    }
}

/// A list of which pages are still to come.
#[derive(Debug)]
pub(crate) struct ListDraft {
    kind: ListKind,
    items: Vec<ListItem>,
    bytes: usize,
}

impl ListDraft {
    /// Nothing yet.
    pub(crate) fn new(kind: ListKind) -> Self {
        Self { kind, items: Vec::new(), bytes: 0 }
    }

    /// Takes the result of one request and gives the cursor of the next, if there is one. An item without a key is left
    /// out: a client could not name it either.
    pub(crate) fn page(&mut self, result: &str) -> Result<Option<String>, Unreadable> {
        let object = Object::parse(result, Span::whole(result))?;
        let items = object.get(self.kind.member()).and_then(|at| elements(result, at)).ok_or_else(|| {
            let member = self.kind.member();
            Unreadable::Syntax(format!("the result has no list {member:?} of at most {MAX_ELEMENTS} items"))
        })?;
        self.bytes += result.len();
        self.items.extend(items.into_iter().filter_map(|at| ListItem::parse(self.kind, at.of(result))));
        Ok(object.get("nextCursor").and_then(|at| at.string(result)).filter(|cursor| !cursor.is_empty()))
    }

    /// Leaves out what is invalid for clients over HTTP, and says of each why.
    pub(crate) fn leave_out_invalid(&mut self) -> Vec<(Box<str>, Box<str>)> {
        let invalid = self.items.extract_if(.., |item| item.invalid.is_some());
        invalid.filter_map(|item| Some((item.key, item.invalid?))).collect()
    }

    /// How much was taken so far.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The list. Of several items with one key the first is kept.
    pub(crate) fn finish(mut self) -> List {
        let mut seen = std::collections::HashSet::new();
        self.items.retain(|item| seen.insert(item.key.clone()));
        let mut hasher = DefaultHasher::new();
        self.items.iter().for_each(|item| item.json.hash(&mut hasher));
        let mut by_key: Vec<u32> = (0_u32..).take(self.items.len()).collect();
        by_key.sort_by(|a, b| self.items[*a as usize].key.cmp(&self.items[*b as usize].key));
        List { items: self.items, by_key, fingerprint: hasher.finish() }
    }
}

/// The lists of one backend, as far as they are known.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lists([Option<Arc<List>>; 4]);

impl Lists {
    /// One of them.
    pub(crate) fn get(&self, kind: ListKind) -> Option<&Arc<List>> {
        self.0[kind.index()].as_ref()
    }

    /// These lists, and those of `other` that are missing.
    pub(crate) fn or(&self, other: &Self) -> Self {
        Self(std::array::from_fn(|at| self.0[at].as_ref().or(other.0[at].as_ref()).cloned()))
    }

    /// Takes a new one and says whether it differs from what was known.
    pub(crate) fn set(&mut self, kind: ListKind, list: List) -> bool {
        let slot = &mut self.0[kind.index()];
        let differs = slot.as_ref().is_none_or(|known| known.fingerprint != list.fingerprint);
        if differs {
            *slot = Some(Arc::new(list));
        }
        differs
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::json;

    pub(crate) fn tools(names: &[&str]) -> List {
        let items: Vec<_> = names.iter().map(|name| json!({"name": name, "n": 1.0})).collect();
        let mut draft = ListDraft::new(ListKind::Tools);
        draft.page(&json!({"tools": items}).to_string()).unwrap();
        draft.finish()
    }

    pub(crate) fn listed(kind: ListKind, keys: &[&str]) -> List {
        let items: Vec<_> = keys.iter().map(|key| json!({kind.key(): key, "name": "x"})).collect();
        let mut draft = ListDraft::new(kind);
        draft.page(&json!({kind.member(): items}).to_string()).unwrap();
        draft.finish()
    }

    #[test]
    fn pages_are_put_together() {
        let mut draft = ListDraft::new(ListKind::Tools);
        assert_eq!(draft.page(r#"{"tools":[{"name":"b"},{"noname":1},7],"nextCursor":"c"}"#), Ok(Some("c".into())));
        assert_eq!(
            draft.page(r#"{"tools":[{"name":"a","annotations":{"readOnlyHint":true}},{"name":"b","x":1}]}"#),
            Ok(None)
        );
        let list = draft.finish();
        assert_eq!(list.items().iter().map(ListItem::key).collect::<Vec<_>>(), ["b", "a"]);
        assert!(list.find("a").unwrap().hints().repeatable && !list.find("b").unwrap().hints().repeatable);
        assert!(list.find("c").is_none());
        assert!(ListDraft::new(ListKind::Tools).page(r#"{"prompts":[]}"#).is_err());
    }

    #[test]
    fn another_name_changes_nothing_else() {
        let mut draft = ListDraft::new(ListKind::Tools);
        draft.page(r#"{"tools":[{"z":1.50,"name": "a","title":"name"}]}"#).unwrap();
        let list = draft.finish();
        assert_eq!(list.items()[0].renamed("shop__a"), r#"{"z":1.50,"name": "shop__a","title":"name"}"#);
        assert_eq!(list.items()[0].renamed("a"), r#"{"z":1.50,"name": "a","title":"name"}"#);
    }

    #[test]
    fn only_a_real_difference_counts() {
        let mut lists = Lists::default();
        assert!(lists.set(ListKind::Tools, tools(&[])), "known to be empty differs from not known");
        assert!(!lists.set(ListKind::Tools, List::empty()));
        assert!(lists.set(ListKind::Tools, tools(&["a", "b"])));
        assert!(!lists.set(ListKind::Tools, tools(&["a", "b"])));
        assert!(lists.set(ListKind::Tools, tools(&["b", "a"])));
        assert!(lists.get(ListKind::Prompts).is_none());
    }
}
