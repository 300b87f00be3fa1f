//! Calls of clients of 2026-07-28 whose older server asks something before it answers.
//!
//! Owns [`PendingInput`], a call that goes on over several requests: what the server asks is given to the client as
//! `input_required`, the call waits here, and the next request brings the answer. The `requestState` between them names
//! the call and is authenticated. Invariant: a call is taken up by a request for the same thing at the same address only,
//! and once. Never: holds a call for ever; one that is not taken up is given up, and the server told.

use super::capability_sets::CapabilityUse;
use super::client::Client;
use super::server_requests::ClientReply;
use crate::gateway::mcp::protocol::envelope::Envelope;
use crate::gateway::mcp::protocol::errors::success;
use crate::gateway::mcp::protocol::json::{Object, Span, edited, quote};
use crate::gateway::mcp::protocol::result;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// A person may think this long about what a server asks.
const KEPT: Duration = Duration::from_secs(900);

/// Calls that wait for their clients; beyond it the oldest is given up.
const MAX: usize = 256;

/// A call under way.
pub(crate) type PendingAnswer = Pin<Box<dyn Future<Output = Option<String>> + Send>>;

/// A call and what it needs to go on.
pub(crate) struct PendingInput {
    /// What it comes to.
    pub(crate) answer: PendingAnswer,
    /// What is said before.
    pub(crate) messages: mpsc::Receiver<String>,
    /// Its client.
    pub(crate) client: Arc<Client>,
    /// What it is about: a retry must be about the same.
    pub(crate) about: String,
    /// Keeps the sessions of what its client can do.
    pub(crate) _kept: CapabilityUse,
    /// What the server asks: the id of the question, and the request as the client is given it.
    pub(crate) asked: Option<(String, String)>,
}

/// Calls that wait for their clients.
#[derive(Default)]
pub(crate) struct PendingInputs(Mutex<HashMap<String, (Instant, PendingInput)>>);

impl std::fmt::Debug for PendingInputs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Waiting({})", self.0.lock().len())
    }
}

impl PendingInputs {
    /// Keeps a call under this name.
    fn keep(&self, name: String, held: PendingInput) {
        let now = Instant::now();
        // Given up outside of the lock: that tells servers.
        let mut gone = Vec::new();
        let mut table = self.0.lock();
        gone.extend(table.extract_if(|_, (since, _)| now.duration_since(*since) > KEPT));
        if table.len() >= MAX {
            let oldest = table.iter().min_by_key(|(_, (since, _))| *since).map(|(name, _)| name.clone());
            gone.extend(oldest.and_then(|name| table.remove_entry(&name)));
        }
        table.insert(name, (now, held));
        drop(table);
    }

    /// Takes a call up that is about this.
    pub(crate) fn take(&self, name: &str, about: &str) -> Option<PendingInput> {
        let mut table = self.0.lock();
        table.get(name).filter(|(since, held)| held.about == about && since.elapsed() <= KEPT)?;
        table.remove(name).map(|(_, held)| held)
    }
}

impl PendingInput {
    /// Gives the server what the client answered; false if its answer is not there.
    pub(crate) fn hear(&mut self, text: &str, params: Option<Span>) -> bool {
        let Some((id, _)) = &self.asked else { return true };
        let answer = || {
            let responses = Object::parse(text, params?).ok()?.object(text, "inputResponses").ok()??;
            responses.get(id).filter(|at| at.is_object(text))
        };
        let Some(at) = answer() else { return false };
        self.client.server_requests.say(id, ClientReply::Answer(success(id, at.of(text))));
        self.asked = None;
        true
    }

    /// Goes on until the answer, or until the server asks something; what is said before goes out. `name` is the name
    /// under which the call is kept then, and `state` what the client is given for it. The answer gets this id.
    pub(crate) async fn go_on(
        mut self,
        waiting: &PendingInputs,
        (name, state): (String, String),
        out: mpsc::Sender<String>,
        id: &str,
        method: &str,
    ) -> Option<String> {
        while self.asked.is_none() {
            let message = tokio::select! {
                biased;
                Some(message) = self.messages.recv() => message,
                answer = &mut self.answer => {
                    // What it said last may not have been read yet.
                    while let Ok(message) = self.messages.try_recv() {
                        let _ = out.send(message).await;
                    }
                    return Some(finished(answer?, id, method));
                }
            };
            match Envelope::parse_trusted(&message) {
                Ok(Envelope::Request { id, method, params }) => {
                    let params = params.map_or("{}", |at| at.of(&message));
                    let request = format!(r#"{{"method":{},"params":{params}}}"#, quote(&method));
                    self.asked = Some((id.of(&message).to_owned(), request));
                }
                // A question that the server does not want answered any more is not asked again.
                Ok(Envelope::Notification { method, .. }) if method == "notifications/cancelled" => {}
                Ok(Envelope::Notification { .. } | Envelope::Response { .. }) | Err(_) => {
                    // Nobody reads any more: the client went away, and so will this call.
                    let _ = out.send(message).await;
                }
            }
        }
        let (question, request) = self.asked.clone()?;
        let input = format!(
            r#"{{"resultType":"input_required","inputRequests":{{"{question}":{request}}},"requestState":{}}}"#,
            quote(&state)
        );
        waiting.keep(name, self);
        Some(success(id, &input))
    }
}

/// The answer to an earlier request of the same call as the answer to this one.
fn finished(answer: String, id: &str, method: &str) -> String {
    let own = match Envelope::parse_trusted(&answer) {
        Ok(Envelope::Response { id: at, .. }) => edited(answer, vec![(at, id.into())]),
        Ok(Envelope::Request { .. } | Envelope::Notification { .. }) | Err(_) => answer,
    };
    result::finished(own, method)
}
