//! `linchpin mcp`: the stdio shim, which never exits while its agent lives.
//!
//! Owns standard input and output: one JSON-RPC message a line, nothing else on standard output. Every message goes to
//! the hub over a [`Session`] that finds, starts and re-dials it, so a hub that dies is at most an error to the calls
//! in flight. Invariant: notifications are passed on in order and before later messages; every request gets exactly one
//! answer. Never: ends for another reason than the end of its input, or reads a message further than its envelope.

use super::Context;
use super::reply;
use super::session::{Repeat, Session};
use super::shown::Shown;
use bytes::Bytes;
use linchpin_shared::problem::{Code, Exit, Problem};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::io::{BufRead, Read, Write};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

/// The longest line, in bytes; the hub's own bound on a message is the same by default.
const MAX_LINE: usize = 64 << 20;

/// Lines that wait for the hub or for the agent to read.
const QUEUE: usize = 256;

/// Requests in flight; more wait in the pipe.
const IN_FLIGHT: usize = 256;

/// How long requests in flight may go on after the agent closed our input.
const LINGER: Duration = Duration::from_secs(5);

/// How long to wait before the next try to reach a hub that cannot be started.
const RETRY: Duration = Duration::from_secs(2);

/// The envelope of a message: all that the shim looks at.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    method: Option<Cow<'a, str>>,
}

/// One line of input.
#[derive(Debug, PartialEq, Eq)]
enum Line {
    Whole(Bytes),
    TooLong,
}

/// What passes on what the hub says by itself; dropped, it ends.
type Listener = Option<AbortOnDropHandle<()>>;

struct Shim {
    session: Session,
    out: mpsc::Sender<Bytes>,
    in_flight: Arc<Semaphore>,
    /// Ends what is still under way when the agent has gone.
    end: CancellationToken,
}

pub(super) async fn main(context: &Context, shown: Shown) -> Result<Exit, Problem> {
    let path = shown.address()?;
    let (out, written) = write_lines();
    let (in_flight, end) = (Arc::new(Semaphore::new(IN_FLIGHT)), CancellationToken::new());
    let shim = Arc::new(Shim { session: Session::new(context, path), out, in_flight, end });
    let (tasks, mut listener) = (TaskTracker::new(), None);
    let mut lines = read_lines();
    while let Some(line) = lines.recv().await {
        match line {
            Line::Whole(line) => shim.clone().take(line, &tasks, &mut listener).await,
            Line::TooLong => shim.answer(refused(-32600, &format!("it is longer than {MAX_LINE} bytes"))).await,
        }
    }
    tasks.close();
    let _ = tokio::time::timeout(LINGER, tasks.wait()).await;
    // First, so that nobody takes the session's end for a loss and begins another one.
    drop(listener);
    shim.end.cancel();
    shim.session.close().await;
    drop(shim);
    let _ = tokio::time::timeout(LINGER, written).await;
    Ok(Exit::Ok)
}

impl Shim {
    /// Passes one line of the agent on.
    async fn take(self: Arc<Self>, line: Bytes, tasks: &TaskTracker, listener: &mut Listener) {
        let envelope = match serde_json::from_slice::<Envelope<'_>>(&line) {
            Ok(envelope) => envelope,
            Err(error) => return self.answer(not_a_message(&line, &error)).await,
        };
        match (envelope.id, envelope.method) {
            (Some(id), Some(method)) if method == "initialize" => {
                let id = id.to_owned();
                self.initialize(line, &id).await;
            }
            (Some(id), Some(method)) => {
                let (id, repeat) = (id.to_owned(), repeat(&method));
                let Ok(permit) = self.in_flight.clone().acquire_owned().await else { return };
                tasks.spawn(async move {
                    self.end.run_until_cancelled(self.request(line, &id, repeat)).await;
                    drop(permit);
                });
            }
            (_, Some(method)) => {
                let begins = method == "notifications/initialized";
                self.notify(&line).await;
                if begins {
                    // An agent that begins anew is listened to in its new session only.
                    *listener = Some(AbortOnDropHandle::new(tokio::spawn(self.listen())));
                }
            }
            (_, None) => self.notify(&line).await,
        }
    }

    async fn initialize(&self, line: Bytes, id: &RawValue) {
        match self.session.initialize(line).await {
            Ok(answer) => self.answer(answer).await,
            Err(problem) => self.answer(error(id, &problem)).await,
        }
    }

    async fn request(&self, line: Bytes, id: &RawValue, repeat: Repeat) {
        if let Err(problem) = self.session.send(&line, Some(id), repeat, &self.out).await {
            self.answer(error(id, &problem)).await;
        }
    }

    /// A notification or a response has no answer; if it cannot be passed on there is nobody to tell but the log.
    async fn notify(&self, line: &Bytes) {
        if let Err(problem) = self.session.send(line, None, Repeat::Safe, &self.out).await {
            let _ = writeln!(std::io::stderr().lock(), "linchpin mcp: a notification was lost: {problem}");
        }
    }

    /// Passes on what the hub says by itself, over all its lives.
    async fn listen(self: Arc<Self>) {
        let Ok(mut life) = self.session.life().await else { return };
        loop {
            match self.session.listen(life.clone(), &self.out).await {
                Ok(next) => {
                    if next.replayed && !Arc::ptr_eq(&next, &life) {
                        self.announce_new_life().await;
                    }
                    life = next;
                }
                Err(_) => tokio::time::sleep(RETRY).await,
            }
        }
    }

    /// A hub that was started again knows no earlier lists to compare with, so the agent is asked to look.
    async fn announce_new_life(&self) {
        for what in ["tools", "prompts", "resources"] {
            let line = format!(r#"{{"jsonrpc":"2.0","method":"notifications/{what}/list_changed"}}"#);
            self.answer(Bytes::from(line)).await;
        }
    }

    async fn answer(&self, line: Bytes) {
        let _ = self.out.send(line).await;
    }
}

/// Which methods may be repeated: those that by their specification only read (MCP 2025-11-25).
fn repeat(method: &str) -> Repeat {
    match method {
        "ping"
        | "tools/list"
        | "prompts/list"
        | "prompts/get"
        | "resources/list"
        | "resources/read"
        | "resources/templates/list"
        | "resources/subscribe"
        | "resources/unsubscribe"
        | "completion/complete"
        | "logging/setLevel"
        | "server/discover" => Repeat::Safe,
        _ => Repeat::Unsafe,
    }
}

/// A JSON-RPC error answer that carries the problem.
fn error(id: &RawValue, problem: &Problem) -> Bytes {
    let message = format!("{}: {}", problem.title, problem.detail);
    let body = serde_json::json!({"code": -32000, "message": message, "data": problem});
    Bytes::from(format!(r#"{{"jsonrpc":"2.0","id":{},"error":{body}}}"#, id.get()))
}

/// The answer to a line that is no message: it is not JSON, or JSON of another kind (JSON-RPC 2.0, section 5.1).
fn not_a_message(line: &[u8], error: &serde_json::Error) -> Bytes {
    let code = if serde_json::from_slice::<IgnoredAny>(line).is_ok() { -32600 } else { -32700 };
    refused(code, &error.to_string())
}

fn refused(code: i32, why: &str) -> Bytes {
    let problem = Problem::new(Code::BadRequest, format!("a line is not a JSON-RPC message: {why}"))
        .next("send one JSON object a line, UTF-8, without line breaks in it");
    let body = serde_json::json!({"code": code, "message": problem.detail, "data": problem});
    Bytes::from(format!(r#"{{"jsonrpc":"2.0","id":null,"error":{body}}}"#))
}

/// Reads standard input on a thread of its own: a blocking read must not keep the runtime from ending.
fn read_lines() -> mpsc::Receiver<Line> {
    let (tx, rx) = mpsc::channel(QUEUE);
    std::thread::spawn(move || {
        let mut input = std::io::stdin().lock();
        while let Some(line) = read_line(&mut input, MAX_LINE) {
            let empty = matches!(&line, Line::Whole(line) if line.is_empty());
            if !empty && tx.blocking_send(line).is_err() {
                return;
            }
        }
    });
    rx
}

/// The next line without its end; `None` at the end of the input.
fn read_line(input: &mut impl BufRead, longest: usize) -> Option<Line> {
    let mut line = Vec::new();
    let length = input.by_ref().take(longest as u64 + 1).read_until(b'\n', &mut line).ok()?;
    match length {
        0 => None,
        length if length > longest && !line.ends_with(b"\n") => {
            input.skip_until(b'\n').ok()?;
            Some(Line::TooLong)
        }
        _ => Some(Line::Whole(Bytes::copy_from_slice(line.trim_ascii()))),
    }
}

/// Writes lines to standard output on a thread of its own; the receiver resolves when the last one is written.
fn write_lines() -> (mpsc::Sender<Bytes>, tokio::sync::oneshot::Receiver<()>) {
    let (tx, mut rx) = mpsc::channel::<Bytes>(QUEUE);
    let (done, written) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        while let Some(line) = rx.blocking_recv().map(reply::line) {
            let mut out = std::io::stdout().lock();
            let whole = out.write_all(&line).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush());
            if whole.is_err() {
                return;
            }
        }
        let _ = done.send(());
    });
    (tx, written)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_not_repeated_and_reads_are() {
        assert_eq!(repeat("tools/call"), Repeat::Unsafe);
        assert_eq!(repeat("tasks/cancel"), Repeat::Unsafe);
        assert_eq!(repeat("tools/list"), Repeat::Safe);
    }

    #[test]
    fn a_line_that_is_too_long_is_skipped_and_the_next_is_read() {
        let mut input = &b"{}\n0123456789\n [1] \nend"[..];
        let lines: Vec<_> = std::iter::from_fn(|| read_line(&mut input, 8)).collect();
        let whole = |text: &'static str| Line::Whole(Bytes::from_static(text.as_bytes()));
        assert_eq!(lines, [whole("{}"), Line::TooLong, whole("[1]"), whole("end")]);
    }

    #[test]
    fn an_error_answers_the_id_as_it_was_sent() {
        let id: Box<RawValue> = serde_json::from_str("1.50").unwrap();
        let line = error(&id, &Problem::new(Code::HubUnreachable, "no hub"));
        assert!(line.starts_with(br#"{"jsonrpc":"2.0","id":1.50,"error":{"code":-32000,"#));
    }
}
