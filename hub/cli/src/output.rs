//! What a verb prints.
//!
//! Owns standard output and standard error of every verb but `mcp` and `run`, whose output belongs to others.
//! Invariant: with `--json` standard output carries JSON and nothing else; a reader that goes away ends the output
//! quietly. Never: decides what is printed.

use linchpin_hub::render::SCHEMA_VERSION;
use linchpin_shared::problem::Problem;
use serde::Serialize;
use serde_json::Value;
use std::io::Write;

/// How to print.
#[derive(Debug, Clone, Copy)]
pub(super) struct Output {
    json: bool,
}

impl Output {
    pub(super) const fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether JSON was asked for.
    pub(super) const fn is_json(self) -> bool {
        self.json
    }

    /// Prints a value: as JSON, or as the text that `text` makes of it.
    pub(super) fn value(self, value: &Value, text: impl FnOnce(&Value) -> String) {
        if !self.json {
            return self.line(text(value).trim_end());
        }
        let mut value = value.clone();
        if let Value::Object(fields) = &mut value
            && !fields.contains_key("schema_version")
        {
            fields.shift_insert(0, "schema_version".to_owned(), SCHEMA_VERSION.into());
        }
        self.line(&format!("{value:#}"));
    }

    /// Prints one line, or several.
    #[expect(clippy::unused_self, reason = "reads as a verb of the output at every caller")]
    pub(super) fn line(self, text: &str) {
        // A reader that closed the pipe has seen enough; there is nobody to tell.
        let _ = writeln!(std::io::stdout().lock(), "{text}");
    }

    /// Prints an error.
    pub(super) fn problem(self, problem: &Problem) {
        if self.json {
            self.line(&pretty(problem));
        } else {
            self.note(&problem.to_string());
        }
    }

    /// Tells a person something beside the result.
    #[expect(clippy::unused_self, reason = "reads as a verb of the output at every caller")]
    pub(super) fn note(self, text: &str) {
        let _ = writeln!(std::io::stderr().lock(), "linchpin: {text}");
    }
}

fn pretty<T: Serialize>(value: &T) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}
