//! What the hub says to a server.
//!
//! Owns how each thing is said in the version that the session has: a request of the hub's own, a notification, a
//! cancellation, a subscription. Invariant: a server that speaks 2026-07-28 only is sent nothing that this version does
//! not have. Never: decides what is to be said.

use super::http_client;
use super::http_client::{SendError, read};
use super::request_headers::{RequestHeaders, RoutingHeaders};
use super::session::{Dialect, UpstreamSession};
use super::{Upstream, UpstreamInput, server_error};
use crate::gateway::mcp::protocol::capabilities::SessionKind;
use crate::gateway::mcp::protocol::envelope::Envelope;
use crate::gateway::mcp::protocol::json::quote;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// How long telling a server something may take that nobody waits for.
const TELL: Duration = Duration::from_secs(5);

impl Upstream {
    /// Sends a request of the hub's own and gives the text of its result.
    pub(crate) async fn ask(&self, session: &UpstreamSession, method: &str, params: &str) -> Result<String, SendError> {
        let message = session.request(self.next_id(), method, params);
        let routing = RoutingHeaders::of(method, None);
        let mark = if session.dialect == Dialect::Stateless {
            RequestHeaders::Stateless(session, &routing)
        } else {
            RequestHeaders::Session(session)
        };
        let mut answering = self.wire.post(mark, message).await?;
        loop {
            let Some(message) = answering.next().await? else {
                return Err(answering.interrupted("there was no response"));
            };
            match read(&message) {
                Some((text, Envelope::Response { result: Some(result), .. })) => return Ok(result.of(text).to_owned()),
                Some((text, Envelope::Response { error, .. })) => {
                    return Err(SendError::Refused(server_error(self, text, error)));
                }
                Some((text, Envelope::Notification { method, params })) => self.hear(text, &method, params).await,
                Some((text, Envelope::Request { .. })) => self.put(UpstreamInput::Asked(text.to_owned())).await,
                None => {}
            }
        }
    }

    /// Sends what is not answered. In 2026-07-28 there is nothing of the kind that a server waits for.
    pub(crate) async fn notify(&self, session: &UpstreamSession, message: String) -> Result<(), SendError> {
        if session.dialect == Dialect::Stateless {
            return Ok(());
        }
        self.wire.post(RequestHeaders::Session(session), message).await.map(|_| ())
    }

    /// Tells the server that a request is not waited for any more. In 2026-07-28 over HTTP, that nobody reads its answer
    /// says it.
    pub(crate) async fn cancel(&self, session: &UpstreamSession, notification: String) -> Result<(), SendError> {
        if session.dialect == Dialect::Stateless && self.server_key.session_kind != SessionKind::Shared {
            return Ok(());
        }
        self.wire.post(RequestHeaders::Session(session), notification).await.map(|_| ())
    }

    /// The same of the request with this id, for as long as nobody waits for it.
    pub(crate) async fn give_up(&self, session: &UpstreamSession, id: u64) {
        let message =
            format!(r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{id}}}}}"#);
        if !matches!(timeout(TELL, self.cancel(session, message)).await, Ok(Ok(()))) {
            tracing::debug!(server = %self, "a cancellation did not reach it");
        }
    }

    /// Has the server tell clients of 2026-07-28 of a resource.
    pub(crate) async fn subscribe(&self, session: &UpstreamSession, uri: &str) -> Result<(), SendError> {
        match session.dialect {
            Dialect::Stateless | Dialect::Both => self.resubscribe().await,
            Dialect::SessionBased => drop(self.ask(session, "resources/subscribe", &about(uri)).await?),
        }
        Ok(())
    }

    /// Has the server not tell of a resource any more.
    pub(crate) async fn unsubscribe(&self, session: &UpstreamSession, uri: &str) -> Result<(), SendError> {
        if session.dialect != Dialect::SessionBased {
            self.resubscribe().await;
        }
        if session.dialect != Dialect::Stateless {
            self.ask(session, "resources/unsubscribe", &about(uri)).await?;
        }
        Ok(())
    }

    /// Has a server without sessions tell of what clients subscribed to, as it is now.
    pub(crate) async fn resubscribe(&self) {
        self.wanted.changed(Instant::now() + TELL).await;
    }

    /// Sends a request whose id is [`Upstream::next_id`]; its messages come out of the answer.
    pub(crate) async fn call(
        &self,
        mark: RequestHeaders<'_>,
        message: String,
    ) -> Result<http_client::ResponseMessages, SendError> {
        self.wire.post(mark, message).await
    }
}

/// The params of a request about this resource.
fn about(uri: &str) -> String {
    format!(r#"{{"uri":{}}}"#, quote(uri))
}
