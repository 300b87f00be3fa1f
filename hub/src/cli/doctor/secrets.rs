//! Removing secrets from everything that the doctor says.
//!
//! Owns two rules. What is known to be secret (the hub's token, the secret of every record, also of one that cannot be
//! believed or is in quarantine) is removed wherever it stands. What looks like one is removed by the name before it:
//! `API_KEY=…`, `"password": "…"`, `--token …`, `Bearer …`, and the password in a URL.
//! Invariant: everything that leaves the doctor went through here; to remove too much is no fault.
//! Never: remembers a secret longer than the verb runs, or trusts that a file is well-formed.

use linchpin_shared::home::Home;
use rustix::fs::{Mode, OFlags};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::Path;

/// What stands in the place of a secret.
const REMOVED: &str = "[removed]";

/// The names under which our own files keep secrets.
const OURS: [&str; 2] = ["token", "secret"];

/// Shorter than this, a value is removed only beside its name: it would stand in half of all words.
const SHORTEST: usize = 4;

/// How much of a file is searched; no record that is longer is read by anybody.
const MAX_BYTES: u64 = 1 << 20;

/// The secrets of a home.
#[derive(Default)]
pub(super) struct Secrets {
    /// Longest first, so that one that contains another is removed whole.
    known: Vec<String>,
}

impl Secrets {
    /// Those of this home.
    pub(super) fn of(home: &Home) -> Self {
        let mut known = BTreeSet::new();
        collect(&home.hub_file(), &mut known);
        for dir in [home.instances(), home.instances().join("quarantine"), home.root().to_owned()] {
            for file in dir.read_dir().into_iter().flatten().flatten() {
                collect(&file.path(), &mut known);
            }
        }
        let mut known: Vec<_> = known.into_iter().filter(|secret| secret.len() >= SHORTEST).collect();
        known.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        Self { known }
    }

    /// These and those.
    pub(super) fn and(mut self, other: Self) -> Self {
        self.known.extend(other.known);
        self.known.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        self.known.dedup();
        self
    }

    /// The text without secrets.
    pub(super) fn text(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in &self.known {
            if text.contains(secret) {
                text = text.replace(secret, REMOVED);
            }
        }
        blank(&text)
    }

    /// The value without secrets.
    pub(super) fn value(&self, value: &mut Value) {
        match value {
            Value::String(text) => *text = self.text(text),
            Value::Array(items) => items.iter_mut().for_each(|item| self.value(item)),
            Value::Object(fields) => {
                for (name, field) in fields {
                    // `key` alone names a setting in our own problems.
                    if is_secret_name(name) && name != "key" && !field.is_boolean() && !field.is_null() {
                        *field = REMOVED.into();
                    } else {
                        self.value(field);
                    }
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
}

/// Finds the secrets in one of our files, whether or not it is well-formed.
fn collect(path: &Path, known: &mut BTreeSet<String>) {
    let Some(bytes) = read(path) else { return };
    if let Ok(value) = serde_json::from_slice::<Value>(&bytes) {
        collect_value(&value, known);
    }
    let text = String::from_utf8_lossy(&bytes);
    for (name, value) in spans(&text) {
        if OURS.contains(&&text[name]) {
            known.insert(text[value].to_owned());
        }
    }
}

fn collect_value(value: &Value, known: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                match field {
                    Value::String(text) if OURS.contains(&name.as_str()) => drop(known.insert(text.clone())),
                    Value::Number(number) if OURS.contains(&name.as_str()) => drop(known.insert(number.to_string())),
                    Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
                    Value::Array(_) | Value::Object(_) => collect_value(field, known),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect_value(item, known)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// The beginning of a regular file, whatever its mode; a pipe in its place cannot make us wait.
pub(super) fn read(path: &Path) -> Option<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty()).ok()?);
    let mut bytes = Vec::new();
    file.metadata().ok().filter(std::fs::Metadata::is_file)?;
    file.take(MAX_BYTES).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// The text without the values that a secret's name stands before, and without passwords in URLs.
fn blank(text: &str) -> String {
    let mut ranges: Vec<Range<usize>> = spans(text).into_iter().map(|(_, value)| value).collect();
    ranges.extend(passwords(text));
    ranges.sort_by_key(|range| range.start);
    let (mut out, mut at) = (String::with_capacity(text.len()), 0);
    for range in ranges {
        if range.start >= at {
            out.push_str(&text[at..range.start]);
            out.push_str(REMOVED);
        }
        at = at.max(range.end);
    }
    out.push_str(&text[at..]);
    out
}

/// Whether something of this name is secret.
fn is_secret_name(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    let words = ["TOKEN", "SECRET", "PASSWORD", "PASSWD", "PASSPHRASE", "CREDENTIAL", "AUTHORIZATION", "COOKIE"];
    words.iter().any(|word| name.contains(word)) || name.ends_with("KEY") || name.contains("KEY_")
}

/// Every secret's name with the value after it.
fn spans(text: &str) -> Vec<(Range<usize>, Range<usize>)> {
    let part_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let (mut found, mut at) = (Vec::new(), 0);
    while let Some(start) = text[at..].find(part_of_name).map(|offset| at + offset) {
        let end = text[start..].find(|c| !part_of_name(c)).map_or(text.len(), |offset| start + offset);
        let name = &text[start..end];
        at = end;
        if let Some(value) = value_of(text, name, end) {
            at = value.end;
            found.push((start..end, value));
        }
    }
    found
}

/// The value of this name, which ends at `end`.
fn value_of(text: &str, name: &str, end: usize) -> Option<Range<usize>> {
    let bearer = name.eq_ignore_ascii_case("bearer");
    if !bearer && !is_secret_name(name) {
        return None;
    }
    let rest = text[end..].trim_start_matches(['"', '\'', '\\']).trim_start_matches([' ', '\t']);
    let assigned =
        rest.strip_prefix(":=").or_else(|| rest.strip_prefix("=>")).or_else(|| rest.strip_prefix(['=', ':']));
    let given = (bearer || name.starts_with("--")) && text[end..].starts_with([' ', '\t']);
    let value = assigned.or_else(|| given.then_some(rest))?.trim_start_matches([' ', '\t']);
    let length = length_of(value, name);
    let inside = value.len() - value.trim_start_matches(['"', '\'', '\\']).len();
    let start = text.len() - value.len();
    (length > inside).then(|| start + inside..start + length)
}

/// How long the value at the beginning of this text is: to its closing quote, else to the next space or quote.
fn length_of(value: &str, name: &str) -> usize {
    let escaped = value.starts_with('\\');
    let open = value.trim_start_matches('\\');
    let skipped = value.len() - open.len();
    let Some(quote) = open.chars().next().filter(|c| matches!(c, '"' | '\'')) else {
        // The value of a header is several words.
        let header = name.to_ascii_uppercase();
        let many = header.contains("AUTHORIZATION") || header.contains("COOKIE");
        let ends = |c: char| matches!(c, '"' | '\'' | '`' | '\n' | '\r') || (!many && c.is_whitespace());
        return value.find(ends).unwrap_or(value.len());
    };
    let mut before = quote;
    for (offset, c) in open.char_indices().skip(1) {
        if c == '\n' {
            return skipped + offset;
        }
        // In a quoted string an escaped quote belongs to it; where the opening quote was escaped, an escaped one closes.
        if c == quote && (before == '\\') == escaped {
            return skipped + offset - usize::from(escaped);
        }
        before = if before == '\\' && c == '\\' && !escaped { quote } else { c };
    }
    value.len()
}

/// The passwords in URLs: `scheme://user:password@host`.
fn passwords(text: &str) -> impl Iterator<Item = Range<usize>> {
    text.match_indices("://").filter_map(|(at, scheme)| {
        let start = at + scheme.len();
        let end = text[start..].find([' ', '/', '"', '\'', '\n', '<', '>']).map_or(text.len(), |offset| start + offset);
        let (user, _) = text[start..end].rsplit_once('@')?;
        let (name, password) = user.split_once(':')?;
        let from = start + name.len() + 1;
        (!password.is_empty()).then(|| from..from + password.len())
    })
}

#[cfg(test)]
#[path = "secrets_tests.rs"]
mod tests;
