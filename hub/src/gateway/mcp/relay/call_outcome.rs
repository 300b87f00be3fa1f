//! The outcome of a tool call, for the metrics.

use super::call::RequestReply;
use crate::gateway::mcp::metrics::{CallMetrics, CallOutcome};
use crate::gateway::mcp::protocol::envelope::Envelope;
use crate::gateway::mcp::protocol::errors::RpcError;
use crate::gateway::mcp::protocol::json::{Object, Span};
use linchpin_shared::problem::Code;
use memchr::memmem;
use serde::Deserialize;
use std::sync::Arc;
use tokio::time::Instant;

/// A tool call that is under way. It is counted as cancelled if it is dropped before [`CallInProgress::finish`], because
/// a client without a session cancels a call by going away.
pub(super) struct CallInProgress {
    metrics: CallMetrics,
    instance: Arc<str>,
    server: Arc<str>,
    started: Instant,
    outcome: CallOutcome,
}

impl CallInProgress {
    pub(super) fn new(metrics: &CallMetrics, instance: &Arc<str>, server: &Arc<str>) -> Self {
        Self {
            metrics: metrics.clone(),
            instance: Arc::clone(instance),
            server: Arc::clone(server),
            started: Instant::now(),
            outcome: CallOutcome::Cancelled,
        }
    }

    pub(super) fn finish(mut self, reply: &Result<RequestReply, RpcError>) {
        self.outcome = outcome_of(reply);
    }
}

impl Drop for CallInProgress {
    fn drop(&mut self) {
        self.metrics.observe(&self.instance, &self.server, self.outcome, self.started.elapsed());
    }
}

fn outcome_of(reply: &Result<RequestReply, RpcError>) -> CallOutcome {
    match reply {
        Ok(RequestReply::Result(_)) => CallOutcome::Ok,
        Ok(RequestReply::Response(text)) => outcome_of_response(text),
        Ok(RequestReply::Cancelled) => CallOutcome::Cancelled,
        Err(error) if !error.is_on_the_way() => CallOutcome::Error,
        Err(error) => outcome_of_failure(error.problem_code()),
    }
}

/// The outcome of a call that failed on the way to its server.
fn outcome_of_failure(code: Code) -> CallOutcome {
    if code == Code::CallInterrupted { CallOutcome::Interrupted } else { CallOutcome::Unavailable }
}

fn outcome_of_response(text: &str) -> CallOutcome {
    // The end of the keys "error" and "isError". Most results contain neither, and a large result is not parsed for it.
    if memmem::find(text.as_bytes(), b"rror\"").is_none() {
        return CallOutcome::Ok;
    }
    match Envelope::parse_trusted(text) {
        Ok(Envelope::Response { error: Some(error), .. }) => outcome_of_error(error.of(text)),
        Ok(Envelope::Response { result: Some(result), .. }) if is_tool_error(text, result) => CallOutcome::ToolError,
        Ok(Envelope::Response { .. } | Envelope::Request { .. } | Envelope::Notification { .. }) | Err(_) => {
            CallOutcome::Ok
        }
    }
}

/// The outcome of a JSON-RPC error. If its server is down, the instance answers with a problem in `data`.
fn outcome_of_error(error: &str) -> CallOutcome {
    #[derive(Deserialize)]
    struct Error {
        data: Data,
    }
    #[derive(Deserialize)]
    struct Data {
        code: Code,
    }
    match serde_json::from_str::<Error>(error) {
        Ok(Error { data: Data { code: code @ (Code::CallInterrupted | Code::ServerUnavailable) } }) => {
            outcome_of_failure(code)
        }
        Ok(_) | Err(_) => CallOutcome::Error,
    }
}

fn is_tool_error(text: &str, result: Span) -> bool {
    Object::parse(text, result).ok().and_then(|result| result.get("isError")).is_some_and(|at| at.of(text) == "true")
}

#[cfg(test)]
mod tests {
    use super::*;
    use linchpin_shared::problem::Problem;

    fn response(text: &str) -> CallOutcome {
        outcome_of(&Ok(RequestReply::Response(text.to_owned())))
    }

    #[test]
    fn a_response_is_a_result_a_tool_error_or_an_error() {
        let result = |members: &str| response(&format!(r#"{{"jsonrpc":"2.0","id":1,"result":{{{members}}}}}"#));
        assert_eq!(result(r#""content":[]"#), CallOutcome::Ok);
        assert_eq!(result(r#""content":[],"isError":false"#), CallOutcome::Ok);
        assert_eq!(result(r#""content":[{"type":"text","text":"\"isError\":true"}]"#), CallOutcome::Ok);
        assert_eq!(result(r#""structuredContent":{"error":1,"isError":true}"#), CallOutcome::Ok);
        assert_eq!(result(r#""isError" : true,"content":[]"#), CallOutcome::ToolError);
        let error = |members: &str| response(&format!(r#"{{"jsonrpc":"2.0","id":1,"error":{{{members}}}}}"#));
        assert_eq!(error(r#""code":-32603,"message":"x""#), CallOutcome::Error);
        assert_eq!(error(r#""code":-32000,"message":"x","data":{"code":"bad_request"}"#), CallOutcome::Error);
        assert_eq!(
            error(r#""code":-32000,"message":"x","data":{"code":"call_interrupted"}"#),
            CallOutcome::Interrupted
        );
        assert_eq!(
            error(r#""code":-32000,"message":"x","data":{"code":"server_unavailable"}"#),
            CallOutcome::Unavailable
        );
    }

    #[test]
    fn a_call_without_a_response_is_interrupted_unavailable_or_invalid() {
        let failed = |code| outcome_of(&Err(RpcError::on_the_way(Problem::new(code, "x"))));
        assert_eq!(failed(Code::CallInterrupted), CallOutcome::Interrupted);
        assert_eq!(failed(Code::InstanceUnavailable), CallOutcome::Unavailable);
        assert_eq!(failed(Code::CommandNotFound), CallOutcome::Unavailable);
        assert_eq!(outcome_of(&Err(RpcError::invalid_params("x"))), CallOutcome::Error);
        assert_eq!(outcome_of(&Ok(RequestReply::Cancelled)), CallOutcome::Cancelled);
    }
}
