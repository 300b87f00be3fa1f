//! Errors for people: what failed, what was observed, and what to do next.
//!
//! Every error reaches a person or an API client as a [`Problem`]. On the API it is `application/problem+json` (RFC 9457),
//! at a terminal it is text with numbered steps, and with `--json` it is the same object as on the API. Every [`Code`] has
//! a title, an HTTP status and an exit code in one exhaustive table. Text that looks like a secret is removed when a
//! problem is created.

use crate::redact;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fmt;

/// The media type of a [`Problem`] on the API (RFC 9457, section 3).
pub const MEDIA_TYPE: &str = "application/problem+json";

/// The exit codes of the command line. They are an interface that scripts rely on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// The command succeeded.
    Ok = 0,
    /// The command failed for a reason that has no code of its own.
    Failed = 1,
    /// The command line is invalid.
    Usage = 2,
    /// The named instance, process or tool does not exist.
    NotFound = 3,
    /// Another process has the name, the port or the hub of this home.
    Conflict = 4,
    /// The hub could not be reached or started.
    HubUnreachable = 5,
    /// The operation was not complete before its deadline.
    TimedOut = 6,
}

/// The stable code of a [`Problem`]. A code is not renamed, and not reused for another problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The request or the command line cannot be understood.
    BadRequest,
    /// A name has invalid characters or an invalid length.
    BadName,
    /// The settings file cannot be used.
    BadSettings,
    /// A record in the registry cannot be read.
    BadRecord,
    /// A process that has ended left files or processes behind.
    Stale,
    /// The command of an instance does not exist or cannot be executed.
    CommandNotFound,
    /// An instance that runs has this name already.
    NameTaken,
    /// Another program listens on this port.
    PortTaken,
    /// Another hub serves this home.
    HubRunning,
    /// The home directory cannot be used.
    HomeUnusable,
    /// The system refused access.
    PermissionDenied,
    /// The disk is full.
    NoSpace,
    /// A limit of the system is reached or near.
    LimitReached,
    /// The clock of this machine shows an impossible time.
    BadClock,
    /// The settings switched a protection off.
    Unguarded,
    /// The journal cannot be used, or could not be used earlier.
    JournalUnusable,
    /// A lock was not free before its deadline.
    LockTimeout,
    /// No hub answers, and no hub could be started.
    HubUnreachable,
    /// No instance has this name.
    InstanceNotFound,
    /// The instance has no process with this name.
    ProcessNotFound,
    /// The instance has no MCP server with this name.
    ServerNotFound,
    /// No tool, prompt or resource has this name.
    UnknownTool,
    /// The instance is known but cannot be reached at the moment.
    InstanceUnavailable,
    /// The MCP server of the instance cannot be reached at the moment.
    ServerUnavailable,
    /// The connection broke during a call. The call may have been executed.
    CallInterrupted,
    /// A limit of simultaneous work was reached.
    Overloaded,
    /// The operation was not complete before its deadline.
    TimedOut,
    /// The host name of the request is not one of this machine.
    ForbiddenHost,
    /// The request comes from a web page of another origin.
    ForbiddenOrigin,
    /// The request has no token, or a wrong one.
    Unauthorized,
    /// The two sides have no common version.
    VersionMismatch,
    /// No resource has this address.
    NotFound,
    /// The resource does not support this method.
    MethodNotAllowed,
    /// The message is larger than allowed, or nested too deeply.
    TooLarge,
    /// A request came back to its sender.
    RoutingLoop,
    /// A signal ended the operation before it was complete.
    Cancelled,
    /// Linchpin itself has a defect.
    Internal,
}

impl Code {
    /// The title, the HTTP status and the exit code.
    const fn attributes(self) -> (&'static str, u16, Exit) {
        match self {
            Self::BadRequest => ("The request is not valid", 400, Exit::Usage),
            Self::BadName => ("This name cannot be used", 400, Exit::Usage),
            Self::BadSettings => ("The settings cannot be used", 400, Exit::Usage),
            Self::BadRecord => ("A record cannot be read", 422, Exit::Failed),
            Self::Stale => ("Something was left behind", 409, Exit::Failed),
            Self::CommandNotFound => ("The command cannot be started", 422, Exit::Failed),
            Self::NameTaken => ("This name is taken", 409, Exit::Conflict),
            Self::PortTaken => ("This port is taken", 409, Exit::Conflict),
            Self::HubRunning => ("A hub is running already", 409, Exit::Conflict),
            Self::HomeUnusable => ("The home directory cannot be used", 500, Exit::Failed),
            Self::PermissionDenied => ("Permission denied", 403, Exit::Failed),
            Self::NoSpace => ("No space is left", 507, Exit::Failed),
            Self::LimitReached => ("A limit of the system is reached", 507, Exit::Failed),
            Self::BadClock => ("The clock is wrong", 500, Exit::Failed),
            Self::Unguarded => ("A protection is switched off", 403, Exit::Failed),
            Self::JournalUnusable => ("The journal cannot be used", 500, Exit::Failed),
            Self::LockTimeout => ("A lock was not free in time", 503, Exit::TimedOut),
            Self::HubUnreachable => ("The hub cannot be reached", 503, Exit::HubUnreachable),
            Self::InstanceNotFound => ("No such instance", 404, Exit::NotFound),
            Self::ProcessNotFound => ("No such process", 404, Exit::NotFound),
            Self::ServerNotFound => ("No such MCP server", 404, Exit::NotFound),
            Self::UnknownTool => ("No such tool", 404, Exit::NotFound),
            Self::InstanceUnavailable => ("The instance cannot be reached", 503, Exit::Failed),
            Self::ServerUnavailable => ("The MCP server cannot be reached", 503, Exit::Failed),
            Self::CallInterrupted => ("The call was interrupted", 502, Exit::Failed),
            Self::Overloaded => ("Too many requests are in flight", 503, Exit::Failed),
            Self::TimedOut => ("The operation took too long", 504, Exit::TimedOut),
            Self::ForbiddenHost => ("This host name is not allowed", 403, Exit::Failed),
            Self::ForbiddenOrigin => ("This origin is not allowed", 403, Exit::Failed),
            Self::Unauthorized => ("A token is required", 401, Exit::Failed),
            Self::VersionMismatch => ("No common version", 426, Exit::Failed),
            Self::NotFound => ("Not found", 404, Exit::NotFound),
            Self::MethodNotAllowed => ("This method is not allowed here", 405, Exit::Failed),
            Self::TooLarge => ("The message is too large", 413, Exit::Failed),
            Self::RoutingLoop => ("The request came back to its sender", 508, Exit::Failed),
            Self::Cancelled => ("The operation was cancelled", 409, Exit::Failed),
            Self::Internal => ("Linchpin has a defect", 500, Exit::Failed),
        }
    }

    /// The title, which is a short sentence.
    #[must_use]
    pub const fn title(self) -> &'static str {
        self.attributes().0
    }

    /// The HTTP status of the response.
    #[must_use]
    pub const fn status(self) -> u16 {
        self.attributes().1
    }

    /// The exit code of the command line.
    #[must_use]
    pub const fn exit(self) -> Exit {
        self.attributes().2
    }
}

/// An error for people. It is built with [`Problem::new`], [`Problem::seen`] and [`Problem::next`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Problem {
    /// `urn:linchpin:problem:` and the code (RFC 9457 `type`).
    #[serde(rename = "type")]
    pub type_uri: String,
    /// The stable code of the problem.
    pub code: Code,
    /// The title of the code.
    pub title: String,
    /// The HTTP status of the code.
    pub status: u16,
    /// What failed, in one sentence.
    pub detail: String,
    /// What was observed, for example the pid, the port, the path, the errno, the duration, or the next attempt.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub observed: Map<String, Value>,
    /// What to do next, step by step.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub next_steps: Vec<String>,
}

impl Problem {
    /// Creates a problem. `detail` says what failed, in one sentence.
    #[must_use]
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        let type_uri = match serde_json::to_value(code) {
            Ok(Value::String(code)) => format!("urn:linchpin:problem:{code}"),
            _ => String::from("about:blank"),
        };
        Self {
            type_uri,
            code,
            title: code.title().to_owned(),
            status: code.status(),
            detail: redact::text(&detail.into()),
            observed: Map::new(),
            next_steps: Vec::new(),
        }
    }

    /// Adds an observed value under this name.
    #[must_use]
    pub fn seen(mut self, what: &str, value: impl Into<Value>) -> Self {
        let value = match value.into() {
            Value::String(text) => redact::text(&text).into(),
            other @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => other,
        };
        self.observed.insert(what.to_owned(), value);
        self
    }

    /// Adds a step to take.
    #[must_use]
    pub fn next(mut self, step: impl Into<String>) -> Self {
        self.next_steps.push(redact::text(&step.into()));
        self
    }

    /// Creates a problem from an I/O error. Its code is that of missing permission, missing space, or `otherwise`.
    #[must_use]
    pub fn from_io(error: &std::io::Error, otherwise: Code, detail: impl Into<String>) -> Self {
        use std::io::ErrorKind::{PermissionDenied, QuotaExceeded, StorageFull};
        let kind = error.kind();
        let code = if kind == PermissionDenied {
            Code::PermissionDenied
        } else if matches!(kind, StorageFull | QuotaExceeded) {
            Code::NoSpace
        } else {
            otherwise
        };
        let mut problem = Self::new(code, format!("{}: {error}", detail.into()));
        if let Some(errno) = error.raw_os_error() {
            problem = problem.seen("errno", errno);
        }
        problem
    }

    /// The exit code of the command line.
    #[must_use]
    pub const fn exit(&self) -> Exit {
        self.code.exit()
    }
}

impl std::error::Error for Problem {}

/// The text for a terminal: the title and the detail, then the observed values, then numbered steps.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.title, self.detail)?;
        for (what, value) in &self.observed {
            match value {
                Value::String(text) => write!(f, "\n  {what}: {text}")?,
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                    write!(f, "\n  {what}: {value}")?;
                }
            }
        }
        for (step, text) in self.next_steps.iter().enumerate() {
            write!(f, "\n  {}. {text}", step + 1)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_has_what_was_seen_and_numbered_steps() {
        let problem = Problem::new(Code::NameTaken, "\"shop\" is registered by another program")
            .seen("pid", 42)
            .seen("command", "node server.js")
            .next("linchpin run --take-over …")
            .next("linchpin run --alongside …");
        assert_eq!(
            problem.to_string(),
            "This name is taken: \"shop\" is registered by another program\n  pid: 42\n  command: node server.js\n  \
             1. linchpin run --take-over …\n  2. linchpin run --alongside …"
        );
        assert_eq!(problem.exit(), Exit::Conflict);
    }

    #[test]
    fn json_is_rfc_9457_and_reads_back() {
        let problem = Problem::new(Code::UnknownTool, "no tool is called x").next("linchpin tools");
        let json = serde_json::to_value(&problem).unwrap();
        assert_eq!(json["type"], "urn:linchpin:problem:unknown_tool");
        assert_eq!(json["status"], 404);
        assert_eq!(serde_json::from_value::<Problem>(json).unwrap(), problem);
    }

    /// Fault 68.
    #[test]
    fn text_that_looks_like_a_secret_is_removed() {
        let problem = Problem::new(Code::BadSettings, "line 2: token = \"hunter2\"")
            .seen("value", "postgres://me:hunter2@localhost")
            .seen("token", 7)
            .next("curl -H 'Authorization: Bearer hunter2' http://127.0.0.1:1");
        assert!(!problem.to_string().contains("hunter2"), "{problem}");
        assert_eq!(problem.observed["token"], 7);
        let step = "send what `linchpin token` prints in the header Authorization (scheme Bearer)";
        assert_eq!(Problem::new(Code::Unauthorized, "x").next(step).next_steps, [step]);
    }

    #[test]
    fn io_errors_find_their_code() {
        let full = std::io::Error::from_raw_os_error(libc::ENOSPC);
        let problem = Problem::from_io(&full, Code::Internal, "cannot write the record");
        assert_eq!(problem.code, Code::NoSpace);
        assert_eq!(problem.observed["errno"], libc::ENOSPC);
    }
}
