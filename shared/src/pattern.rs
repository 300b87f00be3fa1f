//! What is meant among all that instances offer: `INSTANCE[/SERVER[/ITEM]]`, each part with `*` and `?`.
//!
//! Owns [`Pattern`]. An item is the name of a tool or prompt as its server has it, or the URI of a resource, and may
//! itself have slashes. A part that is left out stands for everything.
//! Invariant: a text whose first two parts no name could ever match is refused: a rule that is silently of no effect
//! would show what should be hidden. Never: decides what a match means; that is its reader's.

use crate::problem::{Code, Problem};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The longest pattern, in bytes.
const MAX_LEN: usize = 512;

/// A pattern: instance, server, item.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pattern {
    parts: Vec<String>,
}

impl Pattern {
    /// Reads one.
    ///
    /// # Errors
    /// [`Code::BadRequest`] when a part is empty, or instance or server have characters that no name has.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        let parts: Vec<String> = text.splitn(3, '/').map(str::to_owned).collect();
        let name = |part: &String| {
            part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'*' | b'?'))
        };
        if text.len() <= MAX_LEN && parts.iter().all(|part| !part.is_empty()) && parts.iter().take(2).all(name) {
            return Ok(Self { parts });
        }
        let detail = format!("{text:?} is not a pattern of the form INSTANCE[/SERVER[/TOOL]]");
        let mut problem = Problem::new(Code::BadRequest, detail);
        if let Some((instance, tool)) = text.split_once("__") {
            problem = problem.next(format!("for a tool of an instance write {instance}/*/{tool}"));
        }
        Err(problem.next("for example: shop, shop/files, shop/*/delete_*"))
    }

    /// Whether everything under this path of instance, server and item is meant.
    #[must_use]
    pub fn covers(&self, path: &[&str]) -> bool {
        self.parts.iter().enumerate().all(|(at, part)| path.get(at).map_or(part == "*", |name| glob(part, name)))
    }

    /// Whether anything under this path can be meant.
    #[must_use]
    pub fn meets(&self, path: &[&str]) -> bool {
        self.parts.iter().zip(path).all(|(part, name)| glob(part, name))
    }
}

impl TryFrom<String> for Pattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text).map_err(|problem| problem.detail)
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> Self {
        pattern.to_string()
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.parts.join("/"))
    }
}

/// Whether `*` (anything) and `?` (one byte) in `pattern` can stand for the rest of `text`. It goes back to the last
/// star only, so no pattern is slow.
fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(&byte) if byte == b'?' || byte == text[t] => (p, t) = (p + 1, t + 1),
            Some(_) | None => match star {
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    (p, t) = (at + 1, taken + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::parse(text).unwrap()
    }

    #[test]
    fn parts_that_are_left_out_stand_for_everything() {
        assert!(pattern("shop").covers(&["shop", "files", "read"]) && pattern("shop").covers(&["shop"]));
        assert!(pattern("shop/*/*").covers(&["shop"]) && !pattern("shop/files").covers(&["shop"]));
        assert!(pattern("shop/files").meets(&["shop"]) && !pattern("shop/files").meets(&["blog"]));
        let deletes = pattern("s*/*/delete_?");
        assert!(deletes.covers(&["shop", "files", "delete_1"]) && !deletes.covers(&["shop", "files", "delete_12"]));
        assert!(pattern("shop/files/file:///a/*").covers(&["shop", "files", "file:///a/b/c"]));
    }

    #[test]
    fn what_could_never_match_is_refused() {
        for text in ["", "/", "shop/", "shop//x", "Shop", "shop__read", "a b", &"x".repeat(600)] {
            assert!(Pattern::parse(text).is_err(), "{text}");
        }
        let problem = Pattern::parse("shop__read").unwrap_err();
        assert!(problem.to_string().contains("shop/*/read"), "{problem}");
    }

    proptest! {
        #[test]
        fn a_glob_is_what_its_definition_says(pattern in "[ab*?]{0,6}", text in "[ab]{0,6}") {
            fn slow(pattern: &[u8], text: &[u8]) -> bool {
                match (pattern.split_first(), text.split_first()) {
                    (None, None) => true,
                    (Some((b'*', rest)), _) => (0..=text.len()).any(|at| slow(rest, &text[at..])),
                    (Some((b'?', rest)), Some((_, more))) => slow(rest, more),
                    (Some((byte, rest)), Some((first, more))) => byte == first && slow(rest, more),
                    (Some(_), None) | (None, Some(_)) => false,
                }
            }
            prop_assert_eq!(glob(&pattern, &text), slow(pattern.as_bytes(), text.as_bytes()));
        }

        #[test]
        fn any_text_is_read_or_refused(text: String) {
            if let Ok(pattern) = Pattern::parse(&text) {
                prop_assert_eq!(pattern.to_string(), text);
            }
        }
    }
}
