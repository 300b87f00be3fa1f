//! `linchpin mcp`: the stdio shim, which never exits while its agent lives.
//!
//! Owns which message goes how: every one goes to the hub over a [`Session`] that finds, starts and re-dials it, so a hub
//! that dies is at most an error to the calls in flight. [`lines`] has standard input and output, [`alone`] what stands
//! for itself (MCP 2026-07-28). Invariant: notifications are passed on in order and before later messages; every request
//! gets exactly one answer. Never: ends for another reason than the end of its input.

mod alone;
mod lines;

use super::Context;
use super::lost::Repeat;
use super::session::{Message, Session};
use super::shown::Shown;
use alone::{Entry, UnderWay};
use bytes::Bytes;
use linchpin_shared::problem::{Code, Exit, Problem};
use linchpin_shared::protocol::stateless;
use lines::{Line, MAX_LINE, read_lines, write_lines};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

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

/// What passes on what the hub says by itself; dropped, it ends.
type Listener = Option<AbortOnDropHandle<()>>;

struct Shim {
    session: Session,
    out: mpsc::Sender<Bytes>,
    in_flight: Arc<Semaphore>,
    /// What stands for itself.
    alone: UnderWay,
    /// Ends the subscriptions when the agent has gone.
    gone: CancellationToken,
    /// Ends what is still under way a while later.
    end: CancellationToken,
}

/// What a request that stands for itself has beside its line.
struct Alone {
    headers: HeaderMap,
    entry: Entry,
    subscribes: bool,
}

pub(super) async fn main(context: &Context, shown: Shown) -> Result<Exit, Problem> {
    let path = shown.address()?;
    let (out, written) = write_lines();
    let (gone, end) = (CancellationToken::new(), CancellationToken::new());
    let (in_flight, alone) = (Arc::new(Semaphore::new(IN_FLIGHT)), UnderWay::default());
    let shim = Arc::new(Shim { session: Session::new(context, path), out, in_flight, alone, gone, end });
    let (tasks, mut listener) = (TaskTracker::new(), None);
    let mut lines = read_lines();
    while let Some(line) = lines.recv().await {
        match line {
            Line::Whole(line) => shim.clone().take(line, &tasks, &mut listener).await,
            Line::TooLong => shim.answer(refused(-32600, &format!("it is longer than {MAX_LINE} bytes"))).await,
        }
    }
    shim.gone.cancel();
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
                let (id, repeat, subscribes) = (id.to_owned(), repeat(&method), method == alone::LISTEN);
                let Ok(permit) = self.in_flight.clone().acquire_owned().await else { return };
                // Entered at once: its cancellation may be the next line.
                let alone = carried(&line).map(|headers| Alone { headers, entry: self.alone.begin(&id), subscribes });
                tasks.spawn(async move {
                    self.end.run_until_cancelled(Box::pin(self.perform(&line, &id, repeat, alone))).await;
                    drop(permit);
                });
            }
            (_, Some(method)) if method == "notifications/cancelled" && self.alone.cancel(&line) => {}
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

    async fn perform(&self, line: &Bytes, id: &RawValue, repeat: Repeat, alone: Option<Alone>) {
        match alone {
            None => self.request(line, id, repeat, None).await,
            Some(Alone { headers, entry, subscribes: true }) => {
                entry.or_cancelled(Box::pin(self.subscribe(line, id, &headers))).await;
            }
            Some(Alone { headers, entry, subscribes: false }) => {
                entry.or_cancelled(Box::pin(self.request(line, id, repeat, Some(&headers)))).await;
            }
        }
    }

    async fn request(&self, line: &Bytes, id: &RawValue, repeat: Repeat, headers: Option<&HeaderMap>) {
        let message = Message { body: line, id: Some(id), repeat, headers };
        if let Err(problem) = self.session.send(&message, &self.out).await {
            self.answer(error(id, &problem)).await;
        }
    }

    /// A notification or a response has no answer; if it cannot be passed on there is nobody to tell but the log.
    async fn notify(&self, line: &Bytes) {
        let message = Message { body: line, id: None, repeat: Repeat::Safe, headers: None };
        if let Err(problem) = self.session.send(&message, &self.out).await {
            let _ = writeln!(std::io::stderr().lock(), "linchpin mcp: a notification was lost: {problem}");
        }
    }

    /// Passes on what the hub says by itself, over all its lives.
    async fn listen(self: Arc<Self>) {
        let Ok(mut life) = self.session.life().await else { return };
        loop {
            match self.session.listen(life.clone(), &self.out).await {
                Ok(next) => {
                    if !next.continues(&life) {
                        self.announce_new_life().await;
                    }
                    life = next;
                }
                Err(_) => tokio::time::sleep(RETRY).await,
            }
        }
    }

    /// A hub that did not know the session knows no earlier lists to compare with, so the agent is asked to look.
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

/// The headers of a message that stands for itself; none if it belongs to the session.
fn carried(line: &[u8]) -> Option<HeaderMap> {
    let header = |(name, value): (&'static str, String)| {
        Some((HeaderName::from_static(name), HeaderValue::from_str(&value).ok()?))
    };
    Some(stateless::headers(line)?.into_iter().filter_map(header).collect())
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
        | "tasks/get"
        | "tasks/list"
        | "tasks/result"
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
    fn an_error_answers_the_id_as_it_was_sent() {
        let id: Box<RawValue> = serde_json::from_str("1.50").unwrap();
        let line = error(&id, &Problem::new(Code::HubUnreachable, "no hub"));
        assert!(line.starts_with(br#"{"jsonrpc":"2.0","id":1.50,"error":{"code":-32000,"#));
    }
}
