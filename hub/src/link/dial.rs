//! Making a connection: TCP, HTTP/2, and the hello that proves who answers.
//!
//! Owns the way from a record to a [`Line`]. Each step has its own deadline.
//! A foreign program proves nothing but that it answers HTTP/1.1; that it is the program of the record, its lease says.
//! Invariant: a [`Line`] to an instance of ours exists only after the peer proved that it knows the record's secret, for the generation of the
//! record and the port that was dialled, and after the hub proved the same to the peer. A TCP connection or an HTTP/2
//! handshake proves nothing: both succeed against a process that hangs and against a stranger.
//! Never: tries twice, or sends anything but the hello before the peer is proven.

use super::hearing::{Heard, Hearing};
use super::http1::Pool;
use super::lane::{Answer, Lane, NoResponse};
use super::metrics::Meter;
use super::{Body, classify};
use http::StatusCode;
use http::uri::Authority;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use linchpin_shared::failure::{Failure, Kind, Phase};
use linchpin_shared::protocol::hello::{self, Exchange, Hello, Proof, Role, Welcome};
use linchpin_shared::protocol::{FORMAT, path};
use linchpin_shared::registry::record::{Protocol, Record};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

/// When a request fails with its connection, the connection knows the cause, and knows it at once; this much is for the
/// scheduler. Without it a request that fails alone would leave the dial waiting for a connection that lives.
const CAUSE_WAIT: Duration = Duration::from_millis(100);

/// How much of one answer may wait to be read. At loopback's round trip of some 50 µs this is no brake.
const STREAM_WINDOW: u32 = 256 << 10;

/// The largest window that HTTP/2 knows (RFC 9113, section 6.9.1).
const MAX_WINDOW: u32 = i32::MAX as u32;

/// The numbers of a dial.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// To open the TCP connection.
    pub(super) dial: Duration,
    /// For the HTTP/2 handshake and the hello.
    pub(super) hello: Duration,
    /// From one PING to the next.
    pub(super) ping_interval: Duration,
    /// For the answer to a PING.
    pub(super) ping_timeout: Duration,
    /// How many streams may be open at once.
    pub(super) streams: usize,
}

/// The PINGs are sent by `hyper`, but their answers are judged by the machine, which knows how good the link is, whether
/// the hub itself was away, and whether anything else was heard. So `hyper` waits for them for longer than anybody.
const NO_PING_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// How much longer than a PING may take the kernel repeats what is not acknowledged. On a link that loses much, that is
/// what keeps it; see [`crate::health::Health::patience`].
const KERNEL_PATIENCE: u32 = 5;

type Connection<T = TcpStream> = http2::Connection<TokioIo<Hearing<T>>, Body, TokioExecutor>;

/// A proven connection. Dropping it lets the streams that are open finish, and takes no new ones.
#[derive(Debug)]
pub(super) struct Line {
    /// None for a foreign program, whose connections come and go.
    connection: Option<(Connection, Heard)>,
    lane: Lane,
    /// How long the hello took.
    pub(super) round_trip: Duration,
}

impl Line {
    /// The way onto this connection.
    pub(super) const fn lane(&self) -> &Lane {
        &self.lane
    }

    /// Moves the connection along until it ends, and says why it did.
    pub(super) async fn ended(&mut self) -> Failure {
        match &mut self.connection {
            Some((connection, _)) => end_of(connection, Phase::Serve).await,
            None => std::future::pending().await,
        }
    }

    /// What tells when something came over it last.
    pub(super) fn heard(&self) -> Option<Heard> {
        self.connection.as_ref().map(|(_, heard)| heard.clone())
    }
}

/// Connects to the instance of this record.
pub(super) async fn dial(record: &Record, limits: &Limits, meter: &Arc<Meter>) -> Result<Line, Failure> {
    let started = Instant::now();
    let line = match record.protocol {
        Protocol::H2c => connect(record, limits, meter).await,
        Protocol::Http1 => visit(record, limits, meter).await,
    };
    line.map_err(|failure| failure.after(started.elapsed()))
}

fn bad(error: &(dyn std::error::Error + 'static)) -> Failure {
    Failure::new(Kind::Unreachable, Phase::Dial).caused_by(error)
}

/// A foreign program that answers.
async fn visit(record: &Record, limits: &Limits, meter: &Arc<Meter>) -> Result<Line, Failure> {
    let pool = Pool::new(record, limits, meter).map_err(|problem| bad(&problem))?;
    let asked = Instant::now();
    match timeout(limits.dial + limits.hello, pool.check_up()).await {
        Ok(Ok(())) => {
            let lane = Lane::foreign(pool, &record.process);
            Ok(Line { connection: None, lane, round_trip: asked.elapsed() })
        }
        Ok(Err(NoResponse { failure, .. })) if failure.phase == Phase::Dial => Err(failure),
        Ok(Err(NoResponse { failure, .. })) => Err(Failure { phase: Phase::Hello, ..failure }),
        Err(_elapsed) => Err(no_hello(limits.hello)),
    }
}

fn no_hello(within: Duration) -> Failure {
    let late = format!("connected, but no hello within {within:?}");
    Failure::new(Kind::HelloTimeout, Phase::Hello).because(late)
}

async fn connect(record: &Record, limits: &Limits, meter: &Meter) -> Result<Line, Failure> {
    let address = record.address().map_err(|problem| bad(&problem))?;
    let authority: Authority = address.to_string().parse().map_err(|error: http::uri::InvalidUri| bad(&error))?;
    let stream = open(address, limits, meter).await?;
    let heard = Heard::now();
    let (sender, mut connection) = handshake(Hearing::new(stream, heard.clone()), limits).await?;
    let lane = Lane::new(sender, authority, &record.process);
    let round_trip = introduce(&lane, &mut connection, record, limits.hello).await?;
    Ok(Line { connection: Some((connection, heard)), lane, round_trip })
}

/// Opens a connection that is usable.
pub(super) async fn open(address: SocketAddr, limits: &Limits, meter: &Meter) -> Result<TcpStream, Failure> {
    let whither = format!("connecting to {address}");
    let failed = |error: std::io::Error| classify::failure(&error, Phase::Dial).because(whither.clone());
    let stream = match timeout(limits.dial, TcpStream::connect(address)).await {
        Ok(stream) => stream.map_err(failed)?,
        Err(_elapsed) => {
            let late = format!("no answer within {:?}", limits.dial);
            return Err(Failure::new(Kind::ConnectTimeout, Phase::Dial).because(late).because(whither));
        }
    };
    usable(&stream, address, limits).map_err(failed)?;
    meter.socket();
    Ok(stream)
}

/// Checks and sets up a socket that the system says is connected.
fn usable(stream: &TcpStream, address: SocketAddr, limits: &Limits) -> std::io::Result<()> {
    // A port of the ephemeral range on which nobody listens can be given to the very socket that dials it, which then
    // is connected to itself (RFC 9293, section 3.5, simultaneous open) and would hold the port for ever.
    if stream.local_addr()? == address {
        let alone = "nobody but the dialling socket itself has this port";
        return Err(std::io::Error::new(std::io::ErrorKind::ConnectionRefused, alone));
    }
    stream.set_nodelay(true)?;
    repeat_patiently(stream, (limits.ping_interval + limits.ping_timeout) * KERNEL_PATIENCE)
}

/// Lets the kernel end a connection whose bytes are not acknowledged. The PINGs notice a dead peer; this ends the
/// socket also when the hub itself has no time to look. Until then a lost segment is repeated at even intervals first,
/// and not after times that double from the beginning: there is no congestion on this machine's own address.
#[cfg(target_os = "linux")]
fn repeat_patiently(stream: &TcpStream, end_after: Duration) -> std::io::Result<()> {
    use rustix::net::sockopt;
    let millis = u32::try_from(end_after.as_millis()).unwrap_or(u32::MAX);
    sockopt::set_tcp_user_timeout(stream, millis)?;
    sockopt::set_tcp_thin_linear_timeouts(stream, true).map_err(Into::into)
}

#[cfg(not(target_os = "linux"))]
fn repeat_patiently(_: &TcpStream, _: Duration) -> std::io::Result<()> {
    Ok(())
}

/// The connection has room for every stream's window, so that callers who do not read hold up nobody but themselves.
pub(super) async fn handshake<T>(
    stream: Hearing<T>,
    limits: &Limits,
) -> Result<(http2::SendRequest<Body>, Connection<T>), Failure>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
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
        .map_err(|error| classify::failure(&error, Phase::Hello))
}

/// Hello and proof on a connection that nobody else uses yet. Says how long the hello took.
async fn introduce(
    lane: &Lane,
    connection: &mut Connection,
    record: &Record,
    within: Duration,
) -> Result<Duration, Failure> {
    let answer = tokio::select! {
        biased;
        failure = end_of(connection, Phase::Hello) => return Err(failure),
        answer = timeout(within, exchange_proofs(lane, record)) => answer,
    };
    match answer {
        Ok(Ok(round_trip)) => Ok(round_trip),
        Ok(Err(Refusal::Answered(failure))) => Err(failure),
        Ok(Err(Refusal::Broken(seen))) => {
            let cause = timeout(CAUSE_WAIT, end_of(connection, Phase::Hello)).await;
            Err(cause.unwrap_or(Failure { phase: Phase::Hello, ..seen }))
        }
        Err(_elapsed) => Err(no_hello(within)),
    }
}

/// Why a hello failed.
enum Refusal {
    /// The peer answered, and it is not the one, or does not want us.
    Answered(Failure),
    /// There was no answer. What a request sees of a broken connection is vague.
    Broken(Failure),
}

impl From<NoResponse> for Refusal {
    fn from(error: NoResponse) -> Self {
        Self::Broken(error.failure)
    }
}

fn refusal(kind: Kind, why: impl Into<String>) -> Refusal {
    Refusal::Answered(Failure::new(kind, Phase::Hello).because(why))
}

async fn exchange_proofs(lane: &Lane, record: &Record) -> Result<Duration, Refusal> {
    let hub_nonce = hello::random().map_err(|error| refusal(Kind::Cancelled, error.to_string()))?;
    let hello = Hello { format: FORMAT, nonce: hub_nonce, version: env!("CARGO_PKG_VERSION").to_owned() };
    let asked = Instant::now();
    let answer = lane.post(path::HELLO, &hello).await?;
    let round_trip = asked.elapsed();
    let welcome = welcome(&answer)?;
    let exchange = Exchange {
        hub_nonce: &hello.nonce,
        instance_nonce: &welcome.nonce,
        id: record.id,
        generation: record.generation,
        endpoint: &record.endpoint,
    };
    if (welcome.id, welcome.generation) != (record.id, record.generation) {
        let other = format!("{} of generation {} answers at {}", welcome.id, welcome.generation, record.endpoint);
        return Err(refusal(Kind::WrongIdentity, other));
    }
    if !exchange.verify(Role::Instance, &record.secret, &welcome.proof) {
        return Err(refusal(Kind::WrongIdentity, "the peer does not know the secret of the record"));
    }
    let proof = Proof { proof: exchange.prove(Role::Hub, &record.secret) };
    let answer = lane.post(path::PROVE, &proof).await?;
    match answer.status {
        StatusCode::NO_CONTENT | StatusCode::OK => Ok(round_trip),
        _ => Err(refused(&answer, "our proof")),
    }
}

/// The peer answered with a status that means no.
fn refused(answer: &Answer, what: &str) -> Refusal {
    let why = format!("the peer answered {what} with {}", answer.status);
    let failure = Failure::new(kind_of_status(answer.status), Phase::Hello).because(why);
    Refusal::Answered(failure.retry_after(answer.retry_after()))
}

fn welcome(answer: &Answer) -> Result<Welcome, Refusal> {
    if answer.status != StatusCode::OK {
        return Err(refused(answer, "our hello"));
    }
    let welcome: Welcome = serde_json::from_slice(&answer.body)
        .map_err(|error| refusal(Kind::Protocol, format!("the answer to our hello cannot be read: {error}")))?;
    if welcome.format != FORMAT {
        let formats = format!("the peer speaks format {}, we speak {FORMAT}", welcome.format);
        return Err(refusal(Kind::VersionMismatch, formats));
    }
    Ok(welcome)
}

fn kind_of_status(status: StatusCode) -> Kind {
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Kind::WrongIdentity,
        StatusCode::UPGRADE_REQUIRED => Kind::VersionMismatch,
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => Kind::Overloaded,
        _ => Kind::Protocol,
    }
}

/// Moves a connection along until it ends. `Ok` of the connection means that the peer sent GOAWAY without an error.
async fn end_of(connection: &mut Connection, phase: Phase) -> Failure {
    match connection.await {
        Ok(()) => Failure::new(Kind::Drained, phase).because("the peer said goodbye"),
        Err(error) => classify::failure(&error, phase),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_that_is_connected_to_itself_is_refused() {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = socket.local_addr().unwrap();
        let stream = socket.connect(address).await.expect("the kernel connects it to itself");
        let second = Duration::from_secs(1);
        let limits = Limits { dial: second, hello: second, ping_interval: second, ping_timeout: second, streams: 1 };
        let error = usable(&stream, address, &limits).unwrap_err();
        assert_eq!(classify::failure(&error, Phase::Dial).kind, Kind::Refused);
    }
}
