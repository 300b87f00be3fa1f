//! Who listens on a TCP port of this machine.
//!
//! Owns the look into `/proc/net/tcp` and `/proc/net/tcp6` (proc(5)) for the listening socket, and into `/proc/PID/fd` for
//! the process that holds it. Invariant: an answer is what the kernel said at one moment; a process that cannot be seen
//! (another user's) is reported as its user, never guessed.
//! Never: connects to the port, or runs another program.

use crate::process::{Identity, command_line};
use serde::Serialize;
use std::fs;
use std::io;
use std::path::Path;

/// The state of a listening socket in `/proc/net/tcp`: TCP_LISTEN of `include/net/tcp_states.h`.
const LISTEN: &str = "0A";

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

/// Who listens on this port, on any address; `None` when nobody does.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn holder(port: u16) -> io::Result<Option<Holder>> {
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let text = match fs::read_to_string(table) {
            // A machine without IPv6 has no second table.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other?,
        };
        if let Some((uid, inode)) = text.lines().find_map(|line| listening(line, port)) {
            let process = owner(inode);
            let command = process.as_ref().and_then(|process| command_line(process.pid));
            return Ok(Some(Holder { uid, process, command }));
        }
    }
    Ok(None)
}

/// User and inode of the socket in this line, if it listens on this port.
fn listening(line: &str, port: u16) -> Option<(u32, u64)> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let (_, local) = fields.get(1)?.rsplit_once(':')?;
    let here = u16::from_str_radix(local, 16).ok()? == port && *fields.get(3)? == LISTEN;
    here.then_some((fields.get(7)?.parse().ok()?, fields.get(9)?.parse().ok()?))
}

/// A process that holds the socket of this inode.
fn owner(inode: u64) -> Option<Identity> {
    let socket = format!("socket:[{inode}]");
    let holds = |pid: u32| {
        let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
        files.flatten().any(|file| fs::read_link(file.path()).is_ok_and(|target| target == Path::new(&socket)))
    };
    let pids = fs::read_dir("/proc").ok()?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| holds(*pid)).find_map(|pid| Identity::of(pid).ok())
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
    fn a_connection_is_not_a_listener() {
        let line = "1: 0100007F:1E61 0100007F:A2F0 01 00000000:00000000 00:00000000 00000000  1000 0 4242 1 0";
        assert_eq!(listening(line, 0x1E61), None);
        assert_eq!(listening(&line.replace(" 01 ", " 0A "), 0x1E61), Some((1000, 4242)));
        assert_eq!(listening("  sl  local_address rem_address   st", 1), None);
    }
}
