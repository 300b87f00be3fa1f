//! Whether a resource's URI is one that a URI template can make.
//!
//! Owns [`matches()`], for RFC 6570 as far as routing needs it: literals must stand as they are, a simple expression
//! `{name}` stands for characters without `/`, `?` and `#`, any other expression for any characters.
//! Never: extracts values; the backend does that itself.

/// A piece of a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Piece<'t> {
    Literal(&'t str),
    Simple,
    Any,
}

/// The longest URI that is compared with templates, and the most pieces of a template: together they bound the work.
const MAX_URI: usize = 8192;
const MAX_PIECES: usize = 64;

/// Whether `template` can make `uri`; never where one of them is beyond its bound.
pub(crate) fn matches(template: &str, uri: &str) -> bool {
    uri.len() <= MAX_URI && pieces(template).is_some_and(|pieces| fits(&pieces, uri))
}

/// The pieces of a template; none if a brace is left open, or there are too many.
fn pieces(template: &str) -> Option<Vec<Piece<'_>>> {
    let mut pieces = Vec::new();
    let mut rest = template;
    while let Some(open) = rest.find('{') {
        let close = open + rest[open..].find('}')?;
        if open > 0 {
            pieces.push(Piece::Literal(&rest[..open]));
        }
        let simple = rest[open + 1..].starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
        pieces.push(if simple { Piece::Simple } else { Piece::Any });
        rest = &rest[close + 1..];
        if pieces.len() > MAX_PIECES {
            return None;
        }
    }
    if !rest.is_empty() {
        pieces.push(Piece::Literal(rest));
    }
    Some(pieces)
}

/// Marks which positions of the URI can be reached after each piece: linear in pieces times URI, whatever stands there.
fn fits(pieces: &[Piece<'_>], uri: &str) -> bool {
    let bytes = uri.as_bytes();
    let mut reached = vec![false; bytes.len() + 1];
    reached[0] = true;
    for piece in pieces {
        let mut next = vec![false; bytes.len() + 1];
        match piece {
            Piece::Literal(text) => {
                for at in (0..bytes.len()).filter(|at| reached[*at] && bytes[*at..].starts_with(text.as_bytes())) {
                    next[at + text.len()] = true;
                }
            }
            Piece::Simple | Piece::Any => {
                let mut open = false;
                for at in 0..=bytes.len() {
                    let passes = *piece == Piece::Any || at == 0 || !matches!(bytes[at - 1], b'/' | b'?' | b'#');
                    open = reached[at] || (open && passes);
                    next[at] = open;
                }
            }
        }
        if !next.contains(&true) {
            return false;
        }
        reached = next;
    }
    reached[bytes.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn literals_and_expressions() {
        assert!(matches("demo://text/{id}", "demo://text/7"));
        assert!(!matches("demo://text/{id}", "demo://text/7/more"));
        assert!(!matches("demo://text/{id}", "demo://blob/7"));
        assert!(matches("file:///{+path}", "file:///a/b/c.txt"));
        assert!(matches("db://{table}/{row}/x", "db://t/12/x"));
        assert!(matches("search://q{?term,page}", "search://q?term=a&page=2"));
        assert!(matches("plain://", "plain://"));
        assert!(!matches("plain://", "plain://x"));
        assert!(!matches("open://{x", "open://1"));
        assert!(matches(&"{x}".repeat(MAX_PIECES), &"x".repeat(MAX_URI)));
        assert!(!matches(&"{x}".repeat(MAX_PIECES + 1), "x") && !matches("{x}", &"x".repeat(MAX_URI + 1)));
    }

    proptest! {
        #[test]
        fn what_a_template_makes_it_matches(head in "[a-z:/]{0,6}", value in "[a-z0-9]{0,6}", tail in "[a-z/]{0,6}") {
            let (template, uri) = (format!("{head}{{v}}{tail}"), format!("{head}{value}{tail}"));
            prop_assert!(matches(&template, &uri));
        }

        #[test]
        fn garbage_never_panics(template in ".{0,40}", uri in ".{0,40}") {
            let _ = matches(&template, &uri);
        }
    }
}
