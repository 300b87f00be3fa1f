//! Taking the place of a live instance: it is ended, and its ports are free, before its name is taken.
//!
//! Owns the order: ask the instance's own process, so that it ends what it runs as it always does; when it does not end
//! in time, kill it with all that belongs to it, its keeper first; then wait for the sockets on which any of them
//! listened. Invariant: every signal goes to an identity that is checked at that moment; everything has a bound, and a
//! [`Problem`] that says who is left. Never: ends us or what we come from, or a program that left on purpose.

use super::crowd::{self, Crowd};
use crate::supervisor::table::Entry;
use linchpin_shared::port::{self, Listener};
use linchpin_shared::problem::{Code, Problem};
use linchpin_shared::process::{Identity, Signal, command_line};
use linchpin_shared::registry::Entry as Registered;
use std::collections::BTreeSet;
use std::io;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How often it is looked at, while something ends.
const LOOK: Duration = Duration::from_millis(10);
/// How long children may take that a program left behind which was asked to end, before they are killed.
const CHILDREN_WITHIN: Duration = Duration::from_secs(2);
/// How long the kernel may take to end who was killed. Longer takes only who waits inside the kernel, for a disk.
const KILL_WITHIN: Duration = Duration::from_secs(10);
/// How long a socket may be open after all who are known to have it ended.
const PORTS_WITHIN: Duration = Duration::from_secs(5);

/// Ends another instance. `taken` is the conflict as it was found, for when it must stand.
pub(super) async fn stop(
    other: &Registered,
    holder: Option<Identity>,
    spared: Option<&Identity>,
    patience: Duration,
    taken: Problem,
) -> Result<(), Problem> {
    let mut crowd = Crowd::gather(other, holder, spared).map_err(|error| unseen(&error))?;
    if crowd.includes_us() {
        let name = &other.record.name;
        return Err(taken
            .seen("why", "this very program runs inside that instance and would be ended with it")
            .next(format!("from another terminal: linchpin stop {name}")));
    }
    let listened = crowd.listeners();
    let (ask, all) = match crowd.heads.iter().find(|head| **head == other.record.process).or(crowd.heads.first()) {
        Some(asked) => (asked.clone(), crowd.heads.clone()),
        None => return Ok(()),
    };
    tracing::info!(name = other.record.name, pid = ask.pid, "asking the other instance to stop");
    send(&ask, Signal::TERM)?;
    for head in &all {
        // Who is stopped does not hear of SIGTERM before it goes on.
        send(head, Signal::CONT)?;
    }
    let ended = wait(patience, async || !all.iter().any(Identity::is_alive)).await;
    if !ended {
        tracing::warn!(
            name = other.record.name,
            "the other instance does not stop; it is killed with all that it runs"
        );
        for head in &all {
            send(head, Signal::KILL)?;
        }
    }
    end_rest(&mut crowd, ended).await?;
    free(&listened).await
}

/// Ends who is left: those whom a program left behind that ended when it was asked get a moment more.
async fn end_rest(crowd: &mut Crowd, asked: bool) -> Result<(), Problem> {
    if asked {
        for entry in crowd.living().map_err(|error| unseen(&error))? {
            let _ = crowd::signal(&entry, Signal::TERM).and_then(|_| crowd::signal(&entry, Signal::CONT));
        }
        if wait(CHILDREN_WITHIN, async || crowd.living().is_ok_and(|living| living.is_empty())).await {
            return Ok(());
        }
    }
    let mut refused = None;
    let killed = wait(KILL_WITHIN, async || {
        let living = crowd.living().unwrap_or_default();
        for entry in &living {
            // Again and again: others may be born meanwhile.
            refused = crowd::signal(entry, Signal::KILL).err().or(refused.take());
        }
        living.is_empty()
    });
    if killed.await {
        return Ok(());
    }
    Err(left(&crowd.living().unwrap_or_default(), refused.as_ref()))
}

/// Waits until nobody has the sockets open any more.
async fn free(listened: &[Listener]) -> Result<(), Problem> {
    let inodes: BTreeSet<u64> = listened.iter().map(|listener| listener.inode).collect();
    let mut open: Vec<Listener> = listened.to_vec();
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
    let problem =
        Problem::new(Code::PortTaken, "the other instance ended, and a program that outlives it has its port")
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

fn left(entries: &[Entry], refused: Option<&io::Error>) -> Problem {
    let what = "processes of the other instance do not even end when they are killed";
    let problem = match refused {
        Some(error) => Problem::from_io(error, Code::TimedOut, what),
        None => Problem::new(Code::TimedOut, what),
    };
    let line = |entry: &Entry| format!("{} {}", entry.pid, command_line(entry.pid).unwrap_or_default());
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

fn unseen(error: &io::Error) -> Problem {
    Problem::from_io(error, Code::Internal, "cannot list the processes of this machine").next("ls /proc")
}

async fn wait(within: Duration, mut condition: impl AsyncFnMut() -> bool) -> bool {
    let deadline = Instant::now() + within;
    while !condition().await {
        if Instant::now() >= deadline {
            return false;
        }
        sleep(LOOK).await;
    }
    true
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
