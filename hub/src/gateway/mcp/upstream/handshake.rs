//! How a session begins: what a server speaks is found out by asking it.
//!
//! Owns [`begin`]. First comes `initialize`, as 2025-11-25 has it, because there are older servers that end when anything
//! else comes first; a server that takes it is then asked for `server/discover`, in case that it speaks 2026-07-28 too.
//! One that refuses it is asked for `server/discover` alone. Of a server that spoke 2026-07-28 only the last time, the
//! order is the reverse; and of one that ended when it was asked, the next life is asked the other thing first.
//! Invariant: a server is asked each of the two at most once in an attempt. Never: takes silence for an answer.

use super::about::ServerInfo;
use super::http_client::{ResponseMessages, SendError, read};
use super::request_headers::{RequestHeaders, RoutingHeaders};
use super::session::{Dialect, UpstreamSession, stateless_request, stateless_version};
use super::{Upstream, server_error};
use crate::gateway::mcp::protocol::capabilities::SessionKind;
use crate::gateway::mcp::protocol::envelope::Envelope;
use crate::gateway::mcp::protocol::json::{Object, Span, Unreadable, elements};
use crate::gateway::mcp::protocol::stateless::VERSION;
use crate::gateway::mcp::protocol::version::Version;
use http::header::HeaderValue;
use linchpin_shared::problem::{Code, Problem};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// How long an instance may hold the first message back for a server that is starting. Its vitals tell when it is up, so
/// this only has to cover the moment between the two.
const WAIT_FOR_START: Duration = Duration::from_secs(5);

/// How long a server may take to answer `initialize`: one that is installed at its first start takes its time.
const INITIALIZE: Duration = Duration::from_secs(60);

/// How long a server may take to say that it speaks 2026-07-28 too, once it was initialized.
const DISCOVER: Duration = Duration::from_secs(1);

/// How long it may take if nothing else is known of it. An older server may be silent.
const DISCOVER_FIRST: Duration = Duration::from_secs(10);

/// With what a session is begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Handshake {
    /// `initialize`.
    Initialize,
    /// `server/discover`.
    Discover,
}

impl Handshake {
    /// What suits a server that said this of itself.
    pub(super) fn of(about: Option<&ServerInfo>) -> Self {
        if about.is_some_and(|about| about.version() == VERSION) { Self::Discover } else { Self::Initialize }
    }

    /// The other one.
    pub(super) const fn other(self) -> Self {
        match self {
            Self::Initialize => Self::Discover,
            Self::Discover => Self::Initialize,
        }
    }
}

/// Why there is no session.
#[derive(Debug)]
pub(super) struct HandshakeError {
    /// What to tell.
    pub(super) why: SendError,
    /// What its next life should be asked first, if the server ended when it was asked.
    pub(super) next: Option<Handshake>,
}

/// Why one question did not begin a session.
enum AttemptError {
    /// The server ended before it answered.
    Ended(Problem),
    /// It answered that it does not.
    Refused(Problem),
    /// It was not asked, or how it answered is not known.
    SendError(SendError),
}

impl From<SendError> for AttemptError {
    fn from(broken: SendError) -> Self {
        match broken {
            SendError::Refused(problem) => Self::Refused(problem),
            broken @ (SendError::NotExecuted(_) | SendError::SessionLost(_) | SendError::Interrupted(_)) => {
                Self::SendError(broken)
            }
        }
    }
}

/// Begins a session.
pub(super) async fn begin(
    upstream: &Upstream,
    number: u64,
    first: Handshake,
) -> Result<UpstreamSession, HandshakeError> {
    let refused = match open(upstream, number, first).await {
        Ok(session) => return Ok(session),
        Err(AttemptError::Refused(problem)) => problem,
        Err(AttemptError::Ended(problem)) => {
            return Err(HandshakeError { why: SendError::Interrupted(problem), next: Some(first.other()) });
        }
        Err(AttemptError::SendError(why)) => return Err(HandshakeError { why, next: None }),
    };
    let next = match open(upstream, number, first.other()).await {
        Ok(session) => return Ok(session),
        // It refused the first and ended of it, or it ended of the second: the second has not been asked first yet.
        Err(AttemptError::Ended(_)) => Some(first.other()),
        Err(AttemptError::Refused(_) | AttemptError::SendError(_)) => None,
    };
    // What it said first is about what it is.
    Err(HandshakeError { why: SendError::Refused(refused), next })
}

async fn open(upstream: &Upstream, number: u64, with: Handshake) -> Result<UpstreamSession, AttemptError> {
    let (limit, what) = match with {
        Handshake::Initialize => (INITIALIZE, "initialize"),
        Handshake::Discover => (DISCOVER_FIRST, "server/discover"),
    };
    let opened = async {
        match with {
            Handshake::Initialize => initialize(upstream, number).await,
            Handshake::Discover => discover(upstream, number).await,
        }
    };
    timeout(limit, opened).await.unwrap_or_else(|_elapsed| {
        let detail = format!("{upstream} did not answer {what} within {} s", limit.as_secs());
        Err(AttemptError::Refused(Problem::new(Code::TimedOut, detail)))
    })
}

async fn initialize(upstream: &Upstream, number: u64) -> Result<UpstreamSession, AttemptError> {
    let capabilities = upstream.server_key.session_kind.capabilities();
    let message = format!(
        r#"{{"jsonrpc":"2.0","id":{},"method":"initialize","params":{{"protocolVersion":"{}","capabilities":{},"clientInfo":{{"name":"linchpin","version":"{}"}}}}}}"#,
        upstream.next_id(),
        Version::LATEST.as_str(),
        capabilities.json(),
        env!("CARGO_PKG_VERSION"),
    );
    let (id, answering) = upstream.wire.open(RequestHeaders::Nothing, message, WAIT_FOR_START).await?;
    let result = result(upstream, answering).await?;
    let about = about(upstream, "initialize", ServerInfo::parse(&result))?;
    if Version::parse(about.version()).is_none() {
        return Err(refused(format!("{upstream} speaks MCP {:?}, which we do not", about.version())));
    }
    let version = HeaderValue::from_str(about.version()).map_err(|why| refused(why.to_string()))?;
    let mut session =
        UpstreamSession { number, about: Arc::new(about), dialect: Dialect::SessionBased, capabilities, id, version };
    upstream.notify(&session, r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#.to_owned()).await?;
    if let Some(said) = discovered(upstream, &session).await {
        let about = ServerInfo::clone(&session.about).with_discovered(&said);
        session = UpstreamSession { about: Arc::new(about), dialect: Dialect::Both, ..session };
    }
    Ok(session)
}

async fn discover(upstream: &Upstream, number: u64) -> Result<UpstreamSession, AttemptError> {
    let capabilities = upstream.server_key.session_kind.capabilities();
    let message = stateless_request(upstream.next_id(), "server/discover", "{}", capabilities);
    let routing = RoutingHeaders::of("server/discover", None);
    let (id, answering) = upstream.wire.open(RequestHeaders::Opening(&routing), message, WAIT_FOR_START).await?;
    let result = result(upstream, answering).await?;
    if !lists_stateless(&result) {
        return Err(refused(format!("{upstream} does not list {VERSION} among the versions that it speaks")));
    }
    let about = about(upstream, "server/discover", ServerInfo::of_discovered(&result))?;
    // Only an instance with a server on stdio has something to name its life by.
    let id = id.filter(|_| upstream.server_key.session_kind == SessionKind::Shared);
    Ok(UpstreamSession {
        number,
        about: Arc::new(about),
        dialect: Dialect::Stateless,
        capabilities,
        id,
        version: stateless_version(),
    })
}

/// What a server that was initialized says to `server/discover`, if it speaks 2026-07-28 too. Whatever else it answers, or
/// silence, means that it does not.
async fn discovered(upstream: &Upstream, session: &UpstreamSession) -> Option<String> {
    let message = stateless_request(upstream.next_id(), "server/discover", "{}", session.capabilities);
    let routing = RoutingHeaders::of("server/discover", None);
    let asked = async {
        let answering = upstream.call(RequestHeaders::Stateless(session, &routing), message).await.ok()?;
        result(upstream, answering).await.ok().filter(|result| lists_stateless(result))
    };
    timeout(DISCOVER, asked).await.ok().flatten()
}

fn lists_stateless(result: &str) -> bool {
    let versions = || {
        let at = Object::parse(result, Span::whole(result)).ok()?.get("supportedVersions")?;
        elements(result, at)
    };
    versions().into_iter().flatten().any(|at| at.string(result).as_deref() == Some(VERSION))
}

/// The result that a server answers with.
async fn result(upstream: &Upstream, mut answering: ResponseMessages) -> Result<String, AttemptError> {
    loop {
        let Some(message) = answering.next().await? else {
            return Err(answering.interrupted("there was no response").into());
        };
        match read(&message) {
            Some((text, Envelope::Response { result: Some(result), .. })) => return Ok(result.of(text).to_owned()),
            Some((text, Envelope::Response { error, .. })) => {
                return Err(match ended(text, error) {
                    Some(problem) => AttemptError::Ended(problem),
                    None => AttemptError::Refused(server_error(upstream, text, error)),
                });
            }
            Some((_, Envelope::Notification { .. } | Envelope::Request { .. })) | None => {}
        }
    }
}

/// The problem by which an instance says that its server ended before it answered.
pub(crate) fn ended(text: &str, error: Option<Span>) -> Option<Problem> {
    let data = Object::parse(text, error?).ok()?.get("data")?;
    let problem: Problem = serde_json::from_str(data.of(text)).ok()?;
    (problem.code == Code::CallInterrupted).then_some(problem)
}

fn about(upstream: &Upstream, what: &str, read: Result<ServerInfo, Unreadable>) -> Result<ServerInfo, AttemptError> {
    read.map_err(|why| refused(format!("{upstream} answered {what} with what is no result: {why}")))
}

fn refused(detail: String) -> AttemptError {
    AttemptError::Refused(Problem::new(Code::ServerUnavailable, detail))
}
