//! TCP connections to instances, and the socket options that they need.

use super::classify;
use super::failure::{Failure, FailureKind, FailurePhase};
use super::metrics::LinkMeter;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The kernel repeats unacknowledged bytes this many times longer than a PING may take. A link that loses many packets
/// survives because of it, see [`crate::health::Health::patience`].
const KERNEL_PATIENCE: u32 = 5;

/// The time limits of a connection, and how many streams it may have.
#[derive(Debug, Clone, Copy)]
pub(super) struct DialLimits {
    /// The deadline of the TCP connection.
    pub(super) dial: Duration,
    /// The deadline of the HTTP/2 handshake and the hello.
    pub(super) hello: Duration,
    pub(super) ping_interval: Duration,
    pub(super) ping_timeout: Duration,
    pub(super) streams: usize,
}

/// Opens a TCP connection and sets its options.
pub(super) async fn open(address: SocketAddr, limits: &DialLimits, meter: &LinkMeter) -> Result<TcpStream, Failure> {
    let destination = format!("connecting to {address}");
    let failed = |error: std::io::Error| classify::failure(&error, FailurePhase::Dial).because(destination.clone());
    let stream = match timeout(limits.dial, TcpStream::connect(address)).await {
        Ok(stream) => stream.map_err(failed)?,
        Err(_elapsed) => {
            let late = format!("no answer within {:?}", limits.dial);
            let failure = Failure::new(FailureKind::ConnectTimeout, FailurePhase::Dial);
            return Err(failure.because(late).because(destination));
        }
    };
    set_up(&stream, address, limits).map_err(failed)?;
    meter.socket_opened();
    Ok(stream)
}

/// Sets the options of a connected socket. A socket that is connected to itself is refused.
fn set_up(stream: &TcpStream, address: SocketAddr, limits: &DialLimits) -> std::io::Result<()> {
    // The kernel may give a port of the ephemeral range on which no program listens to the very socket that dials it.
    // The socket is then connected to itself (RFC 9293, section 3.5, simultaneous open) and would keep the port.
    if stream.local_addr()? == address {
        let to_itself = "no program listens on this port; the socket was connected to itself";
        return Err(std::io::Error::new(std::io::ErrorKind::ConnectionRefused, to_itself));
    }
    stream.set_nodelay(true)?;
    set_retransmission(stream, (limits.ping_interval + limits.ping_timeout) * KERNEL_PATIENCE)
}

/// Lets the kernel end a connection whose bytes are not acknowledged, which also works while the hub itself gets no
/// processor time. Until then a lost segment is first repeated at even intervals, not at intervals that double from the
/// beginning, because the loopback interface has no congestion.
#[cfg(target_os = "linux")]
fn set_retransmission(stream: &TcpStream, end_after: Duration) -> std::io::Result<()> {
    use rustix::net::sockopt;
    let millis = u32::try_from(end_after.as_millis()).unwrap_or(u32::MAX);
    sockopt::set_tcp_user_timeout(stream, millis)?;
    sockopt::set_tcp_thin_linear_timeouts(stream, true).map_err(Into::into)
}

#[cfg(not(target_os = "linux"))]
fn set_retransmission(_: &TcpStream, _: Duration) -> std::io::Result<()> {
    Ok(())
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
        let limits =
            DialLimits { dial: second, hello: second, ping_interval: second, ping_timeout: second, streams: 1 };
        let error = set_up(&stream, address, &limits).unwrap_err();
        assert_eq!(classify::failure(&error, FailurePhase::Dial).kind, FailureKind::Refused);
    }
}
