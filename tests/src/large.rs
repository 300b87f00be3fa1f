//! Large results of tools: text of a requested size as the whole answer of a server.
//!
//! The text is like that of a source file, with quotation marks in its lines, so that parsing and writing it as JSON
//! costs what it costs in practice. The first requested size is made only once.

use serde_json::{Value, json};
use std::borrow::Cow;
use std::sync::OnceLock;

/// A line of the text, with what JSON has to escape.
const LINE: &str = "    let greeting = format!(\"hello, {}\", who); // one of many lines like this\n";

/// The largest text that is made.
const MAX: u64 = 1 << 30;

/// The answer to a call of a tool with `"size": BYTES`, as JSON text; `None` for any other message.
#[must_use]
pub fn answer(message: &Value) -> Option<String> {
    let size = message["params"]["arguments"]["size"].as_u64().filter(|size| *size <= MAX)?;
    let text = as_json(usize::try_from(size).ok()?);
    let id = message.get("id")?;
    Some(format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"content":[{{"type":"text","text":{text}}}]}}}}"#))
}

/// A text of this many bytes.
#[must_use]
pub fn text(size: usize) -> String {
    LINE.chars().cycle().take(size).collect()
}

/// The same text as a JSON string.
fn as_json(size: usize) -> Cow<'static, str> {
    static FIRST: OnceLock<(usize, String)> = OnceLock::new();
    let make = || json!(text(size)).to_string();
    match FIRST.get_or_init(|| (size, make())) {
        (known, text) if *known == size => Cow::Borrowed(text),
        _ => Cow::Owned(make()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_has_the_requested_size() {
        let call = json!({"jsonrpc": "2.0", "id": "a", "params": {"arguments": {"size": 1000}}});
        let answer: Value = serde_json::from_str(&answer(&call).unwrap()).unwrap();
        assert_eq!(answer["id"], "a");
        assert_eq!(answer["result"]["content"][0]["text"].as_str().unwrap().len(), 1000);
        assert!(super::answer(&json!({"id": 1, "params": {}})).is_none());
    }
}
