//! The port that a process is assigned in the variable `PORT`.
//!
//! An instance starts its search at a number that its id determines, below the ports that the system assigns by itself.
//! So the same instance gets the same port after every restart, of itself or of the machine, and no outgoing connection
//! takes it meanwhile. An assigned port was free on all addresses a moment ago. Only the process itself listens on it;
//! if another program was faster, the next start names that program.

use linchpin_shared::home::Home;
use linchpin_shared::port::{self, Culprit, Whose};
use linchpin_shared::problem::{Code, Problem};
use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use tokio::net::TcpSocket;
use uuid::Uuid;

/// The range of assigned ports: most servers' usual ports are below, and `ip_local_port_range` starts above, with
/// 32768.
const FIRST: u16 = 20_000;
const COUNT: u16 = 10_000;

/// Which port a process is assigned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AssignedPort {
    /// None: `PORT` stays as it is in our own environment.
    Nothing,
    /// The first free port from this one on.
    From(u16),
    /// This port; when it is taken, the process is not started.
    Exactly(u16),
}

impl AssignedPort {
    /// Any free port, starting at the number for this instance.
    pub(crate) fn any(instance: Uuid) -> Self {
        let offset = u16::try_from(instance.as_u128() % u128::from(COUNT)).unwrap_or_default();
        Self::From(FIRST + offset)
    }

    /// Chooses the port for the next start.
    ///
    /// # Errors
    /// When the one port is taken; the text names the program that has it.
    pub(crate) fn next(self, home: &Home) -> io::Result<Option<u16>> {
        match self {
            Self::Nothing => Ok(None),
            // If ten thousand ports are taken, 0 asks the program to let the system choose.
            Self::From(first) => Ok(Some(candidates(first).find(|port| is_free(*port)).unwrap_or(0))),
            Self::Exactly(port) if is_free(port) => Ok(Some(port)),
            Self::Exactly(port) => Err(io::Error::new(io::ErrorKind::AddrInUse, taken_by(home, port))),
        }
    }

    /// Rejects a port that is taken, before anything is started.
    pub(crate) fn check(self, home: &Home) -> Result<(), Problem> {
        self.check_unless(home, |_| false)
    }

    /// As [`AssignedPort::check`], but accepts a taken port when its owner `yields` it.
    pub(crate) fn check_unless(self, home: &Home, yields: impl FnOnce(&Whose) -> bool) -> Result<(), Problem> {
        let Self::Exactly(port) = self else { return Ok(()) };
        if is_free(port) {
            return Ok(());
        }
        let problem = Problem::new(Code::PortTaken, format!("the port {port} is taken")).seen("port", port);
        let problem = match Culprit::find(home, port) {
            Ok(Some(culprit)) if yields(&culprit.whose) => return Ok(()),
            Ok(Some(culprit)) => culprit.named_in(problem),
            Ok(None) | Err(_) => problem.next(format!("ss -tanp 'sport = :{port}'    (shows which program has it)")),
        };
        Err(problem.next("run it without --port: it is then assigned a free one in PORT"))
    }
}

/// Says which program has this port.
pub(super) fn taken_by(home: &Home, port: u16) -> String {
    match Culprit::find(home, port) {
        Ok(Some(culprit)) => format!("port {port} is taken by {culprit}"),
        Ok(None) | Err(_) => format!("port {port} is taken"),
    }
}

/// Says which program has the port that these lines report as in use. Programs word that in many ways, so any number in
/// such a line counts that is a port on which a program listens.
pub(super) fn complained_about<'a>(home: &Home, lines: impl Iterator<Item = &'a String>) -> Option<String> {
    let complains = |line: &&String| {
        let line = line.to_ascii_lowercase();
        line.contains("eaddrinuse") || line.contains("already in use")
    };
    let mut complaints = lines.filter(complains).peekable();
    complaints.peek()?;
    let listening: BTreeSet<u16> = port::listeners().ok()?.iter().map(|listener| listener.address.port()).collect();
    let mut ports = complaints.flat_map(|line| numbers(line)).filter(|port| listening.contains(port));
    ports.next().map(|port| taken_by(home, port))
}

/// Returns the numbers in a line that may be ports, the last one first: it follows the address.
fn numbers(line: &str) -> impl Iterator<Item = u16> {
    line.rsplit(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok())
}

fn candidates(first: u16) -> impl Iterator<Item = u16> {
    (first..FIRST + COUNT).chain(FIRST..first)
}

/// Whether a server could bind this port, whichever of this machine's addresses it uses.
pub(super) fn is_free(port: u16) -> bool {
    let v4 = bind(TcpSocket::new_v4(), (Ipv4Addr::UNSPECIFIED, port).into());
    let v6 = bind(TcpSocket::new_v6(), (Ipv6Addr::UNSPECIFIED, port).into());
    ![v4, v6].into_iter().any(|bound| bound.is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse))
}

/// Binds as servers do, and closes the socket. A socket that does not listen disturbs no other program.
fn bind(socket: io::Result<TcpSocket>, address: SocketAddr) -> io::Result<()> {
    let socket = socket?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn an_instance_keeps_its_port_while_that_is_free() {
        let (home, assigned) = (Home::at("/nowhere"), AssignedPort::any(Uuid::from_u128(77_777)));
        let first = assigned.next(&home).unwrap().unwrap();
        assert!((FIRST..FIRST + COUNT).contains(&first));
        assert_eq!(assigned.next(&home).unwrap(), Some(first));
        for address in [SocketAddr::from((Ipv4Addr::LOCALHOST, first)), SocketAddr::from((Ipv6Addr::LOCALHOST, first))]
        {
            let Ok(listener) = TcpListener::bind(address) else { continue };
            assert_ne!(assigned.next(&home).unwrap(), Some(first), "{address} is taken");
            drop(listener);
            assert_eq!(assigned.next(&home).unwrap(), Some(first));
        }
    }

    #[test]
    fn every_candidate_is_in_the_range() {
        for first in [FIRST, FIRST + 5, FIRST + COUNT - 1] {
            let all: Vec<u16> = candidates(first).collect();
            assert_eq!((all[0], all.len()), (first, usize::from(COUNT)));
        }
        assert_eq!(
            AssignedPort::any(Uuid::max()),
            AssignedPort::From(FIRST + u16::try_from(u128::MAX % 10_000).unwrap())
        );
    }

    #[test]
    fn the_output_of_a_program_leads_to_the_owner_of_a_port() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (home, port) = (Home::at("/nowhere"), listener.local_addr().unwrap().port());
        let owner_in = |line: String| complained_about(&home, [line].iter());
        for line in [
            format!("Error: listen EADDRINUSE: address already in use :::{port}"),
            format!("listen tcp 127.0.0.1:{port}: bind: address already in use"),
            format!(
                "OSError: [Errno 98] Address already in use (while attempting to bind on address ('127.0.0.1', {port}))"
            ),
            format!("Error: Port {port} is already in use"),
        ] {
            let owner = owner_in(line.clone()).unwrap_or_default();
            assert!(owner.contains(&format!("port {port} is taken by pid {}", std::process::id())), "{line}: {owner}");
        }
        assert_eq!(owner_in(format!("listening on {port}")), None);
        drop(listener);
        assert_eq!(owner_in(format!("Error: Port {port} is already in use")), None);
    }

    #[test]
    fn the_owner_of_a_taken_port_is_owner_in() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (home, assigned) = (Home::at("/nowhere"), AssignedPort::Exactly(port));
        let problem = assigned.check(&home).unwrap_err();
        assert_eq!((problem.code, &problem.observed["pid"]), (Code::PortTaken, &std::process::id().into()));
        let text = assigned.next(&home).unwrap_err().to_string();
        assert!(text.contains(&format!("port {port} is taken by pid {}", std::process::id())), "{text}");
        drop(listener);
        assert_eq!(assigned.next(&home).unwrap(), Some(port));
        assert!(assigned.check(&home).is_ok());
    }
}
