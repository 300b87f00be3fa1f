//! (docs)

use crate::gateway::mcp::buffers::BufferPermit;
use crate::gateway::mcp::protocol::envelope::{Envelope, is_id};
use crate::gateway::mcp::protocol::errors::RpcError;
use crate::gateway::mcp::protocol::json::{Object, Span};
use std::borrow::Cow;

/// A client's request: its text and where its parts stand.
#[derive(Debug)]
pub(crate) struct ClientRequest {
    /// The whole message.
    pub(crate) text: String,
    /// Its id.
    pub(crate) id: Span,
    /// Its method.
    pub(crate) method: String,
    /// Its params.
    pub(crate) params: Option<Span>,
    /// Its part of the memory for messages, for as long as it is under way; none if the hub wrote it.
    pub(crate) _held: Option<BufferPermit>,
}

impl ClientRequest {
    /// The request that is written so.
    pub(crate) fn read(text: String) -> Result<Self, RpcError> {
        match Envelope::parse_trusted(&text) {
            Ok(Envelope::Request { id, method, params }) => Ok(Self { text, id, method, params, _held: None }),
            Ok(Envelope::Notification { .. } | Envelope::Response { .. }) => {
                Err(RpcError::invalid_request("not a request"))
            }
            Err(error) => Err(RpcError::from(&error)),
        }
    }

    /// The id as JSON.
    pub(crate) fn id(&self) -> &str {
        self.id.of(&self.text)
    }

    /// The members of the params; none if there are no params.
    pub(crate) fn params(&self) -> Result<Option<Object<'_>>, RpcError> {
        let read = |at| Object::parse(&self.text, at).map_err(|error| RpcError::invalid_params(error.to_string()));
        self.params.map(read).transpose()
    }

    /// A param that must be a string: where it stands, and what it says.
    pub(crate) fn string(&self, key: &str) -> Result<(Span, String), RpcError> {
        let wrong = || RpcError::invalid_params(format!("params.{key} must be a string"));
        let at = self.params()?.and_then(|params| params.get(key)).ok_or_else(wrong)?;
        Ok((at, at.string(&self.text).ok_or_else(wrong)?))
    }

    /// The progress token, if the client wants to hear of progress.
    pub(super) fn progress_token(&self) -> Result<Option<Span>, RpcError> {
        let Some(params) = self.params()? else { return Ok(None) };
        let meta = params.object(&self.text, "_meta").map_err(|error| RpcError::invalid_params(error.to_string()))?;
        match meta.and_then(|meta| meta.get("progressToken")) {
            Some(at) if !is_id(at.of(&self.text)) => Err(RpcError::invalid_params(
                "params._meta.progressToken is neither a string nor a number, or longer than 1024 bytes",
            )),
            token => Ok(token),
        }
    }
}

/// What a request comes to.
#[derive(Debug)]
pub(crate) enum RequestReply {
    /// The hub's own result, as JSON.
    Result(String),
    /// A backend's response, with the client's id.
    Response(String),
    /// Nothing: the client cancelled it.
    Cancelled,
}

impl RequestReply {
    pub(crate) fn nothing() -> Self {
        Self::Result(String::from("{}"))
    }
}

/// Parts of a message and what to write in their places.
pub(crate) type ParamEdits<'a> = Vec<(Span, Cow<'a, str>)>;
