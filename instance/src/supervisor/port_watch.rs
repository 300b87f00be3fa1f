//! Which ports a process tree really listens on.
//!
//! Owns the look, several times a second, for as long as the process runs. The list of all listening sockets of the
//! machine costs microseconds; only when that list changed are the files of the tree searched for them.
//! Invariant: what is told is what was seen, whatever the process was given or said; a port that closed is told as well.
//! Never: guesses from output or arguments, connects, or finds a socket of somebody else.

use super::reaper::Reaper;
use super::tree::Tree;
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

/// How often it is looked: often enough that a server which has just bound its port is seen before anybody asks.
const LOOK: Duration = Duration::from_millis(250);

/// The ports of one life of a process, until this is dropped.
#[derive(Debug)]
pub(super) struct Ports {
    seen: watch::Receiver<Vec<Port>>,
    task: JoinHandle<()>,
}

impl Ports {
    /// Begins to look at the tree of this leader, whose members carry this mark.
    pub(super) fn watch(leader: Pid, owner: &str, reaper: &Arc<Reaper>) -> Self {
        let (tell, seen) = watch::channel(Vec::new());
        let task = tokio::spawn(look(leader, owner.to_owned(), Arc::clone(reaper), tell));
        Self { seen, task }
    }

    /// Waits for a change, and says what it is.
    pub(super) async fn changed(&mut self) -> Vec<Port> {
        if self.seen.changed().await.is_err() {
            // It cannot look any more; what was seen last stands.
            std::future::pending::<()>().await;
        }
        self.seen.borrow_and_update().clone()
    }
}

impl Drop for Ports {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn look(leader: Pid, owner: String, reaper: Arc<Reaper>, tell: watch::Sender<Vec<Port>>) {
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut known: Vec<Listener> = Vec::new();
    loop {
        ticks.tick().await;
        let Ok(mut listeners) = port::listeners() else { continue };
        listeners.sort_unstable();
        if listeners == known {
            continue;
        }
        let (asked, owner, reaper) = (listeners.clone(), owner.clone(), Arc::clone(&reaper));
        let searched = tokio::task::spawn_blocking(move || search(leader, &owner, &reaper, &asked)).await;
        // What could not be seen is looked for again.
        let Ok(Ok(ports)) = searched else { continue };
        known = listeners;
        tell.send_if_modified(|told| {
            let changed = *told != ports;
            *told = ports;
            changed
        });
    }
}

/// The ports among these on which the tree listens, in order.
fn search(leader: Pid, owner: &str, reaper: &Reaper, listeners: &[Listener]) -> io::Result<Vec<Port>> {
    let tree = Tree::Process { leader, owner, reaper }.members()?;
    let sockets: BTreeSet<u64> = tree.iter().flat_map(|member| port::sockets(member.pid)).collect();
    let ours = listeners.iter().filter(|listener| sockets.contains(&listener.inode));
    let mut ports: Vec<Port> =
        ours.map(|listener| Port { port: listener.address.port(), address: listener.address.ip() }).collect();
    ports.sort_unstable();
    ports.dedup();
    Ok(ports)
}
