//! JSON as text, with the places of the parts that a relay reads or rewrites.
//!
//! Owns [`Span`] (where a value stands in a text), [`Object`] (the members of one object, values unread) and [`splice`]
//! (rewriting parts in place). An edit of a nested part needs no tree: everything that is not edited stays byte for
//! byte, in its order, with its number forms.
//! Invariant: duplicate keys are refused in every object that is read, because two readers may take different ones.
//! Never: builds a document.

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;

/// More members than any object that we read has; beyond it the duplicate check would become slow.
const MAX_MEMBERS: usize = 1024;

/// More elements than any array that we read has. What is known of each is larger than the shortest of them.
pub(crate) const MAX_ELEMENTS: usize = 1 << 18;

/// Why a text cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unreadable {
    /// It is not JSON, or not of the form that was looked for.
    #[error("not JSON: {0}")]
    Syntax(String),
    /// Two members have the same name.
    #[error("the key {0:?} stands there twice")]
    Duplicate(String),
    /// More than [`MAX_MEMBERS`].
    #[error("an object has more than {MAX_MEMBERS} members")]
    TooMany,
}

impl From<serde_json::Error> for Unreadable {
    fn from(error: serde_json::Error) -> Self {
        Self::Syntax(error.to_string())
    }
}

/// Where a JSON value stands in the text of its message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    start: usize,
    end: usize,
}

impl Span {
    /// The whole text.
    pub(crate) fn whole(text: &str) -> Self {
        Self { start: 0, end: text.len() }
    }

    /// Its bytes in the text.
    #[cfg(feature = "fuzzing")]
    pub(crate) fn range(self) -> std::ops::Range<usize> {
        self.start..self.end
    }

    /// The value's JSON.
    pub(crate) fn of(self, text: &str) -> &str {
        &text[self.start..self.end]
    }

    /// The value, when it is a string.
    pub(crate) fn string(self, text: &str) -> Option<String> {
        serde_json::from_str(self.of(text)).ok()
    }

    /// Whether the value is an object.
    pub(crate) fn is_object(self, text: &str) -> bool {
        self.of(text).starts_with('{')
    }

    /// `part`, which borrows from `text`, as a span of it.
    fn locate(text: &str, part: &str) -> Self {
        let start = part.as_ptr().addr() - text.as_ptr().addr();
        Self { start, end: start + part.len() }
    }
}

/// The members of one JSON object, in order, values unread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Object<'t> {
    members: Vec<(Cow<'t, str>, Span)>,
}

impl<'t> Object<'t> {
    /// Reads the members of the object at `at`.
    pub(crate) fn parse(text: &'t str, at: Span) -> Result<Self, Unreadable> {
        let Some(Members(raw)) = serde_json::from_str::<Bounded<Members<'t>>>(at.of(text))?.0 else {
            return Err(Unreadable::TooMany);
        };
        let mut members: Vec<(Cow<'t, str>, Span)> = Vec::with_capacity(raw.len());
        for (key, value) in raw {
            if members.iter().any(|(known, _)| *known == key) {
                return Err(Unreadable::Duplicate(key.into_owned()));
            }
            members.push((key, Span::locate(text, value.get())));
        }
        Ok(Self { members })
    }

    /// The members, in order.
    pub(crate) fn members(&self) -> impl Iterator<Item = (&str, Span)> {
        self.members.iter().map(|(key, span)| (&**key, *span))
    }

    /// Where the value of `key` stands.
    pub(crate) fn get(&self, key: &str) -> Option<Span> {
        self.members.iter().find(|(known, _)| known == key).map(|(_, span)| *span)
    }

    /// Reads the object that is the value of `key`; none if there is no such member or it is no object.
    pub(crate) fn object(&self, text: &'t str, key: &str) -> Result<Option<Self>, Unreadable> {
        match self.get(key) {
            Some(span) if span.is_object(text) => Self::parse(text, span).map(Some),
            Some(_) | None => Ok(None),
        }
    }
}

/// The elements of the JSON array at `at`, unread; none if it is no array, or one of more than [`MAX_ELEMENTS`].
pub(crate) fn elements(text: &str, at: Span) -> Option<Vec<Span>> {
    let Elements(raw) = serde_json::from_str::<Bounded<Elements<'_>>>(at.of(text)).ok()?.0?;
    Some(raw.into_iter().map(|value| Span::locate(text, value.get())).collect())
}

/// `text` with parts of it replaced. The parts must not overlap.
pub(crate) fn splice(text: &str, edits: &mut [(Span, Cow<'_, str>)]) -> String {
    edits.sort_by_key(|(span, _)| span.start);
    let grown: usize = edits.iter().map(|(_, new)| new.len()).sum();
    let mut out = String::with_capacity(text.len() + grown);
    let mut done = 0;
    for (span, new) in edits.iter() {
        out.push_str(&text[done..span.start]);
        out.push_str(new);
        done = span.end;
    }
    out.push_str(&text[done..]);
    out
}

/// As [`splice`], in place: of ten megabytes the rest is moved, and not held twice.
pub(crate) fn edited(mut text: String, mut edits: Vec<(Span, Cow<'_, str>)>) -> String {
    edits.sort_by_key(|(span, _)| span.start);
    for (at, new) in edits.iter().rev() {
        text.replace_range(at.start..at.end, new);
    }
    text
}

/// `text` with `members` before the others of the object at `at`, in place as [`edited`].
pub(crate) fn insert(text: impl Into<String>, at: Span, members: &str) -> String {
    let (mut text, start) = (text.into(), at.start + 1);
    let empty = text[start..at.end].trim_start().starts_with('}');
    let comma = if empty { "" } else { "," };
    text.insert_str(start, &[members, comma].concat());
    text
}

/// `text` as a JSON string.
pub(crate) fn quote(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The members of an object as serde hands them out, duplicates included.
struct Members<'t>(Vec<(Cow<'t, str>, &'t RawValue)>);

/// The elements of an array.
struct Elements<'t>(Vec<&'t RawValue>);

/// What has at most so many parts; none if it has more. Those beyond the bound are read over and never held: a byte of
/// text each, they would need forty times as much.
struct Bounded<T>(Option<T>);

impl<'de> Deserialize<'de> for Bounded<Members<'de>> {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Bounded<Members<'de>>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::with_capacity(8);
                while let Some(Key(key)) = map.next_key()? {
                    members.push((key, map.next_value()?));
                    if members.len() > MAX_MEMBERS {
                        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                        return Ok(Bounded(None));
                    }
                }
                Ok(Bounded(Some(Members(members))))
            }
        }
        input.deserialize_map(InOrder)
    }
}

impl<'de> Deserialize<'de> for Bounded<Elements<'de>> {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Bounded<Elements<'de>>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut elements = Vec::new();
                while let Some(element) = seq.next_element()? {
                    elements.push(element);
                    if elements.len() > MAX_ELEMENTS {
                        while seq.next_element::<IgnoredAny>()?.is_some() {}
                        return Ok(Bounded(None));
                    }
                }
                Ok(Bounded(Some(Elements(elements))))
            }
        }
        input.deserialize_seq(InOrder)
    }
}

/// A key, borrowed where it has no escapes.
#[derive(serde::Deserialize)]
struct Key<'t>(#[serde(borrow)] Cow<'t, str>);

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    #[test]
    fn a_key_may_not_stand_twice_however_it_is_written() {
        let text = r#"{"id":1,"\u0069d":2}"#;
        assert_eq!(Object::parse(text, Span::whole(text)), Err(Unreadable::Duplicate(String::from("id"))));
        let many: Value = (0..=MAX_MEMBERS).map(|n| (n.to_string(), Value::Null)).collect();
        let text = many.to_string();
        assert_eq!(Object::parse(&text, Span::whole(&text)), Err(Unreadable::TooMany));
        let broken = text.replace('}', "");
        assert!(matches!(Object::parse(&broken, Span::whole(&broken)), Err(Unreadable::Syntax(_))));
    }

    #[test]
    fn an_array_of_more_than_anybody_has_is_none() {
        let array = |n: usize| format!("[{}1]", "1,".repeat(n - 1));
        let (most, more) = (array(MAX_ELEMENTS), array(MAX_ELEMENTS + 1));
        assert_eq!(elements(&most, Span::whole(&most)).unwrap().len(), MAX_ELEMENTS);
        assert_eq!(elements(&more, Span::whole(&more)), None);
        assert_eq!(elements("{}", Span::whole("{}")), None);
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".*".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::hash_map(".*", inner, 0..6).prop_map(|map| map.into_iter().collect()),
            ]
        })
    }

    proptest! {
        #[test]
        fn every_member_is_found_where_it_stands(members in prop::collection::btree_map(".*", any_json(), 0..8), pretty: bool) {
            let value = Value::from_iter(members.clone());
            let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
            let object = Object::parse(&text, Span::whole(&text)).unwrap();
            for (key, value) in &members {
                let found: Value = serde_json::from_str(object.get(key).unwrap().of(&text)).unwrap();
                prop_assert_eq!(&found, value);
            }
        }

        #[test]
        fn what_is_edited_in_place_is_what_a_splice_makes(a in any_json(), news in prop::array::uniform2(any_json())) {
            let text = json!({"first": a, "second": 7, "third": {}}).to_string();
            let object = Object::parse(&text, Span::whole(&text)).unwrap();
            let keys = ["third", "first"].into_iter().zip(&news);
            let mut edits: Vec<_> = keys.map(|(key, new)| (object.get(key).unwrap(), Cow::from(new.to_string()))).collect();
            let spliced = splice(&text, &mut edits.clone());
            edits.reverse();
            prop_assert_eq!(edited(text, edits), spliced);
        }

        #[test]
        fn a_splice_changes_what_it_names_and_nothing_else(a in any_json(), b in any_json(), new in any_json()) {
            let text = json!({"first": a, "second": b}).to_string();
            let object = Object::parse(&text, Span::whole(&text)).unwrap();
            let out = splice(&text, &mut [(object.get("second").unwrap(), Cow::from(new.to_string()))]);
            let out: Value = serde_json::from_str(&out).unwrap();
            prop_assert_eq!(out, json!({"first": a, "second": new}));
        }
    }
}
