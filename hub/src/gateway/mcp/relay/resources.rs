//! Resources: reading them, and being told when they change.
//!
//! Owns the order in which backends are tried for a URI, and which subscriptions a client has where.
//! Invariant: a URI that one backend lists goes to that backend and to no other; only a URI that nobody is known to have
//! is tried with several, and then without waiting for any of them.

use super::call::{ClientRequest, RequestReply};
use super::dispatch::{RequestHandler, unless_cancelled};
use super::forward::Relay;
use crate::gateway::mcp::builtin::news;
use crate::gateway::mcp::builtin::resources::{SCHEME, tells};
use crate::gateway::mcp::catalog::server_key::ServerKey;
use crate::gateway::mcp::protocol::envelope::Envelope;
use crate::gateway::mcp::protocol::errors::RpcError;
use crate::gateway::mcp::protocol::list_kind::ListKind;
use crate::gateway::mcp::session::client::Client;
use crate::gateway::mcp::session::eviction::MAX_SUBSCRIPTIONS;
use crate::gateway::mcp::session::in_flight::InFlightEntry;
use crate::gateway::mcp::upstream::Upstream;
use crate::gateway::mcp::upstream::session::Dialect;
use linchpin_shared::problem::{Code, Problem};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// How long a server may take for what nobody waits for.
const TASK_NOTIFICATION: Duration = Duration::from_secs(5);

impl RequestHandler {
    /// `resources/read`.
    pub(crate) async fn read(&self, call: &ClientRequest, entry: &mut InFlightEntry) -> Result<RequestReply, RpcError> {
        let (_, uri) = call.string("uri")?;
        if self.is_own(&uri) {
            return Ok(unless_cancelled(entry, self.own_resource(&uri)).await?.unwrap_or(RequestReply::Cancelled));
        }
        self.try_each(call, &uri, entry).await.map(|(reply, _)| reply)
    }

    /// `resources/subscribe`.
    pub(crate) async fn subscribe(
        &self,
        call: &ClientRequest,
        entry: &mut InFlightEntry,
    ) -> Result<RequestReply, RpcError> {
        let (_, uri) = call.string("uri")?;
        if self.is_own(&uri) {
            if !tells(&uri) {
                return Err(RpcError::invalid_params("this resource tells no updates: it is read anew each time"));
            }
            self.client.subscribe(&news::server_key(), &uri);
            return Ok(RequestReply::nothing());
        }
        if !self.client.may_subscribe(&uri) {
            let detail =
                format!("this session has {MAX_SUBSCRIPTIONS} subscriptions, or the URI is longer than 8192 bytes");
            return Err(RpcError::on_the_way(Problem::new(Code::Overloaded, detail).next("resources/unsubscribe")));
        }
        let (reply, upstream) = self.try_each(call, &uri, entry).await?;
        if let Some(upstream) = upstream.filter(|_| succeeded(&reply)) {
            self.client.subscribe(&upstream.server_key, &uri);
            resubscribe(&upstream).await;
        }
        Ok(reply)
    }

    /// `resources/unsubscribe`. The backend is told when nobody else is subscribed.
    pub(crate) async fn unsubscribe(
        &self,
        call: &ClientRequest,
        entry: &mut InFlightEntry,
    ) -> Result<RequestReply, RpcError> {
        let (_, uri) = call.string("uri")?;
        let Some(server_key) =
            self.client.subscriptions().into_iter().find(|(_, of)| *of == uri).map(|(server_key, _)| server_key)
        else {
            return Ok(RequestReply::nothing());
        };
        self.client.unsubscribe(&server_key, &uri);
        match self.gateway.unwanted(&server_key, &uri) {
            Some(upstream) => {
                let reply = Relay::new(self, call, &upstream, Vec::new(), true)?.impatient().run(entry).await;
                resubscribe(&upstream).await;
                reply
            }
            None => Ok(RequestReply::nothing()),
        }
    }

    /// Asks the backends that may have this resource, in order, until one does; and says which.
    async fn try_each(
        &self,
        call: &ClientRequest,
        uri: &str,
        entry: &mut InFlightEntry,
    ) -> Result<(RequestReply, Option<Arc<Upstream>>), RpcError> {
        let likely_permanent = async {
            self.settle(ListKind::Resources).await;
            self.settle(ListKind::Templates).await;
            Ok(())
        };
        let Some(()) = unless_cancelled(entry, likely_permanent).await? else {
            return Ok((RequestReply::Cancelled, None));
        };
        let catalog = self.catalog();
        let candidates: Vec<_> = catalog.view(&self.client.scope).resource(uri).into_iter().cloned().collect();
        let mut last = Err(self.unknown(&catalog, ListKind::Resources, uri));
        for upstream in &candidates {
            let relay = Relay::new(self, call, upstream, Vec::new(), true)?.about(uri);
            let relay = if candidates.len() == 1 { relay } else { relay.impatient() };
            let reply = relay.run(entry).await;
            if reply.as_ref().is_ok_and(|reply| succeeded(reply) || matches!(reply, RequestReply::Cancelled)) {
                return reply.map(|reply| (reply, Some(Arc::clone(upstream))));
            }
            last = reply.map(|reply| (reply, None));
        }
        last
    }
}

/// Tells a backend without sessions what is subscribed to now.
async fn resubscribe(upstream: &Upstream) {
    if upstream.session().is_some_and(|session| session.dialect == Dialect::Stateless) {
        upstream.resubscribe().await;
    }
}

/// Whether a backend did what it was asked.
fn succeeded(reply: &RequestReply) -> bool {
    match reply {
        RequestReply::Result(_) => true,
        RequestReply::Response(text) => {
            matches!(Envelope::parse_trusted(text), Ok(Envelope::Response { error: None, .. }))
        }
        RequestReply::Cancelled => false,
    }
}

/// Has a client be told when this resource changes. What nobody has is not an error: it may come.
pub(crate) async fn subscribe(gateway: &super::dispatch::Gateway, client: &Client, uri: &str) {
    if uri.starts_with(SCHEME) && client.scope.is_all() && client.scope.filter.own_tools() {
        if tells(uri) {
            client.subscribe(&news::server_key(), uri);
        }
        return;
    }
    let catalog = gateway.catalog(client.session_kind());
    let Some(upstream) = catalog.view(&client.scope).resource(uri).into_iter().next().cloned() else { return };
    client.subscribe(&upstream.server_key, uri);
    let Some(session) = upstream.session() else { return };
    if let Err(broken) = upstream.subscribe(&session, uri).await {
        tracing::debug!(server = %upstream, why = %broken.into_problem().detail, "no subscription");
    }
}

/// Tells a client's notification to all servers that it sees.
pub(crate) async fn notify_all(gateway: &super::dispatch::Gateway, client: &Client, text: &str) {
    let catalog = gateway.catalog(client.session_kind());
    let upstreams: Vec<_> = catalog.view(&client.scope).backends().cloned().collect();
    for upstream in upstreams {
        let Some(session) = upstream.session() else { continue };
        if !matches!(timeout(TASK_NOTIFICATION, upstream.notify(&session, text.to_owned())).await, Ok(Ok(()))) {
            tracing::debug!(server = %upstream, "it was not told");
        }
    }
}

/// Ends the subscriptions that nobody but this client had.
pub(crate) async fn release(gateway: &super::dispatch::Gateway, client: &Client) {
    for (server_key, uri) in client.subscriptions() {
        client.unsubscribe(&server_key, &uri);
        if let Some(upstream) = gateway.unwanted(&server_key, &uri) {
            forget(&upstream, &server_key, &uri).await;
        }
    }
}

async fn forget(upstream: &Upstream, server_key: &ServerKey, uri: &str) {
    let Some(session) = upstream.session() else { return };
    if !matches!(timeout(TASK_NOTIFICATION, upstream.unsubscribe(&session, uri)).await, Ok(Ok(()))) {
        tracing::debug!(?server_key, "a subscription was not ended");
    }
}
