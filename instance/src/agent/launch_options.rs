//! Launch options that must not appear in a command line: environment, headers, a limit.
//!
//! They are passed from the caller to keeper and agent through a pipe. The command gets the variables in its
//! environment, and a server at a URL gets the headers with every request. Their values may be secret: they are not in
//! the `Debug` output and are never written to a file, a record or a log.

use http::{HeaderName, HeaderValue};
use linchpin_shared::problem::{Code, Problem};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// What an instance is given besides its command.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchOptions {
    /// Variables that are added to our own environment.
    pub env: BTreeMap<String, String>,
    /// Headers of every request to the server at [`super::Kind::McpUrl`].
    pub headers: BTreeMap<String, String>,
    /// The limit of open files for the command, where the process that starts it has raised its own limit.
    pub open_files: Option<u64>,
}

impl LaunchOptions {
    /// Returns the headers as they are sent.
    ///
    /// # Errors
    /// [`Code::BadRequest`] with the name of a header that cannot be sent.
    pub(crate) fn header_list(&self) -> Result<Vec<(HeaderName, HeaderValue)>, Problem> {
        let header = |(name, value): (&String, &String)| {
            let bad = || {
                Problem::new(Code::BadRequest, format!("the header {name:?} cannot be sent"))
                    .next("correct its name or its value: printable characters on one line")
            };
            let mut value = HeaderValue::from_str(value).map_err(|_| bad())?;
            value.set_sensitive(true);
            Ok((HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad())?, value))
        };
        self.headers.iter().map(header).collect()
    }

    /// Lowers the limit of open files to the one that the command must have.
    pub(super) fn lower_file_limit(&self) {
        let Some(current) = self.open_files else { return };
        let maximum = getrlimit(Resource::Nofile).maximum;
        if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: Some(current), maximum }) {
            tracing::debug!(%error, "the limit of open files cannot be lowered");
        }
    }
}

/// Leaves out what may be secret.
impl fmt::Debug for LaunchOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |map: &BTreeMap<String, String>| map.keys().cloned().collect::<Vec<_>>();
        f.debug_struct("LaunchOptions").field("env", &names(&self.env)).field("headers", &names(&self.headers)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &str, value: &str) -> LaunchOptions {
        LaunchOptions { headers: [(name.to_owned(), value.to_owned())].into(), ..LaunchOptions::default() }
    }

    /// Fault 68.
    #[test]
    fn values_appear_neither_in_debug_output_nor_in_problems() {
        let options = headers("Authorization", "Bearer hunter2");
        assert!(!format!("{options:?}{:?}", options.header_list().unwrap()).contains("hunter2"));
        for wrong in [headers("a b", "hunter2"), headers("x", "hunter2\n")] {
            let problem = wrong.header_list().unwrap_err();
            assert!(!problem.to_string().contains("hunter2"), "{problem}");
        }
    }
}
