//! Parses JSON with comments and trailing commas, and keeps the position of every part in the text.
//!
//! Agents write plain JSON themselves; files that people write for VS Code have comments. A text is parsed completely,
//! or refused with line and column. The span of a part covers exactly the bytes of that part. Texts are changed by
//! [`super::edit`].

use linchpin_shared::problem::{Code, Problem};
use serde_json::{Map, Value};
use std::ops::Range;

/// The deepest nesting that is accepted. Files of agents have a depth of about ten.
const MAX_DEPTH: usize = 100;

/// A value in the text.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    /// Its position in the text.
    pub(super) span: Range<usize>,
    pub(super) kind: NodeKind,
}

/// What a value is.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum NodeKind {
    Object(Vec<Member>),
    Array(Vec<Node>),
    Scalar(Value),
}

/// A member of an object.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Member {
    pub(super) key: String,
    /// The position of its key.
    pub(super) start: usize,
    pub(super) value: Node,
    /// The position of the comma after it.
    pub(super) comma: Option<usize>,
}

impl Node {
    /// Returns the members; empty if it is not an object.
    pub(super) fn members(&self) -> &[Member] {
        match &self.kind {
            NodeKind::Object(members) => members,
            NodeKind::Array(_) | NodeKind::Scalar(_) => &[],
        }
    }

    /// Returns the value of the member with this key.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        self.members().iter().find(|member| member.key == key).map(|member| &member.value)
    }

    /// Returns the value to which these keys lead.
    pub(super) fn at(&self, keys: &[String]) -> Option<&Self> {
        keys.iter().try_fold(self, |node, key| node.get(key))
    }

    /// Returns the value without positions.
    pub(super) fn value(&self) -> Value {
        match &self.kind {
            NodeKind::Scalar(value) => value.clone(),
            NodeKind::Array(nodes) => nodes.iter().map(Self::value).collect(),
            NodeKind::Object(members) => {
                let pair = |member: &Member| (member.key.clone(), member.value.value());
                Value::Object(members.iter().map(pair).collect::<Map<_, _>>())
            }
        }
    }
}

/// Parses a text.
///
/// # Errors
/// [`Code::BadRequest`] with line and column.
pub(super) fn parse(text: &str) -> Result<Node, Problem> {
    // Some editors on Windows start a file with a byte order mark (RFC 8259, section 8.1).
    let start = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
    let mut parser = Parser { text, at: start, depth: 0 };
    let read = parser.skip_blank().and_then(|()| parser.node()).and_then(|node| parser.skip_blank().map(|()| node));
    match read {
        Ok(_) if parser.at < text.len() => Err(parser.problem("there is something after the end of the document")),
        Ok(node) => Ok(node),
        Err(why) => Err(parser.problem(&why)),
    }
}

struct Parser<'t> {
    text: &'t str,
    at: usize,
    depth: usize,
}

type Read<T> = Result<T, String>;

impl<'t> Parser<'t> {
    fn problem(&self, why: &str) -> Problem {
        let before = &self.text[..self.at.min(self.text.len())];
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
        Problem::new(Code::BadRequest, format!("line {line}, column {column}: {why}"))
    }

    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    /// Skips white space and comments.
    fn skip_blank(&mut self) -> Read<()> {
        loop {
            let rest = self.rest();
            let trimmed = rest.trim_start_matches([' ', '\t', '\r', '\n']);
            self.at += rest.len() - trimmed.len();
            let length = if trimmed.starts_with("//") {
                trimmed.find('\n').unwrap_or(trimmed.len())
            } else if trimmed.starts_with("/*") {
                trimmed.find("*/").map(|at| at + 2).ok_or("this comment is not closed")?
            } else {
                return Ok(());
            };
            self.at += length;
        }
    }

    fn node(&mut self) -> Read<Node> {
        let start = self.at;
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(String::from("it is nested too deeply"));
        }
        let kind = match self.rest().bytes().next() {
            Some(b'{') => NodeKind::Object(self.object()?),
            Some(b'[') => NodeKind::Array(self.array()?),
            Some(b'"') => NodeKind::Scalar(Value::String(self.string()?)),
            Some(_) => NodeKind::Scalar(self.word()?),
            None => return Err(String::from("the document ends here unexpectedly")),
        };
        self.depth -= 1;
        Ok(Node { span: start..self.at, kind })
    }

    fn object(&mut self) -> Read<Vec<Member>> {
        let mut members: Vec<Member> = Vec::new();
        self.at += 1;
        loop {
            self.skip_blank()?;
            if self.takes('}') {
                return Ok(members);
            }
            if members.last().is_some_and(|last| last.comma.is_none()) {
                return Err(String::from("expected a comma or }"));
            }
            let start = self.at;
            if !self.rest().starts_with('"') {
                return Err(String::from("expected a name in quotes, or }"));
            }
            let key = self.string()?;
            if members.iter().any(|member| member.key == key) {
                return Err(format!("the key {key:?} occurs twice"));
            }
            self.skip_blank()?;
            if !self.takes(':') {
                return Err(String::from("expected a colon"));
            }
            self.skip_blank()?;
            let value = self.node()?;
            self.skip_blank()?;
            let comma = self.comma();
            members.push(Member { key, start, value, comma });
        }
    }

    fn array(&mut self) -> Read<Vec<Node>> {
        let (mut nodes, mut more) = (Vec::new(), true);
        self.at += 1;
        loop {
            self.skip_blank()?;
            if self.takes(']') {
                return Ok(nodes);
            }
            if !more {
                return Err(String::from("expected a comma or ]"));
            }
            nodes.push(self.node()?);
            self.skip_blank()?;
            more = self.comma().is_some();
        }
    }

    fn takes(&mut self, sign: char) -> bool {
        let is_there = self.rest().starts_with(sign);
        self.at += if is_there { sign.len_utf8() } else { 0 };
        is_there
    }

    fn comma(&mut self) -> Option<usize> {
        let at = self.at;
        self.takes(',').then_some(at)
    }

    fn string(&mut self) -> Read<String> {
        let rest = self.rest();
        let mut escaped = false;
        let end = rest.bytes().enumerate().skip(1).find(|(_, byte)| {
            let ends = *byte == b'"' && !escaped;
            escaped = *byte == b'\\' && !escaped;
            ends
        });
        let (end, _) = end.ok_or("this string is not closed")?;
        let text = serde_json::from_str(&rest[..=end]).map_err(|_| "this string is not valid")?;
        self.at += end + 1;
        Ok(text)
    }

    /// Parses a number, true, false or null.
    fn word(&mut self) -> Read<Value> {
        let rest = self.rest();
        let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
        let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
        let value = serde_json::from_str(&rest[..end]).map_err(|_| "expected a value")?;
        self.at += end;
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn comments_and_trailing_commas_are_ignored() {
        let text = "\u{feff}// first\n{ /* a */ \"a\": [1, 2.0, ], // b\n \"b\": {\"c\": \"d\\\"}\", },\n}\n// last";
        let node = parse(text).unwrap();
        assert_eq!(node.value().to_string(), r#"{"a":[1,2.0],"b":{"c":"d\"}"}}"#);
        assert_eq!(&text[node.at(&["b".into(), "c".into()]).unwrap().span.clone()], r#""d\"}""#);
    }

    #[test]
    fn an_error_has_line_and_column() {
        for (text, position) in [
            ("", "line 1, column 1"),
            ("{\n  \"a\": }", "line 2, column 8"),
            ("{\"a\": 1 \"b\": 2}", "line 1, column 9"),
            ("{\"a\": 1}\n{", "line 2, column 1"),
            ("{\"a\": 1, \"a\": 2}", "line 1, column 13"),
            ("{a: 1}", "line 1, column 2"),
            ("/* x", "line 1, column 1"),
            ("[1 2]", "line 1, column 4"),
        ] {
            let problem = parse(text).unwrap_err();
            assert!(problem.detail.starts_with(position), "{text:?}: {problem}");
        }
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            ".*".prop_map(Value::from)
        ];
        leaf.prop_recursive(3, 20, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(".*", inner, 0..4).prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn json_is_parsed_as_json(value in json(), pretty: bool) {
            let text = if pretty { format!("{value:#}") } else { value.to_string() };
            prop_assert_eq!(parse(&text).unwrap().value(), value);
        }

        #[test]
        fn any_text_is_parsed_or_refused(text in "[\\[\\]{}\",:/*a1 \n\\\\]{0,30}|.*") {
            let _ = parse(&text);
        }
    }
}
