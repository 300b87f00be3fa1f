//! Who listens on a TCP port of this machine, and which ports a process listens on.
//!
//! Owns the list of listening sockets ([`diag`], else `/proc/net/tcp` of proc(5)), and the way from a socket to the
//! process that holds it and back, by the inode in `/proc/PID/fd`. Invariant: an answer is what the kernel said at one
//! moment; a process that cannot be seen (another user's) is reported as its user, never guessed.
//! Never: connects to the port, or runs another program.

mod culprit;
mod diag;

pub use culprit::{Culprit, Whose};

use crate::process::{Identity, command_line};
use serde::Serialize;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The state of a listening socket in `/proc/net/tcp`: TCP_LISTEN of `include/net/tcp_states.h`.
const LISTEN: &str = "0A";

/// A socket that listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listener {
    /// Where.
    pub address: SocketAddr,
    /// The user that opened it.
    pub uid: u32,
    /// Which socket it is; in the file system of sockets, as `/proc/PID/fd` shows it.
    pub inode: u64,
}

/// Who listens on a port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Holder {
    /// The user that opened the socket.
    pub uid: u32,
    /// The process, if we may see it.
    pub process: Option<Identity>,
    /// Its command line, for people.
    pub command: Option<String>,
}

/// All sockets that listen, of this network namespace.
///
/// # Errors
/// When neither sock_diag answers nor `/proc` can be read.
pub fn listeners() -> io::Result<Vec<Listener>> {
    diag::listeners().or_else(|_| proc_listeners())
}

/// Who listens on this port, on any address; `None` when nobody does.
///
/// # Errors
/// As [`listeners`].
pub fn holder(port: u16) -> io::Result<Option<Holder>> {
    Ok(listeners()?.iter().find(|listener| listener.address.port() == port).map(Listener::holder))
}

/// The sockets that a process has open, by inode; none if it is gone or another user's.
#[must_use]
pub fn sockets(pid: u32) -> BTreeSet<u64> {
    let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else { return BTreeSet::new() };
    files.flatten().filter_map(|file| inode(fs::read_link(file.path()).ok()?.to_str()?)).collect()
}

impl Listener {
    /// Who holds it.
    #[must_use]
    pub fn holder(&self) -> Holder {
        let process = owner(self.inode);
        let command = process.as_ref().and_then(|process| command_line(process.pid));
        Holder { uid: self.uid, process, command }
    }
}

/// The inode in the name of an open socket, `socket:[4242]`.
fn inode(target: &str) -> Option<u64> {
    target.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// A process that holds the socket of this inode: of several, which inherited it, the first that was started.
fn owner(inode: u64) -> Option<Identity> {
    let pids = fs::read_dir("/proc").ok()?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let holders = pids.filter(|pid| sockets(*pid).contains(&inode)).filter_map(|pid| Identity::of(pid).ok());
    holders.min_by_key(|process| (process.start_ticks, process.pid))
}

/// The second way, for kernels and sandboxes without sock_diag.
fn proc_listeners() -> io::Result<Vec<Listener>> {
    let mut found = Vec::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let text = match fs::read_to_string(table) {
            // A machine without IPv6 has no second table.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other?,
        };
        found.extend(text.lines().filter_map(listening));
    }
    Ok(found)
}

/// The socket in this line, if it listens.
fn listening(line: &str) -> Option<Listener> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let (ip, port) = fields.get(1)?.rsplit_once(':')?;
    if *fields.get(3)? != LISTEN {
        return None;
    }
    let address = SocketAddr::new(address(ip)?, u16::from_str_radix(port, 16).ok()?);
    Some(Listener { address, uid: fields.get(7)?.parse().ok()?, inode: fields.get(9)?.parse().ok()? })
}

/// An address as `/proc/net/tcp` writes it: words of 32 bits in the byte order of this machine.
fn address(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| Some(u32::from_str_radix(hex.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    match hex.len() {
        8 => Some(IpAddr::from(Ipv4Addr::from(word(0)?))),
        32 => {
            let words = [word(0)?, word(8)?, word(16)?, word(24)?];
            Some(IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(words.concat()).ok()?)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn we_are_found_on_both_families_and_nobody_after_us() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let port = listener.local_addr().unwrap().port();
            let holder = holder(port).unwrap().unwrap();
            assert_eq!(holder.process.unwrap().pid, std::process::id());
            assert!(holder.command.is_some());
            drop(listener);
            assert_eq!(super::holder(port).unwrap(), None);
        }
    }

    #[test]
    fn both_ways_to_ask_tell_the_same() {
        for address in ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let address = listener.local_addr().unwrap();
            let found =
                |all: io::Result<Vec<Listener>>| all.unwrap().into_iter().find(|found| found.address == address);
            let (asked, read) = (found(diag::listeners()), found(proc_listeners()));
            assert!(asked.is_some_and(|asked| sockets(std::process::id()).contains(&asked.inode)), "{asked:?}");
            assert_eq!(asked, read);
        }
    }

    #[test]
    fn a_connection_is_not_a_listener() {
        let line = "1: 0100007F:1E61 0100007F:A2F0 01 00000000:00000000 00:00000000 00000000  1000 0 4242 1 0";
        assert_eq!(listening(line), None);
        let found = listening(&line.replace(" 01 ", " 0A ")).unwrap();
        assert_eq!((found.address.to_string().as_str(), found.uid, found.inode), ("127.0.0.1:7777", 1000, 4242));
        assert_eq!(listening("  sl  local_address rem_address   st"), None);
    }
}
