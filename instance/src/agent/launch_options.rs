//! What an instance is handed that must not stand in a command line: environment, headers, a limit.
//!
//! Owns [`Handed`]. It travels from the caller to keeper and agent in their orders, which go through a pipe; the command
//! gets the variables in its environment, and a server behind a URL the headers with every request.
//! Invariant: no value of it is in its `Debug`. Never: is written to a file, a record or a log.

use http::{HeaderName, HeaderValue};
use linchpin_shared::problem::{Code, Problem};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// What an instance is handed beside its command.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handed {
    /// Variables on top of our own environment.
    pub env: BTreeMap<String, String>,
    /// Headers of every request to [`super::Kind::McpUrl`].
    pub headers: BTreeMap<String, String>,
    /// How many open files the command may ask for, where whoever starts it has raised its own limit.
    pub open_files: Option<u64>,
}

impl Handed {
    /// The headers as they are sent.
    ///
    /// # Errors
    /// [`Code::BadRequest`] with the name of one that cannot be sent.
    pub(crate) fn header_list(&self) -> Result<Vec<(HeaderName, HeaderValue)>, Problem> {
        let header = |(name, value): (&String, &String)| {
            let bad = || {
                Problem::new(Code::BadRequest, format!("the header {name:?} cannot be sent"))
                    .next("correct its name, or its value: printable characters on one line")
            };
            let mut value = HeaderValue::from_str(value).map_err(|_| bad())?;
            value.set_sensitive(true);
            Ok((HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad())?, value))
        };
        self.headers.iter().map(header).collect()
    }

    /// Goes back to the limit of open files that the command is to have.
    pub(super) fn limit_files(&self) {
        let Some(current) = self.open_files else { return };
        let maximum = getrlimit(Resource::Nofile).maximum;
        if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: Some(current), maximum }) {
            tracing::debug!(%error, "the limit of open files stays as it is");
        }
    }
}

/// Without what may be secret.
impl fmt::Debug for Handed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |map: &BTreeMap<String, String>| map.keys().cloned().collect::<Vec<_>>();
        f.debug_struct("Handed").field("env", &names(&self.env)).field("headers", &names(&self.headers)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &str, value: &str) -> Handed {
        Handed { headers: [(name.to_owned(), value.to_owned())].into(), ..Handed::default() }
    }

    /// Fault 68.
    #[test]
    fn values_are_neither_shown_nor_told() {
        let handed = headers("Authorization", "Bearer hunter2");
        assert!(!format!("{handed:?}{:?}", handed.header_list().unwrap()).contains("hunter2"));
        for wrong in [headers("a b", "hunter2"), headers("x", "hunter2\n")] {
            let problem = wrong.header_list().unwrap_err();
            assert!(!problem.to_string().contains("hunter2"), "{problem}");
        }
    }
}
