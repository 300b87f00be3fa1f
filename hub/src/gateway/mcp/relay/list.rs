//! The merged lists.
//!
//! Owns `tools/list` and its three siblings. Invariant: what is listed is what the board shows, whole, in one page; a
//! client that was given a list is told only of what changes after it.
//! Never: waits for a server that is known to be down.

use super::call::{ClientRequest, RequestReply};
use super::dispatch::RequestHandler;
use super::route::refresh;
use crate::gateway::mcp::protocol::errors::RpcError;
use crate::gateway::mcp::protocol::list_kind::ListKind;
use crate::gateway::mcp::session::store::fingerprints;
use crate::gateway::mcp::upstream::Upstream;
use std::sync::Arc;

impl RequestHandler {
    /// One of the lists.
    pub(crate) async fn list(&self, call: &ClientRequest, kind: ListKind) -> Result<RequestReply, RpcError> {
        let cursor = call.params()?.and_then(|params| params.get("cursor")).map(|at| at.of(&call.text));
        if cursor.is_some_and(|cursor| cursor != "null") {
            return Err(RpcError::invalid_params("params.cursor is none of ours: lists are given whole"));
        }
        let scope = &self.client.scope;
        if self.catalog().view(scope).searches(kind) {
            return Ok(self.listed(kind));
        }
        self.settle(kind).await;
        let silent: Vec<_> = self.catalog().view(scope).backends().filter(|it| is_silent(it, kind)).cloned().collect();
        refresh(&silent, kind).await;

        Ok(self.listed(kind))
    }

    /// What is known now.
    fn listed(&self, kind: ListKind) -> RequestReply {
        let (catalog, scope) = (self.gateway.fresh_catalog(self.client.session_kind()), &self.client.scope);
        let view = catalog.view(scope);
        self.client.fetched(kind.topic(), fingerprints(&view));
        // It may have changed meanwhile, and the client been told before it was given this one.
        self.client.lists_are(fingerprints(&self.gateway.fresh_catalog(self.client.session_kind()).view(scope)));
        RequestReply::Result(format!(r#"{{"{}":{}}}"#, kind.member(), view.list(kind)))
    }
}

/// Whether a server would not tell that this list changed, so that it has to be asked.
fn is_silent(upstream: &Arc<Upstream>, kind: ListKind) -> bool {
    upstream.session().is_some_and(|session| session.about.offers(kind.capability()) && !session.about.announces(kind))
}
