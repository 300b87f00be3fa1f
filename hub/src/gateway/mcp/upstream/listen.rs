//! Following a server's own messages: its GET stream, or what `subscriptions/listen` gives in 2026-07-28.
//!
//! Owns opening it, opening it again when it ends while the session lives, and [`WantedChanges`]: the second kind also tells of
//! the resources that clients subscribed to, so it is opened anew when those change.
//! Invariant: after an interruption every list is asked for again, because an announcement may have been missed; a stream
//! that is replaced ends only when its successor is there.
//! Never: decides that a session is lost by itself; the server says so.

use super::http_client::{ResponseMessages, SendError, read};
use super::request_headers::{RequestHeaders, RoutingHeaders};
use super::session::{UpstreamSession, stateless_request};
use super::{Upstream, UpstreamInput};
use crate::gateway::mcp::protocol::capabilities::SessionKind;
use crate::gateway::mcp::protocol::envelope::Envelope;
use crate::gateway::mcp::protocol::json::{Object, Span, quote};
use crate::gateway::mcp::protocol::list_kind::ListChange;
use linchpin_shared::backoff::{Backoff, BackoffPolicy};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::task::AbortOnDropHandle;

/// Servers end idle streams after minutes; one that ends them at once must not be asked in a hot loop.
const REOPEN: BackoffPolicy = BackoffPolicy {
    min: Duration::from_millis(100),
    max: Duration::from_secs(30),
    reset_after: Duration::from_secs(10),
};

/// How long a server may take to acknowledge a stream. One that does not is believed after that.
const ACKNOWLEDGE: Duration = Duration::from_secs(5);

/// What a server that speaks 2026-07-28 is to tell, and how far it was told so.
#[derive(Debug, Default)]
pub(crate) struct WantedChanges {
    /// How often it changed.
    asked: watch::Sender<u64>,
    /// Up to which of these changes the server knows it.
    notified: watch::Sender<u64>,
    /// The stream that the server acknowledged last.
    acknowledged: watch::Sender<u64>,
    /// The stream that the server ended last.
    ended: watch::Sender<u64>,
}

impl WantedChanges {
    /// The resources that clients subscribed to are others now. Waits until the server knows.
    pub(crate) async fn changed(&self, deadline: Instant) {
        let mut number = 0;
        self.asked.send_modify(|asked| {
            *asked += 1;
            number = *asked;
        });
        // One that has no such streams, or does not say that it has one, is not waited for.
        let _ = timeout_at(deadline, self.notified.subscribe().wait_for(|notified| *notified >= number)).await;
    }

    /// The server says that it has this stream.
    pub(super) fn acknowledge(&self, id: &str) {
        if let Ok(id) = id.parse() {
            self.acknowledged.send_replace(id);
        }
    }

    /// The server says that it gave this up.
    pub(super) fn end(&self, id: &str) {
        if let Ok(id) = id.parse() {
            self.ended.send_replace(id);
        }
    }
}

/// How a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StreamEnd {
    /// The server has no such streams.
    NotOffered,
    /// It may have one again.
    Over,
}

/// A stream of changes. Dropping it ends it.
struct ChangeStream {
    upstream: Arc<Upstream>,
    session: Arc<UpstreamSession>,
    id: u64,
    task: AbortOnDropHandle<StreamEnd>,
    over: Option<StreamEnd>,
}

/// Follows what a server that speaks 2026-07-28 says about its lists and resources, for as long as the session is held.
pub(super) async fn subscribe(upstream: Arc<Upstream>, session: Arc<UpstreamSession>) {
    let mut backoff = Backoff::new(REOPEN);
    let mut asked = upstream.wanted.asked.subscribe();
    let mut earlier: Option<ChangeStream> = None;
    loop {
        let begun = Instant::now();
        let number = *asked.borrow_and_update();
        let mut stream = ChangeStream::open(&upstream, &session);
        stream.acknowledged().await;
        drop(earlier.take());
        upstream.wanted.notified.send_replace(number);
        let end = tokio::select! {
            end = stream.end() => end,
            _ = asked.changed() => {
                earlier = Some(stream);
                continue;
            }
        };
        if end == StreamEnd::NotOffered {
            upstream.wanted.notified.send_replace(u64::MAX);
            return;
        }
        backoff.healthy_for(begun.elapsed());
        tokio::time::sleep(backoff.next_delay(super::shared::random())).await;
        for topic in ListChange::ALL {
            upstream.changed(topic).await;
        }
    }
}

impl ChangeStream {
    fn open(upstream: &Arc<Upstream>, session: &Arc<UpstreamSession>) -> Self {
        let (upstream, session, id) = (Arc::clone(upstream), Arc::clone(session), upstream.next_id());
        let task = tokio::spawn(changes(Arc::clone(&upstream), Arc::clone(&session), id));
        Self { upstream, session, id, task: AbortOnDropHandle::new(task), over: None }
    }

    /// Waits until the server has it, or it is over.
    async fn acknowledged(&mut self) {
        let (id, mut acknowledged) = (self.id, self.upstream.wanted.acknowledged.subscribe());
        tokio::select! {
            _ = timeout(ACKNOWLEDGE, acknowledged.wait_for(|known| *known == id)) => {}
            _ = self.end() => {}
        }
    }

    async fn end(&mut self) -> StreamEnd {
        if let Some(end) = self.over {
            return end;
        }
        let (id, mut ended) = (self.id, self.upstream.wanted.ended.subscribe());
        let end = tokio::select! {
            end = &mut self.task => end.unwrap_or(StreamEnd::Over),
            _ = ended.wait_for(|ended| *ended == id) => StreamEnd::Over,
        };
        *self.over.insert(end)
    }
}

impl Drop for ChangeStream {
    fn drop(&mut self) {
        // Over HTTP, that nobody reads any more says it.
        if self.over.is_some() || self.upstream.server_key.session_kind != SessionKind::Shared {
            return;
        }
        let (upstream, session, id) = (Arc::clone(&self.upstream), Arc::clone(&self.session), self.id);
        tokio::spawn(async move { upstream.give_up(&session, id).await });
    }
}

async fn changes(upstream: Arc<Upstream>, session: Arc<UpstreamSession>, id: u64) -> StreamEnd {
    let uris: Vec<_> = upstream.clients.subscribed(&upstream.server_key).iter().map(|uri| quote(uri)).collect();
    let mut params = String::from(
        r#"{"notifications":{"toolsListChanged":true,"promptsListChanged":true,"resourcesListChanged":true"#,
    );
    if !uris.is_empty() {
        params.push_str(&format!(r#","resourceSubscriptions":[{}]"#, uris.join(",")));
    }
    params.push_str("}}");
    let message = stateless_request(id, "subscriptions/listen", &params, session.capabilities);
    let routing = RoutingHeaders::of("subscriptions/listen", None);
    match Box::pin(upstream.call(RequestHeaders::Stateless(&session, &routing), message)).await {
        Ok(mut stream) => {
            stream.takes_no_room();
            follow(&upstream, stream).await
        }
        Err(SendError::SessionLost(_)) => {
            upstream.put(UpstreamInput::Lost(session.number)).await;
            StreamEnd::Over
        }
        Err(error @ (SendError::NotExecuted(_) | SendError::Interrupted(_) | SendError::Refused(_))) => {
            tracing::debug!(server = %upstream, problem = %error.into_problem().detail, "no stream of its changes");
            StreamEnd::Over
        }
    }
}

/// Follows the server's messages until the session is lost, or for good if the server has no such stream.
pub(super) async fn listen(upstream: &Upstream, session: &UpstreamSession) {
    let mut backoff = Backoff::new(REOPEN);
    let mut opened = false;
    loop {
        let begun = Instant::now();
        match Box::pin(upstream.wire.listen(session)).await {
            Ok(Some(stream)) => {
                if std::mem::replace(&mut opened, true) {
                    for topic in ListChange::ALL {
                        upstream.changed(topic).await;
                    }
                }
                follow(upstream, stream).await;
            }
            Ok(None) => return,
            Err(SendError::SessionLost(_)) => return upstream.put(UpstreamInput::Lost(session.number)).await,
            Err(error @ (SendError::NotExecuted(_) | SendError::Interrupted(_) | SendError::Refused(_))) => {
                tracing::debug!(server = %upstream, problem = %error.into_problem().detail, "no stream of its messages");
            }
        }
        backoff.healthy_for(begun.elapsed());
        tokio::time::sleep(backoff.next_delay(super::shared::random())).await;
    }
}

async fn follow(upstream: &Upstream, mut stream: ResponseMessages) -> StreamEnd {
    while let Ok(Some(message)) = stream.next().await {
        match read(&message) {
            Some((text, Envelope::Notification { method, params })) => upstream.hear(text, &method, params).await,
            Some((text, Envelope::Request { .. })) => upstream.put(UpstreamInput::Asked(text.to_owned())).await,
            Some((text, Envelope::Response { error, .. })) => {
                let code = |at: Span| Object::parse(text, at).ok()?.get("code");
                if error.and_then(code).is_some_and(|code| code.of(text) == "-32601") {
                    return StreamEnd::NotOffered;
                }
            }
            None => {}
        }
    }
    StreamEnd::Over
}
