//! Why a message to the hub got no answer, and what the agent is told.
//!
//! Owns [`Lost`] and its [`Problem`]s. Invariant: only what the hub surely did not act on is called not executed.
//! Never: decides what to do about it.

use linchpin_shared::problem::{Code, Problem};
use reqwest::StatusCode;
use std::io::ErrorKind;

/// Whether a message may be sent again although the hub may have acted on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    /// Repeating changes nothing: it only reads.
    Safe,
    /// It may have been executed.
    Unsafe,
}

/// Why a message got no answer.
pub(super) enum Lost {
    /// It never left, or the hub refused it: nothing was done.
    NotExecuted(String),
    /// The hub does not know the session, or the token: nothing was done.
    Unknown(String),
    /// The connection broke after it had been sent.
    Interrupted(String),
    /// The hub said why not.
    Refused(Problem),
    /// The hub of this pid shows no sign of life.
    Silent(u32),
}

/// Whether the connection was reset before an answer began. The hub never resets one on purpose, and the kernel does it
/// for a process that ends only if bytes for it were left unread (RFC 1122, section 4.2.2.13); it answers bytes that come
/// later in the same way. So the hub had not read the whole message, and acts on whole messages only.
pub(super) fn was_reset(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        if matches!(kind, Some(ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)) {
            return true;
        }
        next = error.source();
    }
    false
}

/// The hub answered without an answer.
pub(super) fn silent(status: StatusCode) -> Lost {
    let detail = format!("the hub answered {status} without a body");
    Lost::Refused(Problem::new(Code::Internal, detail).next("linchpin status"))
}

/// An error with all its causes.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

/// Whether the message was executed is not known.
pub(super) fn interrupted(cause: &str) -> Problem {
    Problem::new(Code::CallInterrupted, "the hub went away during this call; whether it was executed is not known")
        .seen("cause", cause)
        .next("check its effect, then call again; the hub is being started again")
}

/// The hub is there and shows no sign of life. What it has of the message it may execute when it goes on.
pub(super) fn silent_hub(pid: u32, repeat: Repeat) -> Problem {
    let problem = match repeat {
        Repeat::Unsafe => Problem::new(
            Code::CallInterrupted,
            "the hub stopped answering during this call; it may still execute it when it goes on",
        )
        .next("check the call's effect before you call again"),
        Repeat::Safe => {
            Problem::new(Code::HubUnreachable, "the hub runs and does not answer: it is stopped or starved")
        }
    };
    problem
        .seen("pid", pid)
        .seen("answers", "none to several probes of its health in a row")
        .next(format!("see whether it is stopped (state T): ps -o pid,stat,args -p {pid}"))
        .next(format!("let it go on: kill -CONT {pid}"))
        .next(format!("or end it, the next call starts another: kill -9 {pid}"))
}

/// There is no hub, and the message had no effect.
pub(super) fn unreachable(cause: &str) -> Problem {
    Problem::new(Code::HubUnreachable, "no hub could be reached; this message had no effect")
        .seen("cause", cause)
        .next("linchpin hub")
        .next("linchpin status")
}
