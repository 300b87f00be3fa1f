//! What everything that reads foreign bytes does with bytes that nobody chose, held against other readers.
//!
//! Owns [`check`], which the fuzz target, the mutation loop of `make fuzz` and the test that replays the corpus call.
//! [`messages`] has JSON-RPC, with serde_json's own tree as the other reader; [`streams`] has what cuts bytes into
//! messages; here are ids, templates and queries.
//! Invariant: a difference between two readers is told, never smoothed over; what they may differ in stands beside it.
//! Never: called by a hub.

mod messages;
mod streams;

use super::catalog::filter::{Filter, FilterRules};
use super::catalog::naming;
use super::catalog::scope::ScopePath;
use super::protocol::capabilities::ClientCapabilities;
use super::protocol::template;
use super::protocol::version::Version;
use super::session::id::SessionKey;
use std::sync::Arc;

/// What two readers differ in.
type Checked = Result<(), String>;

/// Gives these bytes to all readers.
///
/// # Errors
/// What they differ in.
pub fn check(data: &[u8]) -> Checked {
    streams::check(data)?;
    let Ok(text) = std::str::from_utf8(data) else { return Ok(()) };
    messages::check(text)?;
    names(text)?;
    templates(text)
}

fn ensure(holds: bool, what: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(what()) }
}

/// Ids, states, names, headers and queries.
fn names(text: &str) -> Checked {
    let (key, everything) = (SessionKey::from_token("fuzz"), ScopePath::All.into());
    ensure(key.verify(text, &everything).is_none(), || format!("{text:?} is taken for a session"))?;
    ensure(key.open_state(text).is_none(), || format!("{text:?} is taken for a state"))?;
    let good = key.sign(Version::LATEST, ClientCapabilities::NONE, &everything, [7; 16]);
    let forged = format!("{}{text}", &good[..good.len().saturating_sub(text.len())]);
    ensure(forged == good || key.verify(&forged, &everything).is_none(), || format!("{forged:?} is accepted"))?;
    let exposed = naming::Prefix { instance: "shop", server: None }.expose(text);
    ensure(naming::is_valid(&exposed), || format!("{text:?} is offered as {exposed:?}"))?;
    let header = super::protocol::headers::encoded(text);
    ensure(http::HeaderValue::from_str(&header).is_ok(), || format!("{text:?} travels as {header:?}"))?;
    // Whatever stands there, it is read or refused.
    let _ = Filter::read(&Arc::new(FilterRules::default()), Some(text));
    Ok(())
}

/// The first line is a template, the rest a URI.
fn templates(text: &str) -> Checked {
    let (template, uri) = text.split_once('\n').unwrap_or((text, ""));
    if template.len() > 40 || uri.len() > 40 {
        let _ = template::matches(template, uri);
        return Ok(());
    }
    let (ours, other) = (template::matches(template, uri), can_make(template, uri) && closed(template));
    ensure(ours == other, || format!("{template:?} makes {uri:?}: {ours}, and by trying all ways: {other}"))
}

/// Whether every brace that is opened is closed.
fn closed(template: &str) -> bool {
    match template.split_once('{') {
        None => true,
        Some((_, rest)) => rest.split_once('}').is_some_and(|(_, rest)| closed(rest)),
    }
}

/// The same as [`template::matches`] by trying all ways: the rest of a template, the rest of a URI.
fn can_make(template: &str, uri: &str) -> bool {
    let Some(first) = template.chars().next() else { return uri.is_empty() };
    let Some(expression) = template.strip_prefix('{') else {
        return uri.strip_prefix(first).is_some_and(|uri| can_make(&template[first.len_utf8()..], uri));
    };
    let Some((expression, template)) = expression.split_once('}') else { return false };
    let simple = expression.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
    let ends = uri.char_indices().map(|(at, _)| at).chain([uri.len()]);
    let mut ends = ends.take_while(|at| !simple || !uri[..*at].contains(['/', '?', '#']));
    ends.any(|end| can_make(template, &uri[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_told() {
        assert!(ensure(false, || String::from("x")).is_err());
        assert!(can_make("a{b}c", "aXc") && !can_make("a{b}c", "a/c") && can_make("a{+b}c", "a/c"));
        assert!(closed("a{b}{c}") && !closed("a{b}{c"));
        assert_eq!(check(b"{\"jsonrpc\":\"2.0\",\"id\":1.0,\"method\":\"m\",\"params\":{\"name\":\"n\"}}"), Ok(()));
    }
}
