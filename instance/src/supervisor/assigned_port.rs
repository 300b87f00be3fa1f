//! The port that a process is given in the variable `PORT`.
//!
//! Owns which one. An instance begins its search at a place that its id determines, below the ports that the system hands
//! out by itself: so the same instance gets the same port again after every restart, its own or the machine's, and no
//! outgoing connection takes it meanwhile. Invariant: a port that is given was free on all addresses a moment ago; who
//! binds it is the process, and if another was faster, that one is named at the next start.
//! Never: listens, or keeps a port from anybody.

use linchpin_shared::home::Home;
use linchpin_shared::port::{self, Culprit, Whose};
use linchpin_shared::problem::{Code, Problem};
use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use tokio::net::TcpSocket;
use uuid::Uuid;

/// The name of the variable.
pub(super) const VARIABLE: &str = "PORT";

/// The ports that are given: most servers' usual ports are below, `ip_local_port_range` begins above, with 32768.
const FIRST: u16 = 20_000;
const COUNT: u16 = 10_000;

/// Which port a process is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Given {
    /// None: `PORT` is what it is in our own environment.
    Nothing,
    /// The first free one from here on.
    From(u16),
    /// This one or none.
    Exactly(u16),
}

impl Given {
    /// Where the search for this instance begins.
    pub(crate) fn any(instance: Uuid) -> Self {
        let offset = u16::try_from(instance.as_u128() % u128::from(COUNT)).unwrap_or_default();
        Self::From(FIRST + offset)
    }

    /// A port for the next start.
    ///
    /// # Errors
    /// When the one that is wanted is taken; the text names who has it.
    pub(crate) fn next(self, home: &Home) -> io::Result<Option<u16>> {
        match self {
            Self::Nothing => Ok(None),
            // With ten thousand ports taken, the program is asked to choose by itself, as 0 does everywhere.
            Self::From(first) => Ok(Some(candidates(first).find(|port| is_free(*port)).unwrap_or(0))),
            Self::Exactly(port) if is_free(port) => Ok(Some(port)),
            Self::Exactly(port) => Err(io::Error::new(io::ErrorKind::AddrInUse, taken_by(home, port))),
        }
    }

    /// Refuses a port that is taken, before anything is started.
    pub(crate) fn check(self, home: &Home) -> Result<(), Problem> {
        self.check_unless(home, |_| false)
    }

    /// As [`Given::check`], but lets it pass when who has the port `yields` it.
    pub(crate) fn check_unless(self, home: &Home, yields: impl FnOnce(&Whose) -> bool) -> Result<(), Problem> {
        let Self::Exactly(port) = self else { return Ok(()) };
        if is_free(port) {
            return Ok(());
        }
        let problem = Problem::new(Code::PortTaken, format!("the port {port} is taken")).seen("port", port);
        let problem = match Culprit::find(home, port) {
            Ok(Some(culprit)) if yields(&culprit.whose) => return Ok(()),
            Ok(Some(culprit)) => culprit.named_in(problem),
            Ok(None) | Err(_) => problem.next(format!("ss -tanp 'sport = :{port}'    (shows who has it)")),
        };
        Err(problem.next("run it without --port: it then gets a free one in PORT"))
    }
}

/// In words, who has this port.
pub(super) fn taken_by(home: &Home, port: u16) -> String {
    match Culprit::find(home, port) {
        Ok(Some(culprit)) => format!("port {port} is taken by {culprit}"),
        Ok(None) | Err(_) => format!("port {port} is taken"),
    }
}

/// In words, who has the port of which these lines complain that it is in use. Programs say that in many ways, so any
/// number in such a line counts that is a port on which somebody listens.
pub(super) fn complained_of<'a>(home: &Home, lines: impl Iterator<Item = &'a String>) -> Option<String> {
    let complains = |line: &&String| {
        let line = line.to_ascii_lowercase();
        line.contains("eaddrinuse") || line.contains("already in use")
    };
    let mut said = lines.filter(complains).peekable();
    said.peek()?;
    let listened: BTreeSet<u16> = port::listeners().ok()?.iter().map(|listener| listener.address.port()).collect();
    let mut ports = said.flat_map(|line| numbers(line)).filter(|port| listened.contains(port));
    ports.next().map(|port| taken_by(home, port))
}

/// The numbers in a line that may be ports, the last one first: it comes after the address.
fn numbers(line: &str) -> impl Iterator<Item = u16> {
    line.rsplit(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok())
}

fn candidates(first: u16) -> impl Iterator<Item = u16> {
    (first..FIRST + COUNT).chain(FIRST..first)
}

/// Whether a server could bind this port, whichever of our addresses it wants.
pub(super) fn is_free(port: u16) -> bool {
    let v4 = bind(TcpSocket::new_v4(), (Ipv4Addr::UNSPECIFIED, port).into());
    let v6 = bind(TcpSocket::new_v6(), (Ipv6Addr::UNSPECIFIED, port).into());
    ![v4, v6].into_iter().any(|bound| bound.is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse))
}

/// Binds as servers do, and lets go. A socket that does not listen is in nobody's way.
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
        let (home, given) = (Home::at("/nowhere"), Given::any(Uuid::from_u128(77_777)));
        let first = given.next(&home).unwrap().unwrap();
        assert!((FIRST..FIRST + COUNT).contains(&first));
        assert_eq!(given.next(&home).unwrap(), Some(first));
        for address in [SocketAddr::from((Ipv4Addr::LOCALHOST, first)), SocketAddr::from((Ipv6Addr::LOCALHOST, first))]
        {
            let Ok(listener) = TcpListener::bind(address) else { continue };
            assert_ne!(given.next(&home).unwrap(), Some(first), "{address} is taken");
            drop(listener);
            assert_eq!(given.next(&home).unwrap(), Some(first));
        }
    }

    #[test]
    fn every_candidate_is_in_the_range() {
        for first in [FIRST, FIRST + 5, FIRST + COUNT - 1] {
            let all: Vec<u16> = candidates(first).collect();
            assert_eq!((all[0], all.len()), (first, usize::from(COUNT)));
        }
        assert_eq!(Given::any(Uuid::max()), Given::From(FIRST + u16::try_from(u128::MAX % 10_000).unwrap()));
    }

    #[test]
    fn who_has_the_port_is_found_in_what_a_program_says() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (home, port) = (Home::at("/nowhere"), listener.local_addr().unwrap().port());
        let named = |line: String| complained_of(&home, [line].iter());
        for line in [
            format!("Error: listen EADDRINUSE: address already in use :::{port}"),
            format!("listen tcp 127.0.0.1:{port}: bind: address already in use"),
            format!(
                "OSError: [Errno 98] Address already in use (while attempting to bind on address ('127.0.0.1', {port}))"
            ),
            format!("Error: Port {port} is already in use"),
        ] {
            let culprit = named(line.clone()).unwrap_or_default();
            assert!(
                culprit.contains(&format!("port {port} is taken by pid {}", std::process::id())),
                "{line}: {culprit}"
            );
        }
        assert_eq!(named(format!("listening on {port}")), None);
        drop(listener);
        assert_eq!(named(format!("Error: Port {port} is already in use")), None);
    }

    #[test]
    fn who_has_the_one_port_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (home, given) = (Home::at("/nowhere"), Given::Exactly(port));
        let problem = given.check(&home).unwrap_err();
        assert_eq!((problem.code, &problem.observed["pid"]), (Code::PortTaken, &std::process::id().into()));
        let text = given.next(&home).unwrap_err().to_string();
        assert!(text.contains(&format!("port {port} is taken by pid {}", std::process::id())), "{text}");
        drop(listener);
        assert_eq!(given.next(&home).unwrap(), Some(port));
        assert!(given.check(&home).is_ok());
    }
}
