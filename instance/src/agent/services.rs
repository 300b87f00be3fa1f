//! Registers the ports on which the process of an instance listens as services in its record.
//!
//! Only observed ports ([`vitals::ProcessVitals::ports`]) are registered. Any of them may speak HTTP; a client that connects
//! finds out. While the process starts, the record keeps the ports of its last run, because it is assigned the same
//! port again.

use super::options::MAIN;
use crate::supervisor::Process;
use linchpin_shared::protocol::vitals::{self, ProcessState};
use linchpin_shared::registry::record::Service;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use tokio::sync::watch;

/// Publishes the services of a process for as long as it is supervised.
pub(super) async fn publish(process: Process, registered: watch::Sender<Vec<Service>>) {
    let mut state = process.subscribe();
    loop {
        let (services, current) = {
            let state = state.borrow_and_update();
            (of(&state), state.state)
        };
        if !services.is_empty() || current == ProcessState::Ended {
            registered.send_if_modified(|registered| {
                let changed = *registered != services;
                *registered = services;
                changed
            });
        }
        if state.changed().await.is_err() {
            return;
        }
    }
}

/// Returns the services of a process. The one on the assigned port has the name of the process; without that, the one
/// on the lowest port has.
fn of(process: &vitals::ProcessVitals) -> Vec<Service> {
    // Of several addresses with one port the first counts: they are sorted, the widest first, then IPv4.
    let ports: BTreeMap<u16, IpAddr> = process.ports.iter().rev().map(|at| (at.port, at.address)).collect();
    let assigned = process.given_port.filter(|port| ports.contains_key(port));
    let main = assigned.or_else(|| ports.keys().next().copied());
    let name = |port| if Some(port) == main { MAIN.to_owned() } else { format!("port-{port}") };
    let url = |port, address| format!("http://{}", SocketAddr::new(reachable(address), port));
    ports.into_iter().map(|(port, address)| Service { name: name(port), url: url(port, address) }).collect()
}

/// Returns an address under which a listener is reached on this machine.
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
    fn the_assigned_port_is_the_main_one() {
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
        let services = |process: &vitals::ProcessVitals| {
            of(process).into_iter().map(|service| format!("{} {}", service.name, service.url)).collect::<Vec<_>>()
        };
        let all = ["port-3000 http://127.0.0.1:3000", "main http://127.0.0.1:9000", "port-9001 http://[::1]:9001"];
        assert_eq!(services(&process), all);
        process.ports.truncate(1);
        assert_eq!(services(&process), ["main http://127.0.0.1:3000"], "it chose another port");
        process.ports.clear();
        assert!(of(&process).is_empty());
    }
}
