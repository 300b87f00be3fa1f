//! JSON-RPC messages, edited in place and read as a tree.
//!
//! Owns the comparison with serde_json's [`Value`]: what both take is the same message; an edit changes the named members
//! and nothing else, byte for byte.
//! The tree refuses what a relay passes on unread: numbers beyond a float, lone surrogates, and 128 levels where we take
//! one more. And it takes what the relay refuses: keys that stand twice, of which it keeps the last.

use super::{Checked, ensure};
use crate::gateway::mcp::catalog::list::ListDraft;
use crate::gateway::mcp::protocol::capabilities::ClientCapabilities;
use crate::gateway::mcp::protocol::envelope::{Envelope, MAX_NAME, Malformed, is_id};
use crate::gateway::mcp::protocol::json::{Object, Span, Unreadable, insert, quote, splice};
use crate::gateway::mcp::protocol::list_kind::ListKind;
use crate::gateway::mcp::protocol::result;
use crate::gateway::mcp::protocol::version::Version;
use crate::gateway::mcp::upstream::about::ServerInfo;
use linchpin_instance::fuzz::{ParsedMessage, parse_message};
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use std::borrow::Cow;

/// Checks a text as a message, as a list and as what a server says of itself.
pub(super) fn check(text: &str) -> Checked {
    let tree: Option<Value> = serde_json::from_str(text).ok();
    match Envelope::parse(text) {
        Ok(envelope) => {
            taken(text, &envelope, tree.as_ref())?;
            agreed(text, &envelope)?;
            edited(text, &envelope, tree.as_ref())?;
            completed(text, tree.as_ref())?;
        }
        Err(refusal) => refused(text, &refusal, tree.as_ref())?,
    }
    listed(text)?;
    described(text)
}

fn is_json(text: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(text).is_ok()
}

/// What was taken is a message to the other reader too, with the same parts.
fn taken(text: &str, envelope: &Envelope, tree: Option<&Value>) -> Checked {
    ensure(is_json(text), || format!("{text:?} is no JSON and was taken"))?;
    let Some(tree) = tree else { return Ok(()) };
    let same = |at: Span, member: &str| serde_json::from_str::<Value>(at.of(text)).ok().as_ref() == tree.get(member);
    let params_same = |params: &Option<Span>| params.map_or(tree.get("params").is_none(), |at| same(at, "params"));
    let agrees = match envelope {
        Envelope::Request { id, method, params } => {
            same(*id, "id") && tree["method"] == **method && params_same(params)
        }
        Envelope::Notification { method, params } => {
            tree.get("id").is_none() && tree["method"] == **method && params_same(params)
        }
        Envelope::Response { id, error, result } => {
            let part = |at: &Option<Span>, member| at.map_or(tree.get(member).is_none(), |at| same(at, member));
            same(*id, "id") && part(error, "error") && part(result, "result") && tree.get("method").is_none()
        }
    };
    ensure(agrees && tree["jsonrpc"] == "2.0", || format!("{envelope:?} and {tree}"))
}

/// The instance sees the same message. It is given ids of the hub only, so those with escapes may be read otherwise.
fn agreed(text: &str, envelope: &Envelope) -> Checked {
    let plain = |at: &Span| at.of(text).bytes().all(|byte| byte.is_ascii_digit());
    let parsed = parse_message(text.as_bytes());
    let agrees = match envelope {
        Envelope::Request { id, .. } if plain(id) => parsed == Some(ParsedMessage::Request(id.of(text).to_owned())),
        Envelope::Response { id, .. } if plain(id) => parsed == Some(ParsedMessage::Response(id.of(text).to_owned())),
        Envelope::Notification { .. } => parsed == Some(ParsedMessage::Notification),
        Envelope::Request { .. } | Envelope::Response { .. } => true,
    };
    ensure(agrees, || format!("the hub sees {envelope:?}, the instance {parsed:?}"))
}

/// What the relay rewrites: id, name and token.
fn edited(text: &str, envelope: &Envelope, tree: Option<&Value>) -> Checked {
    let mut edits: Vec<(Span, Cow<'_, str>)> = Vec::new();
    let mut expected = tree.cloned();
    let mut edit = |at: Span, pointer: &str, new: String| {
        let slot = expected.as_mut().and_then(|tree| tree.pointer_mut(pointer));
        if let Some((slot, value)) = slot.zip(serde_json::from_str(&new).ok()) {
            *slot = value;
        }
        edits.push((at, new.into()));
    };
    let params = match envelope {
        Envelope::Request { id, params, .. } => {
            edit(*id, "/id", String::from("42"));
            *params
        }
        Envelope::Notification { params, .. } => *params,
        Envelope::Response { id, .. } => {
            edit(*id, "/id", quote("a\u{0}\"é"));
            None
        }
    };
    let members = params.and_then(|at| Object::parse(text, at).ok());
    if let Some(members) = &members {
        if let Some(at) = members.get("name") {
            edit(at, "/params/name", quote("b"));
        }
        let meta = members.object(text, "_meta").ok().flatten();
        if let Some(at) = meta.and_then(|meta| meta.get("progressToken")).filter(|at| is_id(at.of(text))) {
            edit(at, "/params/_meta/progressToken", String::from("43"));
        }
    }
    let out = splice(text, &mut edits);
    untouched(text, &out, &edits)?;
    same_tree(&out, expected.as_ref(), "edited")?;
    // A new member comes first.
    let Some((params, members)) = params.zip(members) else { return Ok(()) };
    let (out, mut expected) = (insert(text, params, r#""fuzz.new":1"#), tree.cloned());
    if let Some(tree) = expected.as_mut().filter(|_| members.get("fuzz.new").is_none()) {
        tree["params"]["fuzz.new"] = json!(1);
        return same_tree(&out, Some(tree), "with a new member");
    }
    Ok(())
}

/// Between the edits, which are in order now, everything is the same byte for byte.
fn untouched(text: &str, out: &str, edits: &[(Span, Cow<'_, str>)]) -> Checked {
    let (mut from, mut rest) = (0, out);
    for (at, new) in edits {
        let range = at.range();
        let left = rest.strip_prefix(&text[from..range.start]).and_then(|rest| rest.strip_prefix(&**new));
        rest = left.ok_or_else(|| format!("{text:?} became {out:?}"))?;
        from = range.end;
    }
    ensure(rest == &text[from..], || format!("{text:?} became {out:?}"))
}

fn same_tree(out: &str, expected: Option<&Value>, what: &str) -> Checked {
    let Some(expected) = expected else { return ensure(is_json(out), || format!("{what}, it is no JSON: {out:?}")) };
    let read = serde_json::from_str::<Value>(out).ok();
    ensure(read.as_ref() == Some(expected), || format!("{what}, it is {out:?}, not {expected}"))
}

/// A result gets what 2026-07-28 wants and loses nothing.
fn completed(text: &str, tree: Option<&Value>) -> Checked {
    let _ = result::status(text);
    let out = result::finished(text.to_owned(), "tools/list");
    let Some(read) = serde_json::from_str::<Value>(&out).ok() else {
        return ensure(tree.is_none() && is_json(&out), || format!("completed, it is no JSON: {out:?}"));
    };
    let Some(tree) = tree else { return Ok(()) };
    let kept = tree["result"]
        .as_object()
        .is_none_or(|result| result.iter().all(|(name, value)| read["result"].get(name) == Some(value)));
    ensure(kept && read["id"] == tree["id"], || format!("completed, {text:?} is {out:?}"))
}

/// What was refused is refused for a reason that the other reader sees too.
fn refused(text: &str, refusal: &Malformed, tree: Option<&Value>) -> Checked {
    let right = match refusal {
        // The tree has 127 levels at most.
        Malformed::TooDeep | Malformed::Unreadable(Unreadable::Syntax(_)) => tree.is_none(),
        Malformed::Unreadable(Unreadable::Duplicate(_) | Unreadable::TooMany) => is_json(text),
        Malformed::Batch => is_json(text) && text.trim_start().starts_with('['),
        Malformed::NotRpc(_) => is_json(text) && !tree.is_some_and(|tree| is_message(tree, text)),
    };
    ensure(right, || format!("{text:?} was refused: {refusal}"))
}

/// JSON-RPC's rules once more, over a tree. Of an escaped or long text it cannot be told what exactly stands there.
fn is_message(tree: &Value, text: &str) -> bool {
    if text.contains('\\') || text.len() > MAX_NAME || tree.get("jsonrpc") != Some(&json!("2.0")) {
        return false;
    }
    let id = tree.get("id");
    let named = id.is_some_and(|id| id.is_string() || id.is_number());
    match tree.get("method") {
        Some(method) => {
            method.is_string() && tree.get("params").is_none_or(Value::is_object) && (id.is_none() || named)
        }
        None => (named || id == Some(&Value::Null)) && (tree.get("result").is_some() != tree.get("error").is_some()),
    }
}

/// As a list of tools: each item under another name is otherwise the same.
fn listed(text: &str) -> Checked {
    let mut draft = ListDraft::new(ListKind::Tools);
    if draft.page(text).is_err() {
        return Ok(());
    }
    for item in draft.finish().items() {
        let (own, other) = (item.renamed(item.key()), item.renamed("fuzz other"));
        let Ok(mut expected) = serde_json::from_str::<Value>(&own) else { continue };
        expected["name"] = json!("fuzz other");
        same_tree(&other, Some(&expected), "under another name")?;
    }
    Ok(())
}

/// As what a server says of itself.
fn described(text: &str) -> Checked {
    if text.trim_start().starts_with('{') {
        let _ = ClientCapabilities::read(text, Span::whole(text));
    }
    let Ok(about) = ServerInfo::parse(text) else { return Ok(()) };
    let shown = about.shown(Version::V2025_06_18);
    match serde_json::from_str::<Value>(&shown) {
        Ok(read) => ensure(read["protocolVersion"] == "2025-06-18", || format!("it is shown as {shown:?}")),
        Err(_) => ensure(is_json(&shown), || format!("it is shown as what is no JSON: {shown:?}")),
    }
}
