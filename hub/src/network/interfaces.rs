//! News about interfaces and addresses: from the kernel where it tells, else by looking.
//!
//! Owns [`Interfaces`], of which [`Interfaces::settled`] ends after each burst of changes. What changed is not read:
//! every link is over loopback, and the only thing that follows is that links make sure of themselves.
//! Invariant: a burst is told once, and a change that never ends is still told within a bound.
//! Never: asks anybody outside this machine.

use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};
use serde::Serialize;
use std::collections::BTreeSet;
use std::time::Duration;
use sysinfo::Networks;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep, timeout_at};

/// So long nothing may change before a burst is over. Taking an interface down and up brings a dozen pieces of news.
const QUIET: Duration = Duration::from_millis(250);

/// A burst that lasts longer is told all the same.
const LONGEST: Duration = Duration::from_secs(2);

/// How often to look where the kernel does not tell.
const LOOK: Duration = Duration::from_secs(5);

/// How news about interfaces comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// From the kernel.
    Netlink,
    /// By looking every few seconds.
    Polling,
}

/// Where news about interfaces comes from.
pub(super) enum Interfaces {
    Netlink(AsyncFd<OwnedFd>),
    Polling(BTreeSet<String>),
    #[cfg(test)]
    Told(tokio::sync::mpsc::Receiver<()>),
}

impl Interfaces {
    /// The kernel's own news if it gives them.
    pub(super) fn watch() -> Self {
        match netlink() {
            Ok(socket) => Self::Netlink(socket),
            Err(error) => {
                tracing::warn!(%error, "the kernel does not tell of interfaces; looking every {LOOK:?}");
                Self::Polling(addresses())
            }
        }
    }

    pub(super) const fn source(&self) -> Source {
        match self {
            Self::Netlink(_) => Source::Netlink,
            Self::Polling(_) => Source::Polling,
            #[cfg(test)]
            Self::Told(_) => Source::Polling,
        }
    }

    /// Ends after the next burst of changes.
    pub(super) async fn settled(&mut self) {
        self.changed().await;
        let end = Instant::now() + LONGEST;
        while Instant::now() < end {
            let quiet = (Instant::now() + QUIET).min(end);
            if timeout_at(quiet, self.changed()).await.is_err() {
                return;
            }
        }
    }

    /// Ends at the next change. Nothing is lost when the future is dropped.
    async fn changed(&mut self) {
        match self {
            Self::Netlink(socket) => match socket.readable().await {
                Ok(mut ready) => {
                    drain(socket.get_ref());
                    ready.clear_ready();
                }
                // The runtime ends.
                Err(_) => std::future::pending().await,
            },
            Self::Polling(known) => loop {
                sleep(LOOK).await;
                let now = addresses();
                if now != *known {
                    *known = now;
                    return;
                }
            },
            #[cfg(test)]
            Self::Told(told) => {
                if told.recv().await.is_none() {
                    std::future::pending::<()>().await;
                }
            }
        }
    }
}

/// A socket on which the kernel tells of interfaces and addresses (rtnetlink(7)).
fn netlink() -> std::io::Result<AsyncFd<OwnedFd>> {
    const GROUPS: i32 = libc::RTMGRP_LINK | libc::RTMGRP_IPV4_IFADDR | libc::RTMGRP_IPV6_IFADDR;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    // Protocol 0, which is what `None` is, is NETLINK_ROUTE.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    bind(&socket, &SocketAddrNetlink::new(0, GROUPS.unsigned_abs()))?;
    #[expect(deprecated, reason = "its successor is unsafe; an OwnedFd keeps all that it asks for")]
    AsyncFd::with_interest(socket, Interest::READABLE)
}

/// Reads all news away. That some were lost for want of room is news too.
fn drain(socket: &OwnedFd) {
    let mut news = [0_u8; 8192];
    loop {
        match recv(socket, &mut news, RecvFlags::empty()) {
            Ok(_) | Err(Errno::NOBUFS | Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

/// Every interface, and each address with its interface; nothing where the system does not tell.
fn addresses() -> BTreeSet<String> {
    let Ok(networks) = Networks::new_with_refreshed_list() else { return BTreeSet::new() };
    let lines = networks.iter().flat_map(|(name, facts)| {
        let name = name.display().to_string();
        let addresses = facts.ip_networks().iter().map(|address| format!("{name} {}/{}", address.addr, address.prefix));
        addresses.chain([name.clone()]).collect::<Vec<_>>()
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc;

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_told_once_and_an_endless_one_within_its_bound() {
        let (tell, told) = mpsc::channel(64);
        let mut interfaces = Interfaces::Told(told);
        for _ in 0..12 {
            tell.try_send(()).unwrap();
        }
        let began = Instant::now();
        interfaces.settled().await;
        assert_eq!(began.elapsed(), QUIET);
        assert!(tokio::time::timeout(LONGEST, interfaces.settled()).await.is_err(), "told twice");

        let endless = tokio::spawn(async move {
            while tell.send(()).await.is_ok() {
                sleep(QUIET / 2).await;
            }
        });
        let began = Instant::now();
        interfaces.settled().await;
        assert!(began.elapsed() <= LONGEST + QUIET, "{:?}", began.elapsed());
        endless.abort();
    }

    #[tokio::test]
    async fn looking_finds_loopback_and_no_change_where_there_is_none() {
        let known = addresses();
        assert!(known.iter().any(|line| line.ends_with(" 127.0.0.1/8")), "{known:#?}");
        assert_eq!(known, addresses());
    }

    /// Where the system lets nobody have such a socket, the hub looks by itself; so this is no error but a fact to see.
    #[tokio::test]
    async fn linux_tells_of_interfaces() {
        assert_eq!(Interfaces::watch().source(), Source::Netlink);
    }
}
