//! Making a connection: TCP, HTTP/2, and the hello that proves who answers.
//!
//! Owns the way from a record to a [`Line`]. Each step has its own deadline.
//! Invariant: a [`Line`] exists only after the peer proved that it knows the record's secret, for the generation of the
//! record and the port that was dialled, and after the hub proved the same to the peer. A TCP connection or an HTTP/2
//! handshake proves nothing: both succeed against a process that hangs and against a stranger.
//! Never: tries twice, or sends anything but the hello before the peer is proven.

use super::lane::{Lane, NoResponse};
use super::{Body, classify};
use bytes::Bytes;
use http::StatusCode;
use http::uri::Authority;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use linchpin_shared::failure::{Failure, Kind, Phase};
use linchpin_shared::protocol::hello::{self, Exchange, Hello, Proof, Role, Welcome};
use linchpin_shared::protocol::{FORMAT, path};
use linchpin_shared::registry::record::Record;
use std::net::SocketAddr;
use std::time::Duration;
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

type Connection = http2::Connection<TokioIo<TcpStream>, Body, TokioExecutor>;

/// A proven connection. Dropping it lets the streams that are open finish, and takes no new ones.
#[derive(Debug)]
pub(super) struct Line {
    connection: Connection,
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
        end_of(&mut self.connection, Phase::Serve).await
    }
}

/// Connects to the instance of this record.
pub(super) async fn dial(record: &Record, limits: &Limits) -> Result<Line, Failure> {
    let started = Instant::now();
    let line = connect(record, limits).await;
    line.map_err(|failure| failure.after(started.elapsed()))
}

async fn connect(record: &Record, limits: &Limits) -> Result<Line, Failure> {
    let bad = |error: &(dyn std::error::Error + 'static)| Failure::new(Kind::Unreachable, Phase::Dial).caused_by(error);
    let address = record.address().map_err(|problem| bad(&problem))?;
    let authority: Authority = address.to_string().parse().map_err(|error: http::uri::InvalidUri| bad(&error))?;
    let stream = open(address, limits).await?;
    let (sender, mut connection) = handshake(stream, limits).await?;
    let lane = Lane::new(sender, authority);
    let round_trip = introduce(&lane, &mut connection, record, limits.hello).await?;
    Ok(Line { connection, lane, round_trip })
}

async fn open(address: SocketAddr, limits: &Limits) -> Result<TcpStream, Failure> {
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
    give_up_unacknowledged(stream, limits.ping_interval + limits.ping_timeout)
}

/// Lets the kernel end a connection whose bytes are not acknowledged. The PINGs notice a dead peer; this ends the
/// socket also when the hub itself has no time to look.
#[cfg(target_os = "linux")]
fn give_up_unacknowledged(stream: &TcpStream, after: Duration) -> std::io::Result<()> {
    let millis = u32::try_from(after.as_millis()).unwrap_or(u32::MAX);
    rustix::net::sockopt::set_tcp_user_timeout(stream, millis).map_err(Into::into)
}

#[cfg(not(target_os = "linux"))]
fn give_up_unacknowledged(_: &TcpStream, _: Duration) -> std::io::Result<()> {
    Ok(())
}

/// The connection has room for every stream's window, so that callers who do not read hold up nobody but themselves.
async fn handshake(stream: TcpStream, limits: &Limits) -> Result<(http2::SendRequest<Body>, Connection), Failure> {
    let all_streams = u32::try_from(limits.streams).unwrap_or(MAX_WINDOW).saturating_mul(STREAM_WINDOW);
    http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(all_streams.min(MAX_WINDOW))
        .keep_alive_interval(limits.ping_interval)
        .keep_alive_timeout(limits.ping_timeout)
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
        Err(_elapsed) => {
            let late = format!("connected, but no hello within {within:?}");
            Err(Failure::new(Kind::HelloTimeout, Phase::Hello).because(late))
        }
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
    let (status, body) = lane.post(path::HELLO, &hello).await?;
    let round_trip = asked.elapsed();
    let welcome = welcome(status, &body)?;
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
    match lane.post(path::PROVE, &proof).await?.0 {
        StatusCode::NO_CONTENT | StatusCode::OK => Ok(round_trip),
        status => Err(refusal(kind_of_status(status), format!("the peer answered our proof with {status}"))),
    }
}

fn welcome(status: StatusCode, body: &Bytes) -> Result<Welcome, Refusal> {
    if status != StatusCode::OK {
        return Err(refusal(kind_of_status(status), format!("the peer answered our hello with {status}")));
    }
    let welcome: Welcome = serde_json::from_slice(body)
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
