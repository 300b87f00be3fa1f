//! `linchpin mcp`: the stdio shim between a coding agent and the hub. It runs for as long as its agent does.
//!
//! Every message goes to the hub over a [`HubSession`], which finds the hub, starts it and reconnects to it. So a hub
//! that dies costs at most an error for the calls in flight. [`lines`] reads and writes standard input and output, and
//! [`stateless`] handles stateless requests (MCP 2026-07-28). Notifications are forwarded in order and before later
//! messages, and every request gets exactly one answer. The shim ends only when its input ends.

mod lines;
mod stateless;

use super::Context;
use super::jsonrpc::Envelope;
use super::send_error::Repeat;
use super::session::{HubSession, OutgoingMessage};
use super::view_args::ViewArgs;
use bytes::Bytes;
use linchpin_shared::problem::{Code, Exit, Problem};
use lines::{InputLine, MAX_LINE, read_lines, write_lines};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use stateless::{InFlightRequest, InFlightRequests};
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

/// The number of requests in flight. Further ones wait in the pipe.
const IN_FLIGHT: usize = 256;

/// How long requests in flight may continue after the agent closed its end of the pipe.
const LINGER: Duration = Duration::from_secs(5);

/// The pause before the next attempt to reach a hub that cannot be started.
const RETRY: Duration = Duration::from_secs(2);

/// The task that forwards what the hub sends on its own. It ends when it is dropped.
type ListenTask = Option<AbortOnDropHandle<()>>;

struct Shim {
    session: HubSession,
    out: mpsc::Sender<Bytes>,
    in_flight: Arc<Semaphore>,
    /// The stateless requests in flight.
    stateless: InFlightRequests,
    /// Ends the subscriptions when the agent has gone.
    agent_gone: CancellationToken,
    /// Ends everything else that is in flight, a while later.
    end: CancellationToken,
}

/// What belongs to a stateless request beside its line.
struct StatelessRequest {
    headers: HeaderMap,
    in_flight: InFlightRequest,
    subscribes: bool,
}

pub(super) async fn main(context: &Context, args: ViewArgs) -> Result<Exit, Problem> {
    let path = args.gateway_path()?;
    let (out, written) = write_lines();
    let (agent_gone, end) = (CancellationToken::new(), CancellationToken::new());
    let (in_flight, stateless) = (Arc::new(Semaphore::new(IN_FLIGHT)), InFlightRequests::default());
    let shim = Arc::new(Shim { session: HubSession::new(context, path), out, in_flight, stateless, agent_gone, end });
    let (tasks, mut listener) = (TaskTracker::new(), None);
    let mut lines = read_lines();
    while let Some(line) = lines.recv().await {
        match line {
            InputLine::Whole(line) => shim.clone().handle(line, &tasks, &mut listener).await,
            InputLine::TooLong => {
                shim.reply(invalid_line(-32600, &format!("it is longer than {MAX_LINE} bytes"))).await;
            }
        }
    }
    shim.agent_gone.cancel();
    tasks.close();
    let _ = tokio::time::timeout(LINGER, tasks.wait()).await;
    // The listen task is dropped first, so that it does not mistake the end of the session for a lost connection and
    // start a new one.
    drop(listener);
    shim.end.cancel();
    shim.session.close().await;
    drop(shim);
    let _ = tokio::time::timeout(LINGER, written).await;
    Ok(Exit::Ok)
}

impl Shim {
    /// Handles one line from the agent.
    async fn handle(self: Arc<Self>, line: Bytes, tasks: &TaskTracker, listener: &mut ListenTask) {
        let envelope = match serde_json::from_slice::<Envelope<'_>>(&line) {
            Ok(envelope) => envelope,
            Err(error) => return self.reply(not_a_message(&line, &error)).await,
        };
        match (envelope.id, envelope.method) {
            (Some(id), Some(method)) if method == "initialize" => {
                let id = id.to_owned();
                self.initialize(line, &id).await;
            }
            (Some(id), Some(method)) => {
                let (id, repeat, subscribes) = (id.to_owned(), repeat(&method), method == stateless::LISTEN);
                let Ok(permit) = self.in_flight.clone().acquire_owned().await else { return };
                // It is entered at once, because its cancellation may be on the next line.
                let stateless = stateless_headers(&line).map(|headers| StatelessRequest {
                    headers,
                    in_flight: self.stateless.begin(&id),
                    subscribes,
                });
                tasks.spawn(async move {
                    self.end.run_until_cancelled(Box::pin(self.perform(&line, &id, repeat, stateless))).await;
                    drop(permit);
                });
            }
            (_, Some(method)) if method == "notifications/cancelled" && self.stateless.cancel(&line) => {}
            (_, Some(method)) => {
                let initialized = method == "notifications/initialized";
                self.notify(&line).await;
                if initialized {
                    // An agent that initializes again only gets what belongs to its new session.
                    *listener = Some(AbortOnDropHandle::new(tokio::spawn(self.listen())));
                }
            }
            (_, None) => self.notify(&line).await,
        }
    }

    async fn initialize(&self, line: Bytes, id: &RawValue) {
        match self.session.initialize(line).await {
            Ok(reply) => self.reply(reply).await,
            Err(problem) => self.reply(error(id, &problem)).await,
        }
    }

    async fn perform(&self, line: &Bytes, id: &RawValue, repeat: Repeat, stateless: Option<StatelessRequest>) {
        match stateless {
            None => self.request(line, id, repeat, None).await,
            Some(StatelessRequest { headers, in_flight, subscribes: true }) => {
                in_flight.or_cancelled(Box::pin(self.subscribe(line, id, &headers))).await;
            }
            Some(StatelessRequest { headers, in_flight, subscribes: false }) => {
                in_flight.or_cancelled(Box::pin(self.request(line, id, repeat, Some(&headers)))).await;
            }
        }
    }

    async fn request(&self, line: &Bytes, id: &RawValue, repeat: Repeat, headers: Option<&HeaderMap>) {
        let message = OutgoingMessage { body: line, id: Some(id), repeat, headers };
        if let Err(problem) = self.session.send(&message, &self.out).await {
            self.reply(error(id, &problem)).await;
        }
    }

    /// A notification or a response has no answer, so if it cannot be forwarded, only the log can say so.
    async fn notify(&self, line: &Bytes) {
        let message = OutgoingMessage { body: line, id: None, repeat: Repeat::Safe, headers: None };
        if let Err(problem) = self.session.send(&message, &self.out).await {
            let _ = writeln!(std::io::stderr().lock(), "linchpin mcp: a notification was lost: {problem}");
        }
    }

    /// Forwards what the hub sends on its own, over all connections to it.
    async fn listen(self: Arc<Self>) {
        let Ok(mut connection) = self.session.connection().await else { return };
        loop {
            match self.session.listen(connection.clone(), &self.out).await {
                Ok(next) => {
                    if !next.continues(&connection) {
                        self.announce_new_session().await;
                    }
                    connection = next;
                }
                Err(_) => tokio::time::sleep(RETRY).await,
            }
        }
    }

    /// A new session has no earlier lists to compare with, so the agent is notified that all of them may have changed.
    async fn announce_new_session(&self) {
        for what in ["tools", "prompts", "resources"] {
            let line = format!(r#"{{"jsonrpc":"2.0","method":"notifications/{what}/list_changed"}}"#);
            self.reply(Bytes::from(line)).await;
        }
    }

    async fn reply(&self, line: Bytes) {
        let _ = self.out.send(line).await;
    }
}

/// Returns the headers of a stateless message; `None` if the message belongs to the session.
fn stateless_headers(line: &[u8]) -> Option<HeaderMap> {
    let header = |(name, value): (&'static str, String)| {
        Some((HeaderName::from_static(name), HeaderValue::from_str(&value).ok()?))
    };
    Some(linchpin_shared::protocol::stateless::headers(line)?.into_iter().filter_map(header).collect())
}

/// Methods that only read may be repeated (MCP 2025-11-25).
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

/// Returns a JSON-RPC error that carries the problem.
fn error(id: &RawValue, problem: &Problem) -> Bytes {
    let message = format!("{}: {}", problem.title, problem.detail);
    let body = serde_json::json!({"code": -32000, "message": message, "data": problem});
    Bytes::from(format!(r#"{{"jsonrpc":"2.0","id":{},"error":{body}}}"#, id.get()))
}

/// Answers a line that is not a message: it is not JSON, or JSON of another form (JSON-RPC 2.0, section 5.1).
fn not_a_message(line: &[u8], error: &serde_json::Error) -> Bytes {
    let code = if serde_json::from_slice::<IgnoredAny>(line).is_ok() { -32600 } else { -32700 };
    invalid_line(code, &error.to_string())
}

fn invalid_line(code: i32, why: &str) -> Bytes {
    let problem = Problem::new(Code::BadRequest, format!("a line is not a JSON-RPC message: {why}"))
        .next("send one JSON object on each line, in UTF-8 and without line breaks in it");
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
