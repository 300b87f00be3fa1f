//! Asks a person what to do about a name that is taken: take it over, run alongside, or cancel.
//!
//! It asks only where standard input and standard error are terminals and `--json` is not given. A signal, the end of
//! the input and an empty answer cancel, because then everything stays as it is.

use super::Context;
use linchpin_instance::Conflict;
use linchpin_shared::problem::{Code, Problem};
use std::io::{self, IsTerminal, Write};
use std::os::fd::OwnedFd;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{SignalKind, signal};

/// The longest answer that is read, in bytes. A line of a terminal has at most 4096 (termios(3)).
const MAX_ANSWER: usize = 4096;

/// Attempts something that needs a name. If the name is taken and no flag says what to do then, it asks the person and
/// attempts it once more. Returns `None` if the person cancels.
pub(super) async fn attempt_with_prompt<T>(
    context: &Context,
    conflict: Conflict,
    mut attempt: impl AsyncFnMut(Conflict) -> Result<T, Problem>,
) -> Result<Option<T>, Problem> {
    match attempt(conflict).await {
        Err(problem) if problem.code == Code::NameTaken && conflict == Conflict::Fail && is_interactive(context) => {
            context.output.problem(&problem);
            match ask().await {
                Some(conflict) => attempt(conflict).await.map(Some),
                None => {
                    context.output.note("cancelled; nothing was changed");
                    Ok(None)
                }
            }
        }
        done => done.map(Some),
    }
}

fn is_interactive(context: &Context) -> bool {
    !context.output.is_json() && io::stdin().is_terminal() && io::stderr().is_terminal()
}

async fn ask() -> Option<Conflict> {
    let mut question = "[t]ake over, run [a]longside, or [c]ancel? ";
    loop {
        print(question);
        match Choice::parse(&read_answer().await?) {
            Choice::Resolve(conflict) => return Some(conflict),
            Choice::Cancel => return None,
            Choice::Unclear => question = "please answer t, a or c: ",
        }
    }
}

/// What the person chose.
#[derive(Debug, PartialEq, Eq)]
enum Choice {
    Resolve(Conflict),
    Cancel,
    Unclear,
}

impl Choice {
    /// Parses an answer. The numbers are those of the steps above the question.
    fn parse(answer: &str) -> Self {
        match answer.trim().to_ascii_lowercase().as_str() {
            "t" | "1" | "take over" | "take-over" => Self::Resolve(Conflict::TakeOver),
            "a" | "2" | "alongside" => Self::Resolve(Conflict::Alongside),
            "" | "c" | "cancel" | "n" | "no" | "q" => Self::Cancel,
            _ => Self::Unclear,
        }
    }
}

/// Reads one line from the terminal. Returns `None` at the end of the input, and when a signal asks this process to
/// end.
async fn read_answer() -> Option<String> {
    // From here on these signals no longer end the process by themselves.
    let mut signals =
        [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()].map(|kind| signal(kind).ok());
    let [interrupt, terminate, hang_up] = &mut signals;
    tokio::select! {
        line = read_line() => line.ok().filter(|line| !line.is_empty()),
        () = received(interrupt) => None,
        () = received(terminate) => None,
        () = received(hang_up) => None,
    }
    .or_else(|| {
        print("\n");
        None
    })
}

async fn received(signal: &mut Option<tokio::signal::unix::Signal>) {
    match signal {
        Some(signal) => {
            signal.recv().await;
        }
        None => std::future::pending().await,
    }
}

/// Reads a line without a thread, which would block until the terminal has one.
async fn read_line() -> io::Result<String> {
    let stdin: OwnedFd = rustix::io::dup(io::stdin())?;
    #[expect(deprecated, reason = "its successor is unsafe, and an OwnedFd fulfils its conditions")]
    let stdin = AsyncFd::with_interest(stdin, Interest::READABLE)?;
    let _ready = stdin.readable().await?;
    // A terminal becomes readable when it has a whole line, or at the end of its input.
    let mut line = vec![0; MAX_ANSWER];
    let count = rustix::io::read(stdin.get_ref(), &mut line[..])?;
    Ok(String::from_utf8_lossy(&line[..count]).into_owned())
}

fn print(text: &str) {
    let mut terminal = io::stderr().lock();
    // If the terminal is closed, the text has no reader.
    let _ = terminal.write_all(text.as_bytes()).and_then(|()| terminal.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unclear_answer_is_asked_again() {
        for (answer, expected) in [
            ("t\n", Choice::Resolve(Conflict::TakeOver)),
            ("1\n", Choice::Resolve(Conflict::TakeOver)),
            (" A \n", Choice::Resolve(Conflict::Alongside)),
            ("\n", Choice::Cancel),
            ("c\n", Choice::Cancel),
            ("yes\n", Choice::Unclear),
            ("3\n", Choice::Unclear),
        ] {
            assert_eq!(Choice::parse(answer), expected, "{answer:?}");
        }
    }
}
