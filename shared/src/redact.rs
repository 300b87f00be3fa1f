//! Removing what looks like a secret from a text that people will see.
//!
//! Owns the rules by which something is taken for a secret: the name before it (`API_KEY=…`, `"password": "…"`, `--token …`,
//! `Bearer …`), and its place in a URL. Command lines, problems and the doctor's reports all go through here.
//! Invariant: pure; to remove too much is no fault, and what was removed shows as [`REMOVED`].
//! Never: keeps a secret, or looks at anything but the text that it is given.

use std::ops::Range;

/// What stands in the place of a secret.
pub const REMOVED: &str = "[removed]";

/// The shortest user of a URL without a password that is taken for a token: `https://TOKEN@host`.
const TOKEN_LEN: usize = 20;

/// The words of a command line without secrets. A word knows its neighbour here, so a value with spaces goes as a whole.
pub fn words<'a>(words: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut value_follows = false;
    let mut shown = Vec::new();
    for word in words {
        let is_value = std::mem::take(&mut value_follows) && !word.starts_with('-');
        shown.push(match word.split_once('=') {
            _ if is_value => REMOVED.to_owned(),
            Some((name, _)) if !name.contains(char::is_whitespace) && is_secret_name(name) => {
                format!("{name}={REMOVED}")
            }
            Some(_) => text(word),
            None => {
                value_follows = word.starts_with('-') && is_secret_name(word);
                text(word)
            }
        });
    }
    shown
}

/// The text without the values that a secret's name stands before, and without passwords in URLs.
#[must_use]
pub fn text(text: &str) -> String {
    let mut ranges: Vec<Range<usize>> = named(text).into_iter().map(|(_, value)| value).collect();
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
#[must_use]
pub fn is_secret_name(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    let words = ["TOKEN", "SECRET", "PASSWORD", "PASSWD", "PASSPHRASE", "CREDENTIAL", "AUTHORIZATION", "COOKIE"];
    let ends = ["KEY", "PASS", "AUTH"];
    words.iter().any(|word| name.contains(word)) || ends.iter().any(|end| name.ends_with(end)) || name.contains("KEY_")
}

/// Every secret's name with the value after it, as places in the text.
#[must_use]
pub fn named(text: &str) -> Vec<(Range<usize>, Range<usize>)> {
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

/// The passwords in URLs: `scheme://user:password@host`, and what is a token in the place of the user.
fn passwords(text: &str) -> impl Iterator<Item = Range<usize>> {
    text.match_indices("://").filter_map(|(at, scheme)| {
        let start = at + scheme.len();
        let end = text[start..].find([' ', '/', '"', '\'', '\n', '<', '>']).map_or(text.len(), |offset| start + offset);
        let (user, _) = text[start..end].rsplit_once('@')?;
        let Some((name, password)) = user.split_once(':') else {
            return (user.len() >= TOKEN_LEN).then(|| start..start + user.len());
        };
        let from = start + name.len() + 1;
        (!password.is_empty()).then(|| from..from + password.len())
    })
}

#[cfg(test)]
mod tests;
