//! The port rule (DESIGN 4.5): which port the hub listens on.
//!
//! Owns the order of candidates. Invariant: binding is the test; nothing is probed first and bound later.
//! The port of the hub before comes first, so that an address that agents were given stays good over restarts and
//! upgrades; then the 23 from the configured one on, 7777 to 7799; then any. A port that was asked for is the only one.
//! Never: listens on anything but loopback.

use linchpin_shared::home::Home;
use linchpin_shared::port::Culprit;
use linchpin_shared::problem::{Code, Problem};
use std::net::{Ipv4Addr, SocketAddr};
use tokio::net::TcpListener;

/// The last port of the range that begins with the configured one.
const RANGE: u16 = 22;

/// Which port is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// This one or none.
    Exactly(u16),
    /// From this one on; 0 is any.
    From(u16),
}

/// Returns the port that the next hub tries first; 0 means any free one.
///
/// `configured` is the port of the settings, `before` that of the last hub.
#[must_use]
pub fn preferred_port(configured: u16, before: Option<u16>) -> u16 {
    candidates(Wanted::From(configured), before).first().copied().unwrap_or(0)
}

/// The ports to try, in order.
fn candidates(wanted: Wanted, before: Option<u16>) -> Vec<u16> {
    match wanted {
        Wanted::Exactly(port) => vec![port],
        Wanted::From(0) => before.into_iter().chain([0]).collect(),
        Wanted::From(first) => {
            let range = first..=first.saturating_add(RANGE);
            // Outside the range: the setting was changed since.
            let before = before.filter(|port| range.contains(port));
            before.into_iter().chain(range).chain([0]).collect()
        }
    }
}

/// Binds the hub's listener on loopback.
///
/// # Errors
/// [`Code::PortTaken`] when the one port that was asked for is taken, with the way out; [`Code::PermissionDenied`] for a
/// privileged one.
pub async fn bind(home: &Home, wanted: Wanted, before: Option<u16>) -> Result<TcpListener, Problem> {
    let mut last = None;
    for port in candidates(wanted, before) {
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

/// Names who holds the port, as far as the system tells.
fn taken(home: &Home, port: u16, error: &std::io::Error) -> Problem {
    let problem =
        Problem::from_io(error, Code::PortTaken, format!("cannot listen on 127.0.0.1:{port}")).seen("port", port);
    let problem = match Culprit::find(home, port) {
        Ok(Some(culprit)) => culprit.named_in(problem),
        Ok(None) | Err(_) => problem,
    };
    problem.next("start without --port; the hub then takes the next free one")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order() {
        assert_eq!(candidates(Wanted::Exactly(80), Some(7778)), [80]);
        assert_eq!(candidates(Wanted::From(0), Some(7778)), [7778, 0]);
        let all = candidates(Wanted::From(7777), Some(7790));
        assert_eq!((all[0], all[1], all[23], all[24]), (7790, 7777, 7799, 0));
        assert_eq!(candidates(Wanted::From(9000), Some(7790))[0], 9000, "another port was set");
    }

    #[tokio::test]
    async fn a_taken_port_is_passed_over_unless_it_was_asked_for() {
        let home = Home::at("/nowhere");
        let first = bind(&home, Wanted::From(0), None).await.unwrap();
        let port = first.local_addr().unwrap().port();
        let second = bind(&home, Wanted::From(0), Some(port)).await.unwrap();
        assert_ne!(second.local_addr().unwrap().port(), port);
        let problem = bind(&home, Wanted::Exactly(port), None).await.unwrap_err();
        assert_eq!((problem.code, problem.observed["port"].as_u64()), (Code::PortTaken, Some(u64::from(port))));
        assert_eq!(problem.observed["pid"], std::process::id());
    }
}
