//! One finding of the doctor, and what all of them come to.
//!
//! Owns the form in which a finding is printed, as JSON and as text. Invariant: what is worse than "ok" has a problem
//! with next steps. Never: removes a secret; that is done to the whole, once, by [`super::secrets`].

use linchpin_shared::problem::Problem;
use serde::{Deserialize, Serialize};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Level {
    /// As it should be.
    Ok,
    /// It works, and a person should know.
    Warning,
    /// Something does not work.
    Error,
}

impl Level {
    const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// A finding.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Check {
    /// What was looked at; the same in every version.
    pub(super) name: String,
    /// Which one, where there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) subject: Option<String>,
    pub(super) level: Level,
    /// What was seen, in one sentence.
    pub(super) seen: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) problem: Option<Problem>,
}

impl Check {
    pub(super) fn ok(name: &str, seen: impl Into<String>) -> Self {
        Self { name: name.to_owned(), subject: None, level: Level::Ok, seen: seen.into(), problem: None }
    }

    pub(super) fn warning(name: &str, problem: Problem) -> Self {
        Self::bad(name, Level::Warning, problem)
    }

    pub(super) fn error(name: &str, problem: Problem) -> Self {
        Self::bad(name, Level::Error, problem)
    }

    fn bad(name: &str, level: Level, problem: Problem) -> Self {
        Self { name: name.to_owned(), subject: None, level, seen: problem.detail.clone(), problem: Some(problem) }
    }

    /// Says which one of several it is about.
    pub(super) fn about(mut self, subject: impl Into<String>) -> Self {
        self.subject = Some(subject.into());
        self
    }

    /// For a terminal: one line, and under it what was observed and what to do.
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

/// Something that was mended, or could not be.
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
        let word = if self.done { "mended" } else { "not mended" };
        match &self.problem {
            None => format!("{word}: {}", self.what),
            Some(problem) => format!("{word}: {}\n  {}", self.what, problem.to_string().replace('\n', "\n  ")),
        }
    }
}

/// The worst of all; nothing at all is well.
pub(super) fn worst(checks: &[Check]) -> Level {
    checks.iter().map(|check| check.level).max().unwrap_or(Level::Ok)
}
