//! The findings of the doctor and its repairs, and how they are printed as JSON and as text.
//!
//! A finding that is worse than "ok" has a problem with next steps. Secrets are removed from the whole report at once,
//! by [`super::secrets`].

use linchpin_shared::problem::Problem;
use serde::{Deserialize, Serialize};

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Severity {
    /// Everything is as it should be.
    Ok,
    /// It works, but a person should know about it.
    Warning,
    /// Something does not work.
    Error,
}

impl Severity {
    const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Check {
    /// What was examined. The name stays the same over all versions.
    pub(super) name: String,
    /// Which one, if there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) subject: Option<String>,
    pub(super) level: Severity,
    /// What was found, in one sentence.
    pub(super) seen: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) problem: Option<Problem>,
}

impl Check {
    pub(super) fn ok(name: &str, seen: impl Into<String>) -> Self {
        Self { name: name.to_owned(), subject: None, level: Severity::Ok, seen: seen.into(), problem: None }
    }

    pub(super) fn warning(name: &str, problem: Problem) -> Self {
        Self::bad(name, Severity::Warning, problem)
    }

    pub(super) fn error(name: &str, problem: Problem) -> Self {
        Self::bad(name, Severity::Error, problem)
    }

    fn bad(name: &str, level: Severity, problem: Problem) -> Self {
        Self { name: name.to_owned(), subject: None, level, seen: problem.detail.clone(), problem: Some(problem) }
    }

    /// Says which one of several the finding is about.
    pub(super) fn about(mut self, subject: impl Into<String>) -> Self {
        self.subject = Some(subject.into());
        self
    }

    /// Returns the text for a terminal: one line, and below it what was observed and what to do.
    pub(super) fn text(&self) -> String {
        let subject = self.subject.as_ref().map_or(String::new(), |subject| format!(" {subject}"));
        let mut out = format!("{:<8} {}{subject}: {}", self.level.word(), self.name, self.seen);
        for line in self
            .problem
            .iter()
            .flat_map(|problem| problem.to_string().lines().skip(1).map(str::to_owned).collect::<Vec<_>>())
        {
            out.push_str("\n       ");
            out.push_str(&line);
        }
        out
    }
}

/// A repair that was made, or that failed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Fix {
    /// What it does, in one sentence.
    pub(super) what: String,
    pub(super) done: bool,
    /// Why it was not done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) problem: Option<Problem>,
}

impl Fix {
    pub(super) fn done(what: impl Into<String>) -> Self {
        Self { what: what.into(), done: true, problem: None }
    }

    pub(super) fn failed(what: impl Into<String>, problem: Problem) -> Self {
        Self { what: what.into(), done: false, problem: Some(problem) }
    }

    pub(super) fn text(&self) -> String {
        let word = if self.done { "repaired" } else { "not repaired" };
        match &self.problem {
            None => format!("{word}: {}", self.what),
            Some(problem) => format!("{word}: {}\n  {}", self.what, problem.to_string().replace('\n', "\n  ")),
        }
    }
}

/// Returns the worst severity; `Ok` if there are no findings.
pub(super) fn worst(checks: &[Check]) -> Severity {
    checks.iter().map(|check| check.level).max().unwrap_or(Severity::Ok)
}
