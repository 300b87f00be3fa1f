//! What a verb prints on standard output and standard error.
//!
//! With `--json`, standard output has JSON and nothing else. If the reader closes the pipe, the rest of the output is
//! dropped without an error. The verbs `mcp` and `run` do not print through this type, because their output belongs to
//! the agent or to the command.

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

    /// Whether `--json` was given.
    pub(super) const fn is_json(self) -> bool {
        self.json
    }

    /// Prints a value as JSON, or as the text that `text` makes of it.
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

    /// Prints one line or several.
    #[expect(clippy::unused_self, reason = "reads as a verb of the output at every caller")]
    pub(super) fn line(self, text: &str) {
        // If this fails, the reader has closed the pipe and wants no more.
        let _ = writeln!(std::io::stdout().lock(), "{text}");
    }

    /// Prints a problem: with `--json` on standard output, otherwise on standard error.
    pub(super) fn problem(self, problem: &Problem) {
        if self.json {
            self.line(&pretty(problem));
        } else {
            self.note(&problem.to_string());
        }
    }

    /// Prints a message for a person on standard error, in addition to the result.
    #[expect(clippy::unused_self, reason = "reads as a verb of the output at every caller")]
    pub(super) fn note(self, text: &str) {
        let _ = writeln!(std::io::stderr().lock(), "linchpin: {text}");
    }
}

fn pretty<T: Serialize>(value: &T) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}
