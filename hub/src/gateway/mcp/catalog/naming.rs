//! The names under which tools and prompts are offered.
//!
//! Owns the rule: `instance__tool` where an instance fronts one server, `instance__server__tool` where it fronts more.
//! Names of instances and servers have no underscore (`shared::name`), so the first `__` always ends one.
//! Invariant: an exposed name has 1 to 128 characters of `A-Z a-z 0-9 _ - .`; a name that would not is cleaned and cut,
//! and a hash of the full name keeps it apart from others. The same full name always gives the same exposed name.

use sha2::{Digest, Sha256};

/// The longest name that MCP allows.
pub(crate) const MAX_LEN: usize = 128;

const SEPARATOR: &str = "__";

/// What precedes a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Prefix<'a> {
    /// The instance.
    pub(crate) instance: &'a str,
    /// The server, where the instance fronts more than one.
    pub(crate) server: Option<&'a str>,
}

impl Prefix<'_> {
    /// The name under which `name` of this server is offered.
    pub(crate) fn expose(&self, name: &str) -> String {
        let full = match self.server {
            Some(server) => [self.instance, server, name].join(SEPARATOR),
            None => [self.instance, name].join(SEPARATOR),
        };
        if is_valid(&full) { full } else { shorten(&full) }
    }
}

/// The part before the first separator, and the rest.
pub(crate) fn split(name: &str) -> Option<(&str, &str)> {
    name.split_once(SEPARATOR)
}

/// Whether MCP allows this name.
pub(crate) fn is_valid(name: &str) -> bool {
    (1..=MAX_LEN).contains(&name.len()) && name.bytes().all(is_allowed)
}

fn is_allowed(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.')
}

fn shorten(full: &str) -> String {
    let digest = Sha256::digest(full.as_bytes());
    let hash: String = digest.iter().take(5).map(|byte| format!("{byte:02x}")).collect();
    let room = MAX_LEN - hash.len() - 1;
    let clean: String =
        full.chars().map(|c| if c.is_ascii() && is_allowed(c as u8) { c } else { '_' }).take(room).collect();
    format!("{clean}_{hash}")
}

/// Up to three of `candidates` that somebody who wrote `wanted` may have meant, best first.
pub(crate) fn nearest<'a>(wanted: &str, candidates: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    // Nobody meant a name by this, and each candidate would be compared with all of it.
    if wanted.len() > 2 * MAX_LEN {
        return Vec::new();
    }
    let mut scored: Vec<(usize, &str)> = candidates.filter_map(|name| Some((likeness(wanted, name)?, name))).collect();
    scored.sort_unstable();
    scored.into_iter().take(3).map(|(_, name)| name).collect()
}

/// How many edits lie between what was wanted and a candidate, counted on the last part alone if that is nearer.
/// None if they have too little in common.
fn likeness(wanted: &str, name: &str) -> Option<usize> {
    let tail = |name: &str| name.rsplit(SEPARATOR).next().unwrap_or_default().to_ascii_lowercase();
    let whole = distance(&wanted.to_ascii_lowercase(), &name.to_ascii_lowercase());
    let tails = distance(&tail(wanted), &tail(name)) * 2 + 1;
    let limit = wanted.len().max(3) / 3 + 1;
    Some(whole.min(tails)).filter(|edits| *edits <= limit)
}

/// The Levenshtein distance in bytes, over the first 128 of each.
fn distance(a: &str, b: &str) -> usize {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let (a, b) = (&a[..a.len().min(MAX_LEN)], &b[..b.len().min(MAX_LEN)]);
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let cost = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = cost.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    const ONE: Prefix<'_> = Prefix { instance: "shop", server: None };

    #[test]
    fn the_rule() {
        assert_eq!(ONE.expose("read_file"), "shop__read_file");
        assert_eq!(Prefix { instance: "shop", server: Some("files") }.expose("a__b"), "shop__files__a__b");
        assert_eq!(split("shop__files__a__b"), Some(("shop", "files__a__b")));
        assert_eq!(split("shop_files"), None);
    }

    #[test]
    fn a_long_or_odd_name_is_cut_and_told_apart() {
        let (a, b) = (ONE.expose(&format!("{}a", "x".repeat(140))), ONE.expose(&format!("{}b", "x".repeat(140))));
        assert!(is_valid(&a) && is_valid(&b) && a != b && a.len() == MAX_LEN);
        assert!(ONE.expose("do it").starts_with("shop__do_it_"));
        assert_ne!(ONE.expose("do it"), ONE.expose("do_it"));
        assert_eq!(ONE.expose("do it"), "shop__do_it_e7633b7926", "the same in every version: agents keep names");
    }

    #[test]
    fn near_names_are_found() {
        let names = ["shop__read_file", "shop__write_file", "shop__list", "blog__echo"];
        assert_eq!(nearest("shop__raed_file", names.into_iter())[0], "shop__read_file");
        assert_eq!(nearest("echo", names.into_iter()), ["blog__echo"]);
        assert_eq!(nearest("SHOP__LIST", names.into_iter())[0], "shop__list");
        assert!(nearest("completely-different", names.into_iter()).is_empty());
        assert!(nearest(&"x".repeat(2 * MAX_LEN + 1), ["x"; 3].into_iter()).is_empty());
    }

    proptest! {
        #[test]
        fn every_exposed_name_is_valid_and_its_own(names in prop::collection::hash_set(".{0,200}", 0..20)) {
            let mut seen = HashMap::new();
            for name in &names {
                for prefix in [ONE, Prefix { instance: "shop", server: Some("s") }, Prefix { instance: "blog", server: None }] {
                    let exposed = prefix.expose(name);
                    prop_assert!(is_valid(&exposed), "{}", exposed);
                    let full = (prefix.instance, prefix.server, name);
                    // A server named s is not alone, so `shop__s__x` of both kinds never stand side by side.
                    if prefix != ONE || !name.starts_with("s__") {
                        prop_assert_eq!(seen.insert(exposed, full), None);
                    }
                }
            }
        }

        #[test]
        fn a_distance_is_symmetric_and_zero_for_equals(a in "[a-c]{0,8}", b in "[a-c]{0,8}") {
            prop_assert_eq!(distance(&a, &b), distance(&b, &a));
            prop_assert_eq!(distance(&a, &b) == 0, a == b);
        }
    }
}
