//! Which port the hub listens on (ARCHITECTURE.md, "Ports and starts").
//!
//! The first candidate is the port of the last hub, so that an address that agents were given stays valid over restarts
//! and upgrades. Then come the 23 ports from the configured one on (7777 to 7799 by default), and then any free port.
//! If a port was asked for, it is the only candidate. A candidate is tested by binding it, never by probing it first.
//! The hub listens on loopback only.

use linchpin_shared::home::Home;
use linchpin_shared::port::Culprit;
use linchpin_shared::problem::{Code, Problem};
use std::net::{Ipv4Addr, SocketAddr};
use tokio::net::TcpListener;

/// How many ports follow the configured one in the range.
const RANGE_LEN: u16 = 22;

/// Which port to listen on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortChoice {
    /// Only this one.
    Exactly(u16),
    /// The range that starts with this one; 0 means any free port.
    From(u16),
}

/// Returns the port that the next hub tries first; 0 means any free one.
///
/// `configured` is the port of the settings, `before` that of the last hub.
#[must_use]
pub fn preferred_port(configured: u16, before: Option<u16>) -> u16 {
    candidates(PortChoice::From(configured), before).first().copied().unwrap_or(0)
}

/// Returns the ports to try, in order.
fn candidates(choice: PortChoice, before: Option<u16>) -> Vec<u16> {
    match choice {
        PortChoice::Exactly(port) => vec![port],
        PortChoice::From(0) => before.into_iter().chain([0]).collect(),
        PortChoice::From(first) => {
            let range = first..=first.saturating_add(RANGE_LEN);
            // If it is outside the range, the setting was changed since.
            let before = before.filter(|port| range.contains(port));
            before.into_iter().chain(range).chain([0]).collect()
        }
    }
}

/// Binds the listener of the hub on loopback.
///
/// # Errors
/// [`Code::PortTaken`] if the only candidate is taken, with a way out; [`Code::PermissionDenied`] for a privileged
/// port.
pub async fn bind(home: &Home, choice: PortChoice, before: Option<u16>) -> Result<TcpListener, Problem> {
    let mut last = None;
    for port in candidates(choice, before) {
        match TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await {
            Ok(listener) => return Ok(listener),
            Err(error) => last = Some((port, error)),
        }
    }
    match last {
        Some((port, error)) => Err(taken(home, port, &error)),
        None => Err(Problem::new(Code::Internal, "no port to try")),
    }
}

/// Names the process that holds the port, as far as the system shows it.
fn taken(home: &Home, port: u16, error: &std::io::Error) -> Problem {
    let problem =
        Problem::from_io(error, Code::PortTaken, format!("cannot listen on 127.0.0.1:{port}")).seen("port", port);
    let problem = match Culprit::find(home, port) {
        Ok(Some(culprit)) => culprit.named_in(problem),
        Ok(None) | Err(_) => problem,
    };
    problem.next("start without --port, and the hub takes the next free port")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_are_ordered() {
        assert_eq!(candidates(PortChoice::Exactly(80), Some(7778)), [80]);
        assert_eq!(candidates(PortChoice::From(0), Some(7778)), [7778, 0]);
        let all = candidates(PortChoice::From(7777), Some(7790));
        assert_eq!((all[0], all[1], all[23], all[24]), (7790, 7777, 7799, 0));
        assert_eq!(candidates(PortChoice::From(9000), Some(7790))[0], 9000, "another port was set");
    }

    #[tokio::test]
    async fn a_taken_port_is_skipped_unless_it_was_asked_for() {
        let home = Home::at("/nowhere");
        let first = bind(&home, PortChoice::From(0), None).await.unwrap();
        let port = first.local_addr().unwrap().port();
        let second = bind(&home, PortChoice::From(0), Some(port)).await.unwrap();
        assert_ne!(second.local_addr().unwrap().port(), port);
        let problem = bind(&home, PortChoice::Exactly(port), None).await.unwrap_err();
        assert_eq!((problem.code, problem.observed["port"].as_u64()), (Code::PortTaken, Some(u64::from(port))));
        assert_eq!(problem.observed["pid"], std::process::id());
    }
}
