//! Where the process of an instance listens, as services in the record.
//!
//! Owns the way from what was seen ([`vitals::ProcessVitals::ports`]) to what is registered. Any port may be one of HTTP; who
//! asks finds out. Invariant: the record tells where the process listens, or, while it starts, where it listened last: it
//! is given the same port again. Never: tells a port that nobody was seen to listen on.

use super::MAIN;
use crate::supervisor::Process;
use linchpin_shared::protocol::vitals::{self, ProcessState};
use linchpin_shared::registry::record::Service;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use tokio::sync::watch;

/// Tells the services of a process for as long as it is supervised.
pub(super) async fn keep(process: Process, tell: watch::Sender<Vec<Service>>) {
    let mut state = process.watch();
    loop {
        let (services, state_now) = {
            let state = state.borrow_and_update();
            (of(&state), state.state)
        };
        if !services.is_empty() || state_now == ProcessState::Ended {
            tell.send_if_modified(|told| {
                let changed = *told != services;
                *told = services;
                changed
            });
        }
        if state.changed().await.is_err() {
            return;
        }
    }
}

/// The one on the port that was given is called as the process is, or else the one with the lowest port.
fn of(process: &vitals::ProcessVitals) -> Vec<Service> {
    // Of several addresses with one port the first will do: sorted, the widest and then IPv4.
    let ports: BTreeMap<u16, IpAddr> = process.ports.iter().rev().map(|at| (at.port, at.address)).collect();
    let given = process.given_port.filter(|port| ports.contains_key(port));
    let main = given.or_else(|| ports.keys().next().copied());
    let name = |port| if Some(port) == main { MAIN.to_owned() } else { format!("port-{port}") };
    let url = |port, address| format!("http://{}", SocketAddr::new(reachable(address), port));
    ports.into_iter().map(|(port, address)| Service { name: name(port), url: url(port, address) }).collect()
}

/// An address at which this one is reached on this machine.
const fn reachable(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(address) if address.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(address) if address.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        IpAddr::V4(_) | IpAddr::V6(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;
    use linchpin_shared::protocol::vitals::Port;

    #[test]
    fn the_port_that_was_given_is_the_main_one() {
        let port = |port, address: &str| Port { port, address: address.parse().unwrap() };
        let mut process = vitals::ProcessVitals {
            name: MAIN.to_owned(),
            state: ProcessState::Running,
            pid: Some(1),
            restarts: 0,
            since: Timestamp::UNIX_EPOCH,
            last_end: None,
            next_start: None,
            given_port: Some(9000),
            ports: vec![port(3000, "127.0.0.1"), port(9000, "0.0.0.0"), port(9000, "::"), port(9001, "::")],
        };
        let shown = |process: &vitals::ProcessVitals| {
            of(process).into_iter().map(|service| format!("{} {}", service.name, service.url)).collect::<Vec<_>>()
        };
        let all = ["port-3000 http://127.0.0.1:3000", "main http://127.0.0.1:9000", "port-9001 http://[::1]:9001"];
        assert_eq!(shown(&process), all);
        process.ports.truncate(1);
        assert_eq!(shown(&process), ["main http://127.0.0.1:3000"], "it took another one");
        process.ports.clear();
        assert!(of(&process).is_empty());
    }
}
