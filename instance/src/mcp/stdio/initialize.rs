//! What may come first in the life of a server: `initialize`, or `server/discover` of one that has no sessions.
//!
//! Owns what a life remembers of it: a hub that was restarted asks again, and gets the same answer and session from
//! memory as long as it asks for the same version. A server that was initialized with another must begin a new life
//! first. What the hub can do for the server never makes one: a hub that can do more or less now is no reason to end work.
//! Invariant: a server sees at most one `initialize` in a life, also when who asked went away before the answer.
//! One that ended before it answered is not asked the same in its next life: who asks is told, and may ask otherwise.
//! Never: remembers an answer that was an error.

use super::life::{Call, Life};
use super::message::Id;
use super::routes::{Part, Refused};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use std::sync::Arc;

/// What a server was asked and answered.
#[derive(Debug)]
pub(crate) struct Initialized {
    asked: Asked,
    result: Box<RawValue>,
}

/// What makes one `initialize` another than the other. Who asks (`clientInfo`) and what it can do does not.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Asked {
    #[serde(default)]
    protocol_version: Value,
}

/// What came of it.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The server is initialized as asked: the message to answer with.
    Ready(Bytes),
    /// The server refused: the message to answer with.
    Refused(Bytes),
    /// The server was initialized otherwise in this life.
    Otherwise,
    /// The life ended before it was asked.
    Over,
    /// The life ended of it, or while it was asked.
    Ended(Call),
}

#[derive(Deserialize)]
struct Request {
    params: Asked,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    result: Option<Box<RawValue>>,
}

/// Initializes the server, or remembers. Runs to its end even when nobody waits for it any more.
pub(super) async fn initialize(life: Arc<Life>, id: Id, body: Bytes) -> Outcome {
    let Ok(Request { params: asked }) = serde_json::from_slice(&body) else {
        // No params at all: that is the server's to refuse.
        return forward(&life, id, body).await.map_or_else(|outcome| outcome, Outcome::Refused);
    };
    let run = async move {
        let mut memory = life.initialized.lock().await;
        if let Some(before) = &*memory {
            return if before.asked == asked {
                Outcome::Ready(answer(&id, &before.result))
            } else {
                Outcome::Otherwise
            };
        }
        let line = match forward(&life, id, body).await {
            Ok(line) => line,
            Err(outcome) => return outcome,
        };
        match serde_json::from_slice(&line) {
            Ok(Answer { result: Some(result) }) => {
                *memory = Some(Initialized { asked, result });
                Outcome::Ready(line)
            }
            Ok(Answer { result: None }) | Err(_) => Outcome::Refused(line),
        }
    };
    // Only a panic could make it fail, and then there is no answer either.
    tokio::spawn(run).await.unwrap_or(Outcome::Over)
}

/// Asks a server what it is that need not be initialized. Nothing of it is remembered.
pub(super) async fn discover(life: &Arc<Life>, id: Id, body: Bytes) -> Outcome {
    forward(life, id, body).await.map_or_else(|outcome| outcome, Outcome::Ready)
}

/// The answer of the server, or what came of it when it ended first.
async fn forward(life: &Arc<Life>, id: Id, body: Bytes) -> Result<Bytes, Outcome> {
    let mut call = match life.call(id, None, body).await {
        Ok(call) => call,
        Err(Refused::Over | Refused::Duplicate) => return Err(Outcome::Over),
    };
    loop {
        match call.next().await {
            Some(Part::Note(_)) => {}
            Some(Part::Answer(line)) => return Ok(line),
            None if call.not_executed() => return Err(Outcome::Over),
            None => return Err(Outcome::Ended(call)),
        }
    }
}

fn answer(id: &Id, result: &RawValue) -> Bytes {
    format!(r#"{{"jsonrpc":"2.0","id":{},"result":{}}}"#, id.as_json(), result.get()).into()
}
