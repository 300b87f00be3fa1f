//! Following a server's own messages: its GET stream, or what `subscriptions/listen` gives in 2026-07-28.
//!
//! Owns opening it, and opening it again when it ends while the session lives.
//! Invariant: after an interruption every list is asked for again, because an announcement may have been missed.
//! Never: decides that a session is lost by itself; the server says so.

use super::session::{Session, own_request};
use super::wire::{Answering, Broken, Mark, Routing, read};
use super::{Input, Upstream};
use crate::gateway::mcp::client::Topic;
use crate::gateway::mcp::envelope::Envelope;
use linchpin_shared::backoff::{Backoff, Policy};
use std::time::Duration;
use tokio::time::Instant;

/// Servers end idle streams after minutes; one that ends them at once must not be asked in a hot loop.
const REOPEN: Policy =
    Policy { min: Duration::from_millis(100), max: Duration::from_secs(30), reset_after: Duration::from_secs(10) };

/// Follows what a server that speaks 2026-07-28 says about its lists, for as long as the session is held.
pub(super) async fn subscribe(upstream: &Upstream, session: &Session) {
    const ALL: &str =
        r#""notifications":{"toolsListChanged":true,"promptsListChanged":true,"resourcesListChanged":true},"#;
    let mut backoff = Backoff::new(REOPEN);
    let routing = Routing::of("subscriptions/listen", None);
    loop {
        let begun = Instant::now();
        let message = own_request(upstream.next_id(), "subscriptions/listen", ALL);
        match upstream.call(Mark::Modern(session, &routing), message).await {
            Ok(stream) => follow(upstream, stream).await,
            Err(broken) => {
                tracing::debug!(server = %upstream, problem = %broken.into_problem().detail, "no stream of its changes");
            }
        }
        backoff.healthy_for(begun.elapsed());
        tokio::time::sleep(backoff.next_delay(super::actor::random())).await;
        for topic in Topic::ALL {
            upstream.changed(topic).await;
        }
    }
}

/// Follows the server's messages until the session is lost, or for good if the server has no such stream.
pub(super) async fn listen(upstream: &Upstream, session: &Session) {
    let mut backoff = Backoff::new(REOPEN);
    let mut opened = false;
    loop {
        let begun = Instant::now();
        match upstream.wire.listen(session).await {
            Ok(Some(stream)) => {
                if std::mem::replace(&mut opened, true) {
                    for topic in Topic::ALL {
                        upstream.changed(topic).await;
                    }
                }
                follow(upstream, stream).await;
            }
            Ok(None) => return,
            Err(Broken::SessionLost(_)) => return upstream.tell(Input::Lost(session.number)).await,
            Err(error @ (Broken::NotExecuted(_) | Broken::Interrupted(_) | Broken::Refused(_))) => {
                tracing::debug!(server = %upstream, problem = %error.into_problem().detail, "no stream of its messages");
            }
        }
        backoff.healthy_for(begun.elapsed());
        tokio::time::sleep(backoff.next_delay(super::actor::random())).await;
    }
}

async fn follow(upstream: &Upstream, mut stream: Answering) {
    while let Ok(Some(message)) = stream.next().await {
        match read(&message) {
            Some((text, Envelope::Notification { method, params })) => upstream.hear(text, &method, params).await,
            Some((text, Envelope::Request { .. })) => upstream.tell(Input::Asked(text.to_owned())).await,
            Some((_, Envelope::Response { .. })) | None => {}
        }
    }
}
