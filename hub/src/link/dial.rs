//! Connecting to an instance: TCP, HTTP/2, and the hello that proves the identity of the peer.
//!
//! Each step has its own deadline, and nothing is tried twice. A TCP connection or an HTTP/2 handshake proves nothing:
//! both succeed against a process that hangs and against an unrelated program. Therefore a [`LinkConnection`] to one of
//! our own instances exists only after the peer proved that it knows the secret of the record, for the generation and
//! the endpoint of the record, and after the hub proved the same to the peer. Before that, only the hello is sent.
//!
//! A foreign program proves only that it answers HTTP/1.1. Its lease shows that it is the program of the record.

use super::activity::{ActivityTracked, LastRead};
use super::body::Body;
use super::classify;
use super::error::SendError;
use super::failure::{Failure, FailureKind, FailurePhase};
use super::http1::Http1Pool;
use super::metrics::LinkMeter;
use super::request_sender::{BufferedResponse, RequestSender};
use super::tcp::{self, DialLimits};
use http::StatusCode;
use http::uri::Authority;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use linchpin_shared::protocol::hello::{self, Exchange, Hello, Proof, Role, Welcome};
use linchpin_shared::protocol::{FORMAT, path};
use linchpin_shared::registry::record::{Protocol, Record};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

/// When a request fails together with its connection, the connection reports the cause, and it does so at once: this
/// time is for the scheduler. Without a bound, a request that fails alone would make the dial wait for a healthy
/// connection to end.
const CAUSE_WAIT: Duration = Duration::from_millis(100);

/// How much of one response may wait to be read. With a round trip of some 50 µs on loopback this limits no throughput.
const STREAM_WINDOW: u32 = 256 << 10;

/// The largest window of HTTP/2 (RFC 9113, section 6.9.1).
const MAX_WINDOW: u32 = i32::MAX as u32;

/// `hyper` sends the PINGs, but the machine judges their answers, because it knows how good the link is, whether the hub
/// itself was away, and whether other bytes arrived. So the timeout of `hyper` is longer than any of the machine.
const NO_PING_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

type HyperConnection<IO = TcpStream> = http2::Connection<TokioIo<ActivityTracked<IO>>, Body, TokioExecutor>;

/// A verified connection. When it is dropped, open streams may finish, and new ones fail.
#[derive(Debug)]
pub(super) struct LinkConnection {
    /// `None` for a foreign program, whose connections come and go.
    connection: Option<(HyperConnection, LastRead)>,
    sender: RequestSender,
    /// How long the hello took.
    pub(super) round_trip: Duration,
}

impl LinkConnection {
    pub(super) const fn sender(&self) -> &RequestSender {
        &self.sender
    }

    /// Drives the connection until it ends, and returns the cause.
    pub(super) async fn closed(&mut self) -> Failure {
        match &mut self.connection {
            Some((connection, _)) => end_of(connection, FailurePhase::Serve).await,
            None => std::future::pending().await,
        }
    }

    /// The time of the last read, where it can be observed.
    pub(super) fn last_read(&self) -> Option<LastRead> {
        self.connection.as_ref().map(|(_, last_read)| last_read.clone())
    }
}

/// Connects to the instance of this record.
pub(super) async fn dial(
    record: &Record,
    limits: &DialLimits,
    meter: &Arc<LinkMeter>,
) -> Result<LinkConnection, Failure> {
    let started = Instant::now();
    let connection = match record.protocol {
        Protocol::H2c => connect(record, limits, meter).await,
        Protocol::Http1 => connect_foreign(record, limits, meter).await,
    };
    connection.map_err(|failure| failure.after(started.elapsed()))
}

fn bad_address(error: &(dyn std::error::Error + 'static)) -> Failure {
    Failure::new(FailureKind::Unreachable, FailurePhase::Dial).caused_by(error)
}

async fn connect_foreign(
    record: &Record,
    limits: &DialLimits,
    meter: &Arc<LinkMeter>,
) -> Result<LinkConnection, Failure> {
    let pool = Http1Pool::new(record, limits, meter).map_err(|problem| bad_address(&problem))?;
    let started = Instant::now();
    match timeout(limits.dial + limits.hello, pool.check_up()).await {
        Ok(Ok(())) => {
            let sender = RequestSender::http1(pool, &record.process);
            Ok(LinkConnection { connection: None, sender, round_trip: started.elapsed() })
        }
        Ok(Err(error)) => {
            let dial = error.failure().is_some_and(|failure| failure.phase == FailurePhase::Dial);
            Err(error.into_failure(if dial { FailurePhase::Dial } else { FailurePhase::Hello }))
        }
        Err(_elapsed) => Err(no_hello(limits.hello)),
    }
}

fn no_hello(within: Duration) -> Failure {
    let late = format!("connected, but the hello was not answered within {within:?}");
    Failure::new(FailureKind::HelloTimeout, FailurePhase::Hello).because(late)
}

async fn connect(record: &Record, limits: &DialLimits, meter: &LinkMeter) -> Result<LinkConnection, Failure> {
    let address = record.address().map_err(|problem| bad_address(&problem))?;
    let authority: Authority =
        address.to_string().parse().map_err(|error: http::uri::InvalidUri| bad_address(&error))?;
    let stream = tcp::open(address, limits, meter).await?;
    let last_read = LastRead::now();
    let (sender, mut connection) = handshake(ActivityTracked::new(stream, last_read.clone()), limits).await?;
    let sender = RequestSender::http2(sender, authority, &record.process);
    let round_trip = verify(&sender, &mut connection, record, limits.hello).await?;
    Ok(LinkConnection { connection: Some((connection, last_read)), sender, round_trip })
}

/// Performs the HTTP/2 handshake. The connection window is the sum of the windows of all streams, so that a caller who
/// does not read its response delays only itself.
pub(super) async fn handshake<IO>(
    stream: ActivityTracked<IO>,
    limits: &DialLimits,
) -> Result<(http2::SendRequest<Body>, HyperConnection<IO>), Failure>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let all_streams = u32::try_from(limits.streams).unwrap_or(MAX_WINDOW).saturating_mul(STREAM_WINDOW);
    http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(all_streams.min(MAX_WINDOW))
        .keep_alive_interval(limits.ping_interval)
        .keep_alive_timeout(NO_PING_TIMEOUT)
        .keep_alive_while_idle(true)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| classify::failure(&error, FailurePhase::Hello))
}

/// Exchanges the proofs on a connection that no other request uses yet. Returns how long the hello took.
async fn verify(
    sender: &RequestSender,
    connection: &mut HyperConnection,
    record: &Record,
    within: Duration,
) -> Result<Duration, Failure> {
    let result = tokio::select! {
        biased;
        failure = end_of(connection, FailurePhase::Hello) => return Err(failure),
        result = timeout(within, exchange_proofs(sender, record)) => result,
    };
    match result {
        Ok(Ok(round_trip)) => Ok(round_trip),
        Ok(Err(HelloError::Refused(failure))) => Err(failure),
        Ok(Err(HelloError::NoAnswer(failure))) => {
            let cause = timeout(CAUSE_WAIT, end_of(connection, FailurePhase::Hello)).await;
            Err(cause.unwrap_or(failure))
        }
        Err(_elapsed) => Err(no_hello(within)),
    }
}

enum HelloError {
    /// The peer answered, but it is not the expected instance or it refuses the hub.
    Refused(Failure),
    /// The peer did not answer. What a request observes of a broken connection is vague, so the failure of the connection
    /// is preferred if there is one.
    NoAnswer(Failure),
}

impl From<SendError> for HelloError {
    fn from(error: SendError) -> Self {
        Self::NoAnswer(error.into_failure(FailurePhase::Hello))
    }
}

fn refused(kind: FailureKind, why: impl Into<String>) -> HelloError {
    HelloError::Refused(Failure::new(kind, FailurePhase::Hello).because(why))
}

async fn exchange_proofs(sender: &RequestSender, record: &Record) -> Result<Duration, HelloError> {
    let hub_nonce = hello::random().map_err(|error| refused(FailureKind::Cancelled, error.to_string()))?;
    let hello = Hello { format: FORMAT, nonce: hub_nonce, version: env!("CARGO_PKG_VERSION").to_owned() };
    let started = Instant::now();
    let response = sender.post(path::HELLO, &hello).await?;
    let round_trip = started.elapsed();
    let welcome = read_welcome(&response)?;
    let exchange = Exchange {
        hub_nonce: &hello.nonce,
        instance_nonce: &welcome.nonce,
        id: record.id,
        generation: record.generation,
        endpoint: &record.endpoint,
    };
    if (welcome.id, welcome.generation) != (record.id, record.generation) {
        let other = format!("{} of generation {} answers at {}", welcome.id, welcome.generation, record.endpoint);
        return Err(refused(FailureKind::WrongIdentity, other));
    }
    if !exchange.verify(Role::Instance, &record.secret, &welcome.proof) {
        return Err(refused(FailureKind::WrongIdentity, "the peer does not know the secret of the record"));
    }
    let proof = Proof { proof: exchange.prove(Role::Hub, &record.secret) };
    let response = sender.post(path::PROVE, &proof).await?;
    match response.status {
        StatusCode::NO_CONTENT | StatusCode::OK => Ok(round_trip),
        _ => Err(refused_with(&response, "the hub's proof")),
    }
}

/// The error of a response whose status is not a success.
fn refused_with(response: &BufferedResponse, what: &str) -> HelloError {
    let why = format!("the peer answered {what} with {}", response.status);
    let failure = Failure::new(kind_of_status(response.status), FailurePhase::Hello).because(why);
    HelloError::Refused(failure.retry_after(response.retry_after()))
}

fn read_welcome(response: &BufferedResponse) -> Result<Welcome, HelloError> {
    if response.status != StatusCode::OK {
        return Err(refused_with(response, "the hello"));
    }
    let welcome: Welcome = serde_json::from_slice(&response.body)
        .map_err(|error| refused(FailureKind::Protocol, format!("the answer to the hello cannot be read: {error}")))?;
    if welcome.format != FORMAT {
        let formats = format!("the peer speaks format {}, the hub speaks format {FORMAT}", welcome.format);
        return Err(refused(FailureKind::VersionMismatch, formats));
    }
    Ok(welcome)
}

fn kind_of_status(status: StatusCode) -> FailureKind {
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => FailureKind::WrongIdentity,
        StatusCode::UPGRADE_REQUIRED => FailureKind::VersionMismatch,
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => FailureKind::Overloaded,
        _ => FailureKind::Protocol,
    }
}

/// Drives a connection until it ends. `Ok` of `hyper` means that the peer sent GOAWAY without an error.
async fn end_of(connection: &mut HyperConnection, phase: FailurePhase) -> Failure {
    match connection.await {
        Ok(()) => Failure::new(FailureKind::Drained, phase).because("the peer closed the connection with GOAWAY"),
        Err(error) => classify::failure(&error, phase),
    }
}
