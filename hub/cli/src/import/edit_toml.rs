//! Makes the same changes in TOML, for Codex.
//!
//! The document type keeps comments, order and spaces. A text that it does not reproduce byte for byte before any
//! change is refused. Comments above a removed table stay, above the table that replaces it. No file is written here.

use super::edit::ObjectEdit;
use linchpin_shared::problem::{Code, Problem};
use serde_json::Value;
use toml_edit::{Array, DocumentMut, Item, Table, TableLike, value};

/// Parses a text as a value.
///
/// # Errors
/// [`Code::BadRequest`] with line and column.
pub(super) fn read(text: &str) -> Result<Value, Problem> {
    // Only its message is used: its full text also shows the line, which may contain a secret.
    toml::from_str(text).map_err(|error: toml::de::Error| {
        let at = error.span().map_or(0, |span| span.start);
        let before = &text[..at.min(text.len())];
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
        Problem::new(Code::BadRequest, format!("line {line}, column {column}: {}", error.message()))
    })
}

/// Makes the changes.
///
/// # Errors
/// [`Code::BadRequest`] if the text cannot be parsed, a table is missing, or more than that would change.
pub(super) fn toml(text: &str, changes: &[ObjectEdit]) -> Result<String, Problem> {
    // The document always has Unix line breaks, whatever it was parsed from.
    let plain = text.replace("\r\n", "\n");
    let as_it_was = |plain: String| if text.contains("\r\n") { plain.replace('\n', "\r\n") } else { plain };
    let mut document: DocumentMut =
        plain.parse().map_err(|_| read(text).err().unwrap_or_else(|| refused("it cannot be parsed")))?;
    if as_it_was(document.to_string()) != text {
        return Err(refused("it could not be changed without changing its formatting"));
    }
    for change in changes {
        one(&mut document, change)?;
    }
    Ok(as_it_was(document.to_string()))
}

fn refused(why: &str) -> Problem {
    Problem::new(Code::BadRequest, why).next("change the file by hand in the way that linchpin import shows")
}

fn one(document: &mut DocumentMut, change: &ObjectEdit) -> Result<(), Problem> {
    let mut table: &mut dyn TableLike = document.as_table_mut();
    for key in &change.path {
        let below = table.get_mut(key).and_then(Item::as_table_like_mut);
        table = below.ok_or_else(|| refused(&format!("there is no table {key:?}")))?;
    }
    let (mut above, mut position) = (String::new(), None);
    for name in &change.remove {
        let Some(gone) = table.remove(name) else { continue };
        if let Item::Table(gone) = &gone {
            let prefix = gone.decor().prefix().and_then(|prefix| prefix.as_str()).unwrap_or_default();
            if above.is_empty() || prefix.contains('#') {
                above.push_str(prefix);
            }
            position = position.or(gone.position());
        }
    }
    for (name, entry) in &change.insert {
        let mut entry = item(entry);
        if let Item::Table(entry) = &mut entry {
            let lines = std::mem::take(&mut above);
            entry.decor_mut().set_prefix(if lines.is_empty() { "\n".to_owned() } else { lines });
            entry.set_position(position.take());
        }
        table.insert(name, entry);
    }
    Ok(())
}

/// Returns an entry as a table of its own, in which further tables are written on one line.
fn item(entry: &Value) -> Item {
    let mut table = Table::new();
    for (key, part) in entry.as_object().into_iter().flatten() {
        table.insert(key, part_of(part));
    }
    Item::Table(table)
}

fn part_of(part: &Value) -> Item {
    match part {
        Value::Array(all) => value(all.iter().filter_map(Value::as_str).collect::<Array>()),
        Value::Object(all) => {
            let pairs = all.iter().filter_map(|(name, part)| Some((name.as_str(), part.as_str()?)));
            value(pairs.collect::<toml_edit::InlineTable>())
        }
        Value::Number(number) => value(number.as_i64().unwrap_or_default()),
        Value::Bool(yes) => value(*yes),
        Value::String(text) => value(text.as_str()),
        Value::Null => Item::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const TEXT: &str = "# my settings\nmodel = \"o5\"   # the best\n\n# files\n[mcp_servers.files]\ncommand = \"npx\"\n\n[mcp_servers.files.env]\nTOKEN = 'x'\n\n[mcp_servers.other]\nenabled = false\ncommand = \"o\"\n\n[tui]\nx = [ 1,2 ]\n";

    fn change(remove: &[&str]) -> ObjectEdit {
        let entry = json!({"command": "/l", "args": ["mcp"], "env": {"A": "b"}});
        ObjectEdit {
            path: vec!["mcp_servers".to_owned()],
            remove: remove.iter().map(|name| (*name).to_owned()).collect(),
            insert: vec![("linchpin".to_owned(), entry)],
        }
    }

    #[test]
    fn a_table_replaces_others_and_the_rest_stays() {
        let wanted = TEXT.replace(
            "[mcp_servers.files]\ncommand = \"npx\"\n\n[mcp_servers.files.env]\nTOKEN = 'x'\n",
            "[mcp_servers.linchpin]\ncommand = \"/l\"\nargs = [\"mcp\"]\nenv = { A = \"b\" }\n",
        );
        assert_eq!(toml(TEXT, &[change(&["files"])]).unwrap(), wanted);
        let appended = toml(TEXT, &[change(&[])]).unwrap();
        assert!(appended.starts_with(&TEXT[..TEXT.find("[tui]").unwrap()]), "{appended}");
        assert_eq!(read(&appended).unwrap()["mcp_servers"]["linchpin"]["args"], json!(["mcp"]));
    }

    #[test]
    fn an_error_has_its_position_and_not_its_text() {
        let problem = toml("a = 1\nb = hunter2 x\n", &[]).unwrap_err();
        assert!(problem.detail.starts_with("line 2, column") && !problem.detail.contains("hunter2"), "{problem}");
        assert!(toml("a = 1\n", &[change(&[])]).is_err());
        let windows = TEXT.replace('\n', "\r\n");
        let changed = toml(TEXT, &[change(&["files"])]).unwrap();
        assert_eq!(toml(&windows, &[change(&["files"])]).unwrap(), changed.replace('\n', "\r\n"));
        assert!(toml("a = 1\r\nb = 2\n", &[]).is_err(), "lines of both kinds");
    }
}
