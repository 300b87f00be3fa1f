//! An older client in front of a backend that speaks 2026-07-28 only.
//!
//! Owns what such a backend does otherwise: it does not ask while it works, but answers `input_required`. The client is
//! asked as it expects to be, and the request is sent again with its answers and with the backend's `requestState`, which
//! is not looked at. What the client subscribes to is told the backend in one stream.
//! Invariant: only the client of this call is asked, only what it can do, and not for ever.
//! Never: answers in a client's place.

use super::call::RequestReply;
use super::forward::Relay;
use crate::gateway::mcp::protocol::envelope::Envelope;
use crate::gateway::mcp::protocol::errors::RpcError;
use crate::gateway::mcp::protocol::json::{Object, Span, quote};
use crate::gateway::mcp::upstream::ask;
use crate::gateway::mcp::upstream::http_client::read;
use crate::gateway::mcp::upstream::session::{Dialect, UpstreamSession};
use futures_util::future::join_all;
use linchpin_shared::problem::{Code, Problem};
use std::time::Duration;

/// A backend that still wants more is going in circles.
const MAX_ROUNDS: u32 = 16;

/// A backend that wants nothing but to be asked again is given this long, and double each time.
const PAUSE: Duration = Duration::from_millis(50);

/// What a backend wants before it goes on.
pub(crate) struct InputRequired {
    /// By its own keys: requests, as JSON.
    requests: Vec<(String, String)>,
    /// As JSON.
    state: Option<String>,
}

impl Relay<'_> {
    /// What the backend wants to know of an older client; none if it has answered.
    pub(crate) fn wants(&self, session: &UpstreamSession, response: &str) -> Option<InputRequired> {
        if !self.is_bridged(session) || !response.contains("input_required") {
            return None;
        }
        let Ok(Envelope::Response { result: Some(at), .. }) = Envelope::parse_trusted(response) else { return None };
        let result = Object::parse(response, at).ok()?;
        if result.get("resultType")?.string(response)? != "input_required" {
            return None;
        }
        let requests = result.object(response, "inputRequests").ok()?;
        let requests = requests.iter().flat_map(|requests| requests.members());
        let requests = requests.map(|(key, at)| (key.to_owned(), at.of(response).to_owned())).collect();
        Some(InputRequired { requests, state: result.get("requestState").map(|at| at.of(response).to_owned()) })
    }

    /// Asks the client, and gives its answers as members of the params of the next request.
    pub(crate) async fn input(
        &self,
        session: &UpstreamSession,
        wants: InputRequired,
        round: u32,
    ) -> Result<String, RpcError> {
        if round > MAX_ROUNDS {
            return Err(self.stuck(&format!("it still wants to know more after {MAX_ROUNDS} rounds")));
        }
        if wants.requests.is_empty() {
            tokio::time::sleep(PAUSE * 2_u32.pow(round.min(5))).await;
        }
        let answers = join_all(wants.requests.iter().map(|(key, request)| self.put(session, key, request))).await;
        let mut responses = Vec::new();
        for ((key, _), answer) in wants.requests.iter().zip(answers) {
            responses.push(format!("{}:{}", quote(key), answer?));
        }
        let mut members = Vec::new();
        if !responses.is_empty() {
            members.push(format!(r#""inputResponses":{{{}}}"#, responses.join(",")));
        }
        members.extend(wants.state.map(|state| format!(r#""requestState":{state}"#)));
        Ok(members.join(","))
    }

    /// Puts one request to the client and gives its result.
    async fn put(&self, session: &UpstreamSession, key: &str, request: &str) -> Result<String, RpcError> {
        let unreadable = || self.stuck(&format!("what it wants to know is no request: {request}"));
        let asked = Object::parse(request, Span::whole(request)).map_err(|_| unreadable())?;
        let method = asked.get("method").ok_or_else(unreadable)?;
        let params = asked.get("params").map_or("{}", |at| at.of(request));
        let text =
            format!(r#"{{"jsonrpc":"2.0","id":{},"method":{},"params":{params}}}"#, quote(key), method.of(request));
        let cause = self.cause(self.upstream.next_id());
        let response = ask::put(self.upstream, session, &text, cause).await.ok_or_else(unreadable)?;
        match read(response.as_bytes()) {
            Some((text, Envelope::Response { result: Some(result), .. })) => Ok(result.of(text).to_owned()),
            Some((text, Envelope::Response { error: Some(error), .. })) => {
                let said = Object::parse(text, error).ok().and_then(|error| error.get("message")?.string(text));
                let said = said.unwrap_or_else(|| String::from("no reason given"));
                Err(self.stuck(&format!("{} was answered with an error: {said}", method.of(request))))
            }
            Some(_) | None => Err(unreadable()),
        }
    }

    fn stuck(&self, why: &str) -> RpcError {
        let detail = format!("{} wants to ask before it goes on: {why}", self.upstream);
        RpcError::on_the_way(
            Problem::new(Code::BadRequest, detail)
                .seen("instance", &*self.upstream.server_key.instance)
                .next("use a client that can be asked this, or call the tool so that it does not need to ask"),
        )
    }

    /// What an older client is told that subscribes, which the backend hears of in another way.
    pub(crate) fn is_subscription(&self, session: &UpstreamSession) -> Option<Result<RequestReply, RpcError>> {
        let method = self.call.method.as_str();
        if session.dialect != Dialect::Stateless || !matches!(method, "resources/subscribe" | "resources/unsubscribe") {
            return None;
        }
        if !session.about.subscribes() {
            let why = format!("{} does not tell when resources change", self.upstream);
            return Some(Err(RpcError::method_not_found(method).because(&why)));
        }
        Some(Ok(RequestReply::nothing()))
    }
}
