//! Changes the members of one object in a file that belongs to another program.
//!
//! [`ObjectEdit`] says what to change. In JSON it is done by cutting and inserting text, so that everything else stays
//! as it was, byte for byte, including comments and order. The result is parsed again, and returned only if it differs
//! in nothing but what was asked for. No file is written here.

use super::jsonc::{self, Member, Node, NodeKind};
use linchpin_shared::problem::{Code, Problem};
use serde_json::Value;
use std::ops::Range;

/// What to change in one object.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ObjectEdit {
    /// The keys that lead to the object.
    pub(super) path: Vec<String>,
    /// The members to remove.
    pub(super) remove: Vec<String>,
    /// The members to insert, in the place of the first one that is removed, or at the end.
    pub(super) insert: Vec<(String, Value)>,
}

/// Makes the changes.
///
/// # Errors
/// [`Code::BadRequest`] if the text cannot be parsed or an object is missing.
pub(super) fn json(text: &str, changes: &[ObjectEdit]) -> Result<String, Problem> {
    let mut out = text.to_owned();
    for change in changes {
        out = one(&out, change)?;
    }
    Ok(out)
}

fn one(text: &str, change: &ObjectEdit) -> Result<String, Problem> {
    let root = jsonc::parse(text)?;
    let missing = || Problem::new(Code::BadRequest, format!("there is no object {:?}", change.path.join(".")));
    let object = root.at(&change.path).filter(|node| matches!(node.kind, NodeKind::Object(_))).ok_or_else(missing)?;
    let mut edits = edits(text, object, change);
    edits.sort_by_key(|(range, _)| std::cmp::Reverse((range.start, range.end)));
    let mut out = text.to_owned();
    for (range, with) in edits {
        out.replace_range(range, &with);
    }
    let mut expected = root.value();
    let target = change.path.iter().try_fold(&mut expected, |value, key| value.get_mut(key));
    if let Some(Value::Object(members)) = target {
        members.retain(|key, _| !change.remove.contains(key));
        members.extend(change.insert.iter().cloned());
    }
    if jsonc::parse(&out)?.value() == expected {
        return Ok(out);
    }
    Err(Problem::new(Code::Internal, "the file could not be changed without changing something else in it")
        .next("change it by hand in the way that linchpin import shows"))
}

/// Returns which parts of the text to replace by what. They do not overlap.
fn edits(text: &str, object: &Node, change: &ObjectEdit) -> Vec<(Range<usize>, String)> {
    let members = object.members();
    let mut edits = Vec::new();
    let goes = |member: &Member| change.remove.contains(&member.key);
    let first = members.iter().position(goes).filter(|_| !change.insert.is_empty());
    let layout = Layout::of(text, object);
    if let Some(first) = first {
        let member = &members[first];
        edits.push((member.start..member.value.span.end, layout.rendered(&change.insert)));
    }
    let stays = |(at, member): &(usize, &Member)| Some(*at) == first || !goes(member);
    let last = members.iter().enumerate().rfind(stays);
    for (_, member) in members.iter().enumerate().filter(|it| !stays(it)) {
        let end = member.comma.map_or(member.value.span.end, |comma| comma + 1);
        edits.push((slot(text, member.start, end), String::new()));
    }
    // The last member must not have a comma after it, unless the last one had one before.
    let cut = members.last().is_some_and(|member| member.comma.is_none());
    if let Some((at, comma)) = last.and_then(|(at, member)| Some((at, member.comma?)))
        && cut
        && at + 1 < members.len()
    {
        edits.push((comma..comma + 1, String::new()));
    }
    if first.is_none() && !change.insert.is_empty() {
        edits.push(layout.appended(text, object, last.map(|(_, member)| member), &change.insert));
    }
    edits
}

/// Returns the range of a member, with its whole line if nothing else is on it.
fn slot(text: &str, start: usize, end: usize) -> Range<usize> {
    let line = text[..start].rfind('\n').map_or(0, |at| at + 1);
    let after = text[end..].find('\n').map_or(text.len(), |at| end + at + 1);
    let is_blank = |range: Range<usize>| text[range].trim().is_empty();
    if line > 0 && is_blank(line..start) && is_blank(end..after) {
        return line..after;
    }
    let spaces = text[end..].len() - text[end..].trim_start_matches(' ').len();
    start..end + spaces
}

/// How an object is laid out.
struct Layout {
    /// The line break; empty if everything is on one line.
    newline: &'static str,
    /// The indentation of the object's own line.
    outer: String,
    /// What one level adds to the indentation.
    step: String,
}

impl Layout {
    fn of(text: &str, object: &Node) -> Self {
        let newline = match (text.contains("\r\n"), text.trim_end().contains('\n')) {
            (true, _) => "\r\n",
            (false, true) => "\n",
            (false, false) => "",
        };
        let outer = indent(text, object.span.start);
        let inner = object.members().first().map(|member| indent(text, member.start));
        let step = inner.as_deref().and_then(|inner| inner.strip_prefix(&outer)).filter(|step| !step.is_empty());
        Self { newline, step: step.unwrap_or("  ").to_owned(), outer }
    }

    /// Formats these members as they are written in the object, starting with the first key.
    fn rendered(&self, members: &[(String, Value)]) -> String {
        let between = if self.newline.is_empty() {
            ", ".to_owned()
        } else {
            format!(",{}{}{}", self.newline, self.outer, self.step)
        };
        let one = |(key, value): &(String, Value)| format!("{}: {}", Value::from(key.as_str()), self.value(value));
        members.iter().map(one).collect::<Vec<_>>().join(&between)
    }

    fn value(&self, value: &Value) -> String {
        if self.newline.is_empty() {
            return value.to_string();
        }
        // A string contains no line break of its own, because JSON escapes it.
        let deeper = format!("{}{}", self.outer, self.step);
        let lines = format!("{value:#}");
        let line = |line: &str| {
            let spaces = line.len() - line.trim_start_matches(' ').len();
            format!("{}{}", self.step.repeat(spaces / 2), &line[spaces..])
        };
        lines.lines().map(line).collect::<Vec<_>>().join(&format!("{}{deeper}", self.newline))
    }

    /// Appends the members after the last one that stays, or as the only ones.
    fn appended(
        &self,
        text: &str,
        object: &Node,
        last: Option<&Member>,
        members: &[(String, Value)],
    ) -> (Range<usize>, String) {
        let (Self { newline, outer, step }, rendered) = (self, self.rendered(members));
        if let Some(last) = last {
            let at = last.value.span.end;
            let between = if newline.is_empty() { " ".to_owned() } else { format!("{newline}{outer}{step}") };
            return (at..at, format!(",{between}{rendered}"));
        }
        let (begin, end) = (object.span.start + 1, object.span.end - 1);
        let inside = if text[begin..end].trim().is_empty() { begin..end } else { begin..begin };
        match newline.is_empty() {
            true => (inside, rendered),
            false => (inside, format!("{newline}{outer}{step}{rendered}{newline}{outer}")),
        }
    }
}

/// Returns the white space at the start of the line of this position.
fn indent(text: &str, at: usize) -> String {
    let line = text[..at].rfind('\n').map_or(0, |at| at + 1);
    text[line..at].chars().take_while(|c| matches!(c, ' ' | '\t')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn change(remove: &[&str], insert: &[(&str, Value)]) -> ObjectEdit {
        ObjectEdit {
            path: vec!["s".to_owned()],
            remove: remove.iter().map(|name| (*name).to_owned()).collect(),
            insert: insert.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
        }
    }

    #[test]
    fn one_entry_replaces_several_and_the_rest_stays() {
        let text = "{\n\t// mine\n\t\"x\": 1.0,\n\t\"s\": {\n\t\t\"a\": {\n\t\t\t\"q\": []\n\t\t}, // first\n\t\t\"b\": {},\n\n\t\t\"c\": {}\n\t},\n\t\"y\": [1,2 ]\n}\n";
        let new = [("l", json!({"command": "/l", "args": ["mcp"]}))];
        let wanted = "{\n\t// mine\n\t\"x\": 1.0,\n\t\"s\": {\n\t\t\"l\": {\n\t\t\t\"command\": \"/l\",\n\t\t\t\"args\": [\n\t\t\t\t\"mcp\"\n\t\t\t]\n\t\t}, // first\n\t\t\"b\": {}\n\n\t},\n\t\"y\": [1,2 ]\n}\n";
        assert_eq!(json(text, &[change(&["a", "c"], &new)]).unwrap(), wanted);
    }

    #[test]
    fn every_layout_is_kept() {
        let new = [("l", json!(1))];
        for (text, remove, insert, wanted) in [
            (r#"{"s":{"a":1,"b":2}}"#, &["a"][..], &new[..], r#"{"s":{"l": 1,"b":2}}"#),
            (r#"{"s":{"a":1,"b":2}}"#, &["b"], &[], r#"{"s":{"a":1}}"#),
            (r#"{"s":{"a":1, "b":2}}"#, &["a", "b"], &[], r#"{"s":{}}"#),
            (r#"{"s":{"a":1, "b":2}}"#, &["a", "b"], &new, r#"{"s":{"l": 1 }}"#),
            (r#"{"s":{}}"#, &[], &new, r#"{"s":{"l": 1}}"#),
            ("{\r\n  \"s\": {}\r\n}", &[], &new, "{\r\n  \"s\": {\r\n    \"l\": 1\r\n  }\r\n}"),
            ("{\n  \"s\": {\n    \"a\": 1,\n  },\n}", &["a"], &[], "{\n  \"s\": {\n  },\n}"),
            (
                "{\n  \"s\": {\n    \"a\": 1,\n  },\n}",
                &[],
                &new,
                "{\n  \"s\": {\n    \"a\": 1,\n    \"l\": 1,\n  },\n}",
            ),
        ] {
            assert_eq!(json(text, &[change(remove, insert)]).unwrap(), wanted, "{text}");
        }
        assert!(json("{}", &[change(&[], &new)]).is_err());
    }

    proptest! {
        #[test]
        fn removed_members_can_be_restored(
            members in prop::collection::btree_map("[a-e]", prop_oneof![Just(json!({"k": ["v", 1]})), Just(json!(null))], 0..5),
            remove in prop::collection::vec("[a-e]", 0..4),
            pretty: bool,
            windows: bool,
        ) {
            let object: serde_json::Map<_, _> = members.clone().into_iter().collect();
            let value = json!({"before": 1, "s": object, "after": {"z": []}});
            let text = if pretty { format!("{value:#}\n") } else { value.to_string() };
            let text = if windows { text.replace('\n', "\r\n") } else { text };
            let remove: Vec<&str> = remove.iter().map(String::as_str).collect();
            let there = json(&text, &[change(&remove, &[("l", json!({"c": "d"}))])]).unwrap();
            let taken = members.iter().filter(|(name, _)| remove.contains(&name.as_str()));
            let taken: Vec<_> = taken.map(|(name, value)| (name.as_str(), value.clone())).collect();
            let back = json(&there, &[change(&["l"], &taken)]).unwrap();
            prop_assert_eq!(jsonc::parse(&back).unwrap().value(), value);
        }
    }
}
