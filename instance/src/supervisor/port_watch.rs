//! Which ports a process tree really listens on.
//!
//! The listening sockets of the machine are listed several times a second, which costs microseconds; only when that
//! list changes are the open files of the tree searched for them. What is reported was observed, whatever port the
//! process was assigned or prints. Nothing is connected to, and sockets of other processes are never reported.

use super::reaper::Reaper;
use super::tree::ProcessTree;
use linchpin_shared::port::{self, Listener};
use linchpin_shared::protocol::vitals::Port;
use rustix::process::Pid;
use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

/// How often the sockets are listed: often enough that a server which has just bound its port is known before anyone
/// asks.
const CHECK_INTERVAL: Duration = Duration::from_millis(250);

/// Watches the ports of one run of a process, until it is dropped.
#[derive(Debug)]
pub(super) struct PortWatch {
    ports: watch::Receiver<Vec<Port>>,
    task: JoinHandle<()>,
}

impl PortWatch {
    /// Starts to watch the tree of this leader, whose members carry this mark.
    pub(super) fn start(leader: Pid, owner: &str, reaper: &Arc<Reaper>) -> Self {
        let (sender, ports) = watch::channel(Vec::new());
        let task = tokio::spawn(watch_ports(leader, owner.to_owned(), Arc::clone(reaper), sender));
        Self { ports, task }
    }

    /// Waits for a change and returns the current ports.
    pub(super) async fn changed(&mut self) -> Vec<Port> {
        if self.ports.changed().await.is_err() {
            // The task has ended; the last known ports stay.
            std::future::pending::<()>().await;
        }
        self.ports.borrow_and_update().clone()
    }
}

impl Drop for PortWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn watch_ports(leader: Pid, owner: String, reaper: Arc<Reaper>, sender: watch::Sender<Vec<Port>>) {
    let mut ticks = interval(CHECK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut known: Vec<Listener> = Vec::new();
    loop {
        ticks.tick().await;
        let Ok(mut listeners) = port::listeners() else { continue };
        listeners.sort_unstable();
        if listeners == known {
            continue;
        }
        let (candidates, owner, reaper) = (listeners.clone(), owner.clone(), Arc::clone(&reaper));
        let searched = tokio::task::spawn_blocking(move || search(leader, &owner, &reaper, &candidates)).await;
        // A search that failed is repeated.
        let Ok(Ok(ports)) = searched else { continue };
        known = listeners;
        sender.send_if_modified(|published| {
            let changed = *published != ports;
            *published = ports;
            changed
        });
    }
}

/// Returns the ports on which the tree listens, sorted.
fn search(leader: Pid, owner: &str, reaper: &Reaper, listeners: &[Listener]) -> io::Result<Vec<Port>> {
    let tree = ProcessTree::Supervised { leader, owner, reaper }.members()?;
    let sockets: BTreeSet<u64> = tree.iter().flat_map(|member| port::sockets(member.pid)).collect();
    let of_tree = listeners.iter().filter(|listener| sockets.contains(&listener.inode));
    let mut ports: Vec<Port> =
        of_tree.map(|listener| Port { port: listener.address.port(), address: listener.address.ip() }).collect();
    ports.sort_unstable();
    ports.dedup();
    Ok(ports)
}
