//! The first request of a run: `initialize`, or `server/discover` for a protocol version without sessions.
//!
//! A run remembers its answer to `initialize`. A hub that was restarted asks again, and gets the same answer and
//! session from memory as long as it asks for the same version; for another version, the server must be restarted
//! first. What the client can do never causes a restart, because a hub whose capabilities change is no reason to end
//! work. A server sees at most one `initialize` in a run, even when its sender was gone before the answer. When a
//! server ends before it answers, the request is not repeated in its next run: the sender learns of it and may ask for
//! something else. Errors are not remembered.

use super::message::JsonId;
use super::message_router::{CallMessage, SendError};
use super::server_run::{InitializeParams, Initialized, PendingCall, ServerRun};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::sync::Arc;

/// What became of the request.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The server is ready: the message to answer with.
    Ready(Bytes),
    /// The server refused: the message to answer with.
    Refused(Bytes),
    /// The server was initialized with another version in this run.
    OtherVersion,
    /// The run ended before the server was asked.
    NotSent,
    /// The run ended because of the request, or while it was in flight.
    Interrupted(PendingCall),
}

#[derive(Deserialize)]
struct Request {
    params: InitializeParams,
}

#[derive(Deserialize)]
struct Response {
    #[serde(default)]
    result: Option<Box<RawValue>>,
}

/// Initializes the server, or answers from memory.
///
/// # Cancel safety
/// It runs to its end even when it is not awaited any more.
pub(super) async fn initialize(run: Arc<ServerRun>, id: JsonId, body: Bytes) -> Outcome {
    let Ok(Request { params }) = serde_json::from_slice(&body) else {
        // Without params the server has to refuse it.
        return forward(&run, id, body).await.map_or_else(|outcome| outcome, Outcome::Refused);
    };
    let work = async move {
        let mut initialized = run.initialized.lock().await;
        if let Some(before) = &*initialized {
            return if before.request == params {
                Outcome::Ready(response(&id, &before.result))
            } else {
                Outcome::OtherVersion
            };
        }
        let line = match forward(&run, id, body).await {
            Ok(line) => line,
            Err(outcome) => return outcome,
        };
        match serde_json::from_slice(&line) {
            Ok(Response { result: Some(result) }) => {
                *initialized = Some(Initialized { request: params, result });
                Outcome::Ready(line)
            }
            Ok(Response { result: None }) | Err(_) => Outcome::Refused(line),
        }
    };
    // It fails only when the task panicked, and then there is no answer either.
    tokio::spawn(work).await.unwrap_or(Outcome::NotSent)
}

/// Forwards a `server/discover`. Its answer is not remembered.
pub(super) async fn discover(run: &Arc<ServerRun>, id: JsonId, body: Bytes) -> Outcome {
    forward(run, id, body).await.map_or_else(|outcome| outcome, Outcome::Ready)
}

/// Returns the response of the server. The error says how the run ended before that.
async fn forward(run: &Arc<ServerRun>, id: JsonId, body: Bytes) -> Result<Bytes, Outcome> {
    let mut call = match run.call(id, None, body).await {
        Ok(call) => call,
        Err(SendError::Ended | SendError::DuplicateId) => return Err(Outcome::NotSent),
    };
    loop {
        match call.next().await {
            Some(CallMessage::Progress(_)) => {}
            Some(CallMessage::Response(line)) => return Ok(line),
            None if call.not_executed() => return Err(Outcome::NotSent),
            None => return Err(Outcome::Interrupted(call)),
        }
    }
}

fn response(id: &JsonId, result: &RawValue) -> Bytes {
    format!(r#"{{"jsonrpc":"2.0","id":{},"result":{}}}"#, id.as_json(), result.get()).into()
}
