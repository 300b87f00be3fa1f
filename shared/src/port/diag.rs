//! The listening TCP sockets of this machine, asked of the kernel by sock_diag(7).
//!
//! Owns the one question and its answer's format (`linux/inet_diag.h`). It costs microseconds where reading
//! `/proc/net/tcp` costs a walk over the kernel's whole table of connections, so it may be asked every second.
//! Invariant: an answer is complete, or an error; who gets an error reads `/proc/net` instead.
//! Never: needs a privilege, or touches a socket.

use super::Listener;
use rustix::net::netlink::SOCK_DIAG;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

/// `SOCK_DIAG_BY_FAMILY`.
const BY_FAMILY: u16 = 20;
/// `NLM_F_REQUEST | NLM_F_DUMP`.
const DUMP: u16 = 0x301;
/// `NLMSG_ERROR` and `NLMSG_DONE`.
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// The bit of `TCP_LISTEN` in the set of states that are asked for.
const LISTEN: u32 = 1 << 10;
/// The length of `struct nlmsghdr`.
const HEADER: usize = 16;
/// The length of `struct inet_diag_req_v2`, and that of `struct inet_diag_sockid` in it.
const REQUEST: usize = 56;
const SOCKET_ID: usize = 48;
/// The kernel sends at most this much at once (netlink(7) advises 8 KiB or more; dumps use up to 32 KiB).
const BUFFER: usize = 64 << 10;

/// All that listen, of both families.
pub(super) fn listeners() -> io::Result<Vec<Listener>> {
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(SOCK_DIAG))?;
    let mut found = Vec::new();
    for family in [AddressFamily::INET, AddressFamily::INET6] {
        send(&socket, &request(family), SendFlags::empty())?;
        receive(&socket, &mut found)?;
    }
    Ok(found)
}

fn request(family: AddressFamily) -> Vec<u8> {
    let mut message = Vec::with_capacity(HEADER + REQUEST);
    message.extend(u32::try_from(HEADER + REQUEST).unwrap_or_default().to_ne_bytes());
    message.extend(BY_FAMILY.to_ne_bytes());
    message.extend(DUMP.to_ne_bytes());
    message.extend([0; 8]);
    // AF_INET is 2 and AF_INET6 10; IPPROTO_TCP is 6.
    message.extend([u8::try_from(family.as_raw()).unwrap_or_default(), 6, 0, 0]);
    message.extend(LISTEN.to_ne_bytes());
    message.extend([0; SOCKET_ID]);
    message
}

/// Reads the answers to one question to their end.
fn receive(socket: &OwnedFd, found: &mut Vec<Listener>) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let (length, whole) = recv(socket, &mut buffer[..], RecvFlags::TRUNC)?;
        if length == 0 || whole > buffer.len() {
            return Err(malformed());
        }
        let mut rest = &buffer[..length];
        while rest.len() >= HEADER {
            let length = usize::try_from(number(rest, 0)?).map_err(|_| malformed())?;
            let kind = u16::from_ne_bytes([rest[4], rest[5]]);
            let body = rest.get(HEADER..length).ok_or_else(malformed)?;
            match kind {
                DONE => return Ok(()),
                ERROR => return Err(refused(body)),
                _ => found.extend(parse(body)?),
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

/// `struct inet_diag_msg`.
fn parse(body: &[u8]) -> io::Result<Option<Listener>> {
    let port = u16::from_be_bytes(body.get(4..6).and_then(|port| port.try_into().ok()).ok_or_else(malformed)?);
    let source: [u8; 16] = body.get(8..24).and_then(|source| source.try_into().ok()).ok_or_else(malformed)?;
    let ip = match body.first() {
        Some(&family) if u16::from(family) == AddressFamily::INET.as_raw() => {
            IpAddr::from(Ipv4Addr::new(source[0], source[1], source[2], source[3]))
        }
        Some(&family) if u16::from(family) == AddressFamily::INET6.as_raw() => IpAddr::from(Ipv6Addr::from(source)),
        Some(_) | None => return Ok(None),
    };
    let (uid, inode) = (number(body, 64)?, u64::from(number(body, 68)?));
    Ok(Some(Listener { address: SocketAddr::new(ip, port), uid, inode }))
}

fn number(bytes: &[u8], at: usize) -> io::Result<u32> {
    bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_ne_bytes).ok_or_else(malformed)
}

fn refused(body: &[u8]) -> io::Error {
    let errno = number(body, 0).map_or(0, |errno| errno.cast_signed().saturating_neg());
    io::Error::from_raw_os_error(errno)
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "malformed answer of sock_diag")
}
