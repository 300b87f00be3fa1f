//! The question that a name conflict puts to a person: take over, run alongside, or cancel.
//!
//! Owns whether there is anybody to ask, the words, and the reading of the answer. Invariant: it is asked only where both
//! standard input and standard error are terminals and no JSON is wanted; a signal, the end of input and an empty answer
//! cancel, because to leave everything as it is harms nobody.
//! Never: decides for the person, or asks about anything but a name.

use super::Context;
use linchpin_instance::Conflict;
use linchpin_shared::problem::{Code, Problem};
use std::io::{self, IsTerminal, Write};
use std::os::fd::OwnedFd;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{SignalKind, signal};

/// The longest answer that is read; a terminal's line is at most 4,096 bytes (termios(3)).
const LONGEST: usize = 4096;

/// Attempts something that needs a name. When the name is taken and nobody said what then, the person is asked, and it is
/// attempted once more. `None`: the person wants to leave everything as it is.
pub(super) async fn attempt<T>(
    context: &Context,
    conflict: Conflict,
    mut attempt: impl AsyncFnMut(Conflict) -> Result<T, Problem>,
) -> Result<Option<T>, Problem> {
    match attempt(conflict).await {
        Err(problem) if problem.code == Code::NameTaken && conflict == Conflict::Fail && is_anybody_there(context) => {
            context.output.problem(&problem);
            match ask().await {
                Some(conflict) => attempt(conflict).await.map(Some),
                None => {
                    context.output.note("cancelled; everything is as it was");
                    Ok(None)
                }
            }
        }
        done => done.map(Some),
    }
}

fn is_anybody_there(context: &Context) -> bool {
    !context.output.is_json() && io::stdin().is_terminal() && io::stderr().is_terminal()
}

async fn ask() -> Option<Conflict> {
    let mut question = "[t]ake over, run [a]longside, or [c]ancel? ";
    loop {
        say(question);
        match meaning(&answer().await?) {
            Answer::Do(conflict) => return Some(conflict),
            Answer::Cancel => return None,
            Answer::Unclear => question = "please answer t, a or c: ",
        }
    }
}

/// What an answer means.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Do(Conflict),
    Cancel,
    Unclear,
}

/// The numbers are those of the steps above the question.
fn meaning(answer: &str) -> Answer {
    match answer.trim().to_ascii_lowercase().as_str() {
        "t" | "1" | "take over" | "take-over" => Answer::Do(Conflict::TakeOver),
        "a" | "2" | "alongside" => Answer::Do(Conflict::Alongside),
        "" | "c" | "cancel" | "n" | "no" | "q" => Answer::Cancel,
        _ => Answer::Unclear,
    }
}

/// One line from the terminal; `None` at its end, and when a signal asks us to end.
async fn answer() -> Option<String> {
    // Once listened to, a signal does not end us by itself any more.
    let mut signals =
        [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()].map(|kind| signal(kind).ok());
    let [interrupt, terminate, hang_up] = &mut signals;
    tokio::select! {
        line = line() => line.ok().filter(|line| !line.is_empty()),
        () = next(interrupt) => None,
        () = next(terminate) => None,
        () = next(hang_up) => None,
    }
    .or_else(|| {
        say("\n");
        None
    })
}

async fn next(signal: &mut Option<tokio::signal::unix::Signal>) {
    match signal {
        Some(signal) => {
            signal.recv().await;
        }
        None => std::future::pending().await,
    }
}

/// Reads without a thread that would wait for the terminal for ever.
async fn line() -> io::Result<String> {
    let stdin: OwnedFd = rustix::io::dup(io::stdin())?;
    #[expect(deprecated, reason = "its successor is unsafe; an OwnedFd keeps all that it asks for")]
    let stdin = AsyncFd::with_interest(stdin, Interest::READABLE)?;
    let _ready = stdin.readable().await?;
    // A terminal is readable when it has a whole line, or its end.
    let mut line = vec![0; LONGEST];
    let length = rustix::io::read(stdin.get_ref(), &mut line[..])?;
    Ok(String::from_utf8_lossy(&line[..length]).into_owned())
}

fn say(text: &str) {
    let mut terminal = io::stderr().lock();
    // A terminal that is gone has nobody behind it.
    let _ = terminal.write_all(text.as_bytes()).and_then(|()| terminal.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_is_not_understood_does_nothing() {
        for (answer, meant) in [
            ("t\n", Answer::Do(Conflict::TakeOver)),
            ("1\n", Answer::Do(Conflict::TakeOver)),
            (" A \n", Answer::Do(Conflict::Alongside)),
            ("\n", Answer::Cancel),
            ("c\n", Answer::Cancel),
            ("yes\n", Answer::Unclear),
            ("3\n", Answer::Unclear),
        ] {
            assert_eq!(meaning(answer), meant, "{answer:?}");
        }
    }
}
