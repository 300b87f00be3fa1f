//! Removes secrets from everything that the doctor prints.
//!
//! Known secrets are the hub's token and the secret of every record, also of records that are invalid or in quarantine.
//! They are removed wherever they appear; what only looks like a secret is removed by [`redact`]. It is better to
//! remove too much than too little. Files are searched even if they are not well-formed.

use linchpin_shared::home::Home;
use linchpin_shared::redact::{self, REMOVED};
use rustix::fs::{Mode, OFlags};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The names under which our own files have secrets.
const OURS: [&str; 2] = ["token", "secret"];

/// A shorter value is removed only beside its name, because it would occur in many words.
const SHORTEST: usize = 4;

/// How much of a file is searched. A longer record is not read by anything.
const MAX_BYTES: u64 = 1 << 20;

/// The secrets of a home.
#[derive(Default)]
pub(super) struct Secrets {
    /// The longest comes first, so that a secret that contains another one is removed completely.
    known: Vec<String>,
}

impl Secrets {
    /// Collects the secrets of this home.
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

    /// Merges two sets of secrets.
    pub(super) fn and(mut self, other: Self) -> Self {
        self.known.extend(other.known);
        self.known.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        self.known.dedup();
        self
    }

    /// Returns the text without secrets.
    pub(super) fn text(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in &self.known {
            if text.contains(secret) {
                text = text.replace(secret, REMOVED);
            }
        }
        redact::text(&text)
    }

    /// Removes the secrets from a value.
    pub(super) fn value(&self, value: &mut Value) {
        match value {
            Value::String(text) => *text = self.text(text),
            Value::Array(items) => items.iter_mut().for_each(|item| self.value(item)),
            Value::Object(fields) => {
                for (name, field) in fields {
                    // In our own problems, `key` is the name of a setting.
                    if redact::is_secret_name(name) && name != "key" && !field.is_boolean() && !field.is_null() {
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

/// Collects the secrets of one of our files, whether or not it is well-formed.
fn collect(path: &Path, known: &mut BTreeSet<String>) {
    let Some(bytes) = read(path) else { return };
    if let Ok(value) = serde_json::from_slice::<Value>(&bytes) {
        collect_value(&value, known);
    }
    let text = String::from_utf8_lossy(&bytes);
    for (name, value) in redact::named(&text) {
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

/// Reads the beginning of a regular file, whatever its mode. A pipe in its place does not block.
pub(super) fn read(path: &Path) -> Option<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty()).ok()?);
    let mut bytes = Vec::new();
    file.metadata().ok().filter(std::fs::Metadata::is_file)?;
    file.take(MAX_BYTES).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

#[cfg(test)]
#[path = "secrets_tests.rs"]
mod tests;
