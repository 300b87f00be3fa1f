//! The HTTP headers of a message to a server: its session, or what a request of 2026-07-28 is about.

use super::session::UpstreamSession;
use crate::gateway::mcp::protocol::{headers, stateless};
use http::header::{HeaderMap, HeaderValue};
use linchpin_shared::protocol::mcp;

/// What a message says of itself in its headers.
#[derive(Debug, Clone, Copy)]
pub(crate) enum RequestHeaders<'a> {
    /// Nothing yet.
    Nothing,
    /// That it belongs to this session.
    Session(&'a UpstreamSession),
    /// What it is about, as 2026-07-28 has it. The session is of interest only to an instance with a server on stdio.
    Stateless(&'a UpstreamSession, &'a RoutingHeaders),
    /// The same when there is no session yet.
    Opening(&'a RoutingHeaders),
}

/// What a request of 2026-07-28 is about.
#[derive(Debug)]
pub(crate) struct RoutingHeaders {
    method: Option<HeaderValue>,
    name: Option<HeaderValue>,
    params: HeaderMap,
}

impl RoutingHeaders {
    /// A request of this method about this name or URI.
    pub(crate) fn of(method: &str, name: Option<&str>) -> Self {
        let value = |text: &str| HeaderValue::from_str(&headers::encoded(text)).ok();
        Self { method: value(method), name: name.and_then(value), params: HeaderMap::new() }
    }

    /// The same with the headers that repeat arguments.
    pub(crate) fn with(self, params: &HeaderMap) -> Self {
        Self { params: params.clone(), ..self }
    }

    pub(crate) fn write(&self, to: &mut HeaderMap) {
        to.insert(mcp::VERSION, HeaderValue::from_static(stateless::VERSION));
        for (name, value) in [(headers::METHOD, &self.method), (headers::NAME, &self.name)] {
            if let Some(value) = value {
                to.insert(name, value.clone());
            }
        }
        to.extend(self.params.clone());
    }
}
