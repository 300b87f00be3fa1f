//! Names of instances, processes and servers.
//!
//! Owns the rule: 1 to 40 characters of `a-z`, `0-9` and `-`, beginning and ending with a letter or digit, without `--`.
//! So a name is a DNS label (`SERVICE.NAME.localhost`), a file name, and a prefix of a tool name in which `__` separates.
//! Never: lets another character through; [`from_path`] finds a valid name for any directory.

use crate::problem::{Code, Problem};
use std::path::Path;

/// The longest name, in bytes. Three names and separators stay below the 128 characters of an MCP tool name.
pub const MAX_LEN: usize = 40;

/// Checks a name.
///
/// # Errors
/// [`Code::BadName`] when the name breaks the rule.
pub fn check(name: &str) -> Result<(), Problem> {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let inside = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    if inside && name.len() <= MAX_LEN && edge(name.chars().next()) && edge(name.chars().last()) && !name.contains("--")
    {
        return Ok(());
    }
    Err(Problem::new(Code::BadName, format!("{name:?} is not a valid name"))
        .seen("rule", "1 to 40 characters of a-z, 0-9 and -, beginning and ending with a letter or digit, without --")
        .next(format!("use another name, for example --name {}", slug(name))))
}

/// The nearest valid name for any text; `app` when nothing of it can be used.
#[must_use]
pub fn slug(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars().map(|c| c.to_ascii_lowercase()) {
        if out.len() == MAX_LEN {
            break;
        }
        if c.is_ascii_alphanumeric() {
            out.push(c);
        } else if !out.is_empty() && !out.ends_with('-') {
            out.push('-');
        }
    }
    let out = out.trim_end_matches('-');
    if out.is_empty() { String::from("app") } else { out.to_owned() }
}

/// A name for the project in this directory.
#[must_use]
pub fn from_path(path: &Path) -> String {
    slug(&path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_rule() {
        for good in ["a", "shop", "shop-2", "0x"] {
            assert!(check(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "a--b", "a_b", "A", "a b", "ä", &"x".repeat(41)] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_slug_is_always_valid_and_stable(text in ".*") {
            let once = slug(&text);
            prop_assert!(check(&once).is_ok(), "{once}");
            prop_assert_eq!(slug(&once), once);
        }
    }
}
