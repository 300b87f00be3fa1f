//! Taking the place of a live instance: it is ended, and its ports are free, before its name is taken.
//!
//! The instance's own process is asked first, so that it ends what it runs as it always does. When it does not end in
//! time, it is killed with all its processes, the keeper first. Then the sockets are awaited on which any of them
//! listened. Every signal goes to an identity that is checked at that moment, and every wait has a limit, after which a
//! [`Problem`] names what is left. Neither this process and its ancestors nor a detached program are ever ended.

use super::family::ProcessFamily;
use crate::process_table::ProcessEntry;
use linchpin_shared::port::{self, Listener};
use linchpin_shared::problem::{Code, Problem};
use linchpin_shared::process::{Identity, Signal, command_line};
use linchpin_shared::registry::Entry;
use std::collections::BTreeSet;
use std::io;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How often a condition is checked that is waited for.
const POLL_INTERVAL: Duration = Duration::from_millis(10);
/// How long children may take that an instance left when it ended on request, before they are killed.
const CHILDREN_WITHIN: Duration = Duration::from_secs(2);
/// How long the kernel may take to end killed processes. Only one that waits inside the kernel, for a disk, takes
/// longer.
const KILL_WITHIN: Duration = Duration::from_secs(10);
/// How long a socket may stay open after all processes have ended that are known to have it.
const PORTS_WITHIN: Duration = Duration::from_secs(5);

/// Ends another instance. `taken` is the conflict that is returned when the instance cannot be ended.
pub(super) async fn stop(
    other: &Entry,
    holder: Option<Identity>,
    excluded: Option<&Identity>,
    patience: Duration,
    taken: Problem,
) -> Result<(), Problem> {
    let mut family = ProcessFamily::collect(other, holder, excluded).map_err(|error| cannot_list(&error))?;
    let name = &other.record.name;
    if family.includes_this_process() {
        return Err(taken
            .seen("why", "this program runs inside that instance and would be ended with it")
            .next(format!("from another terminal: linchpin stop {name}")));
    }
    let listeners = family.listeners();
    let roots = family.roots.clone();
    let Some(asked) = roots.iter().find(|root| **root == other.record.process).or(roots.first()) else {
        return Ok(());
    };
    tracing::info!(name, pid = asked.pid, "asking the other instance to stop");
    send(asked, Signal::TERM)?;
    for root in &roots {
        // A stopped process receives SIGTERM only once it continues.
        send(root, Signal::CONT)?;
    }
    let ended = wait(patience, async || !roots.iter().any(Identity::is_alive)).await;
    if !ended {
        tracing::warn!(name, "the other instance does not stop; it is killed with all its processes");
        for root in &roots {
            send(root, Signal::KILL)?;
        }
    }
    end_rest(&mut family, ended).await?;
    wait_for_ports(&listeners).await
}

/// Ends the remaining processes. Those of an instance that ended on request get SIGTERM and some time first.
async fn end_rest(family: &mut ProcessFamily, on_request: bool) -> Result<(), Problem> {
    if on_request {
        for entry in family.living().map_err(|error| cannot_list(&error))? {
            let _ = entry.signal(Signal::TERM).and_then(|_| entry.signal(Signal::CONT));
        }
        if wait(CHILDREN_WITHIN, async || family.living().is_ok_and(|living| living.is_empty())).await {
            return Ok(());
        }
    }
    let mut refused = None;
    let killed = wait(KILL_WITHIN, async || {
        let living = family.living().unwrap_or_default();
        for entry in &living {
            // It is repeated because processes may be started meanwhile.
            refused = entry.signal(Signal::KILL).err().or(refused.take());
        }
        living.is_empty()
    });
    if killed.await {
        return Ok(());
    }
    Err(still_running(&family.living().unwrap_or_default(), refused.as_ref()))
}

/// Waits until no process has any of these sockets open.
async fn wait_for_ports(listeners: &[Listener]) -> Result<(), Problem> {
    let inodes: BTreeSet<u64> = listeners.iter().map(|listener| listener.inode).collect();
    let mut open: Vec<Listener> = listeners.to_vec();
    let freed = wait(PORTS_WITHIN, async || {
        open = port::listeners().unwrap_or_default();
        open.retain(|listener| inodes.contains(&listener.inode));
        open.is_empty()
    });
    if freed.await {
        return Ok(());
    }
    let Some(listener) = open.first() else { return Ok(()) };
    let (port, holder) = (listener.address.port(), listener.holder());
    let problem = Problem::new(Code::PortTaken, "the other instance ended, but another program still has its port")
        .seen("port", port)
        .seen("address", listener.address.to_string())
        .seen("waited_ms", millis(PORTS_WITHIN));
    Err(match holder.process {
        Some(process) => problem
            .seen("pid", process.pid)
            .seen("command", holder.command.unwrap_or_else(|| process.executable.display().to_string()))
            .next(format!("kill {}    (if it is not needed)", process.pid)),
        None => problem.seen("held by user", holder.uid).next(format!("sudo ss -ltnp 'sport = :{port}'")),
    }
    .next("then run the command again"))
}

fn still_running(entries: &[ProcessEntry], refused: Option<&io::Error>) -> Problem {
    let what = "processes of the other instance have not ended although they were killed";
    let problem = match refused {
        Some(error) => Problem::from_io(error, Code::TimedOut, what),
        None => Problem::new(Code::TimedOut, what),
    };
    let line = |entry: &ProcessEntry| format!("{} {}", entry.pid, command_line(entry.pid).unwrap_or_default());
    let pids: Vec<String> = entries.iter().map(|entry| entry.pid.to_string()).collect();
    problem
        .seen("left", entries.iter().map(line).collect::<Vec<_>>())
        .seen("waited_ms", millis(KILL_WITHIN))
        .next(format!("ps -o pid,stat,wchan,args -p {}    (D: it waits for a disk or a driver)", pids.join(",")))
        .next("linchpin run --alongside …    (runs beside it under another name)")
}

fn send(to: &Identity, signal: Signal) -> Result<bool, Problem> {
    to.signal(signal).map_err(|error| {
        Problem::from_io(&error, Code::PermissionDenied, "cannot stop the other instance")
            .seen("pid", to.pid)
            .seen("command", command_line(to.pid).unwrap_or_default())
            .next(format!("ps -o pid,user,args -p {}", to.pid))
            .next(format!("sudo kill {}", to.pid))
    })
}

fn cannot_list(error: &io::Error) -> Problem {
    Problem::from_io(error, Code::Internal, "cannot list the processes of this machine").next("ls /proc")
}

async fn wait(within: Duration, mut condition: impl AsyncFnMut() -> bool) -> bool {
    let deadline = Instant::now() + within;
    while !condition().await {
        if Instant::now() >= deadline {
            return false;
        }
        sleep(POLL_INTERVAL).await;
    }
    true
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
