//! Why a message to the hub was not answered, and the problem that the agent gets.
//!
//! A message is called "not executed" only if the hub certainly did not act on it. What to do about an error is decided
//! by [`super::session`].

use linchpin_shared::problem::{Code, Problem};
use reqwest::StatusCode;
use std::io::ErrorKind;

/// Whether a message may be sent again although the hub may have acted on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    /// Repeating it changes nothing, because it only reads.
    Safe,
    /// The hub may have executed it, so it must not be repeated.
    Unsafe,
}

/// Why a message was not answered.
pub(super) enum SendError {
    /// It was not sent, or the hub refused it, so nothing was executed.
    NotExecuted(String),
    /// The hub does not know the session or the token, so nothing was executed.
    SessionLost(String),
    /// The connection broke after the message was sent.
    Interrupted(String),
    /// The hub refused it and said why.
    Refused(Problem),
    /// The hub with this pid does not answer health probes.
    Unresponsive(u32),
}

/// Whether the connection was reset before an answer began. The hub never resets a connection on purpose. The kernel
/// resets the connection of a process that ends only if it left bytes unread (RFC 1122, section 4.2.2.13), and does the
/// same with bytes that arrive later. So the hub had not read the whole message, and it acts only on whole messages.
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

/// The hub answered without a body.
pub(super) fn no_answer(status: StatusCode) -> SendError {
    let detail = format!("the hub answered {status} without a body");
    SendError::Refused(Problem::new(Code::Internal, detail).next("linchpin status"))
}

/// Returns the message of an error and of all its causes.
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

/// It is unknown whether the message was executed.
pub(super) fn interrupted(cause: &str) -> Problem {
    Problem::new(
        Code::CallInterrupted,
        "the hub went away during this call; it is unknown whether the call was executed",
    )
    .seen("cause", cause)
    .next("check the effect of the call, then call again; the hub is being restarted")
}

/// The hub is running but does not answer. It may still execute what it has received when it continues.
pub(super) fn unresponsive(pid: u32, repeat: Repeat) -> Problem {
    let problem = match repeat {
        Repeat::Unsafe => Problem::new(
            Code::CallInterrupted,
            "the hub stopped answering during this call; it may still execute the call when it continues",
        )
        .next("check the effect of the call before you call again"),
        Repeat::Safe => Problem::new(
            Code::HubUnreachable,
            "the hub is running but does not answer: its process is stopped, or gets no CPU time",
        ),
    };
    problem
        .seen("pid", pid)
        .seen("answers", "several health probes in a row were not answered")
        .next(format!("check whether it is stopped (state T): ps -o pid,stat,args -p {pid}"))
        .next(format!("let it continue: kill -CONT {pid}"))
        .next(format!("or end it, and the next call starts another one: kill -9 {pid}"))
}

/// There is no hub, and the message had no effect.
pub(super) fn unreachable(cause: &str) -> Problem {
    Problem::new(Code::HubUnreachable, "no hub could be reached; this message had no effect")
        .seen("cause", cause)
        .next("linchpin hub")
        .next("linchpin status")
}
