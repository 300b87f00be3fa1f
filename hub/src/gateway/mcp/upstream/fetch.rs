//! Fetching a list from a server, all pages of it.
//!
//! Owns the loop over cursors and its bounds. Invariant: a list is taken whole or not at all.
//! Never: takes an error for an empty list.

use super::Upstream;
use super::http_client::SendError;
use super::session::UpstreamSession;
use crate::gateway::mcp::catalog::list::{List, ListDraft};
use crate::gateway::mcp::protocol::capabilities::SessionKind;
use crate::gateway::mcp::protocol::json::quote;
use crate::gateway::mcp::protocol::list_kind::ListKind;
use linchpin_shared::problem::{Code, Problem};
use std::collections::HashSet;
use std::time::Duration;

/// How long one page may take; servers list from memory.
const PAGE: Duration = Duration::from_secs(30);

/// A server that hands out more pages does not come to an end.
const MAX_PAGES: usize = 1000;

/// Fetches a list.
pub(super) async fn fetch(
    upstream: &Upstream,
    session: &UpstreamSession,
    kind: ListKind,
    max_bytes: usize,
) -> Result<List, SendError> {
    if !session.about.offers(kind.capability()) {
        return Ok(List::empty());
    }
    let mut draft = ListDraft::new(kind);
    let mut params = String::from("{}");
    let mut cursors = HashSet::new();
    for _ in 0..MAX_PAGES {
        let asked = upstream.ask(session, kind.method(), &params);
        let Ok(page) = tokio::time::timeout(PAGE, asked).await else {
            return Err(refused(upstream, kind, &format!("no answer within {} s", PAGE.as_secs())));
        };
        let next = draft.page(&page?).map_err(|error| refused(upstream, kind, &error.to_string()))?;
        // As a client over HTTP of this version has to.
        if session.speaks_modern() && upstream.server_key.session_kind != SessionKind::Shared {
            for (tool, why) in draft.leave_out_invalid() {
                tracing::warn!(server = %upstream, %tool, %why, "a tool is left out: its definition is invalid");
            }
        }
        if draft.bytes() > max_bytes {
            return Err(refused(upstream, kind, &format!("more than {max_bytes} bytes")));
        }
        let Some(cursor) = next else { return Ok(draft.finish()) };
        if !cursors.insert(cursor.clone()) {
            return Err(refused(upstream, kind, "its cursors go in a circle"));
        }
        params = format!(r#"{{"cursor":{}}}"#, quote(&cursor));
    }
    Err(refused(upstream, kind, "it has no last page"))
}

fn refused(upstream: &Upstream, kind: ListKind, why: &str) -> SendError {
    SendError::Refused(Problem::new(Code::ServerUnavailable, format!("{} of {upstream} failed: {why}", kind.method())))
}
