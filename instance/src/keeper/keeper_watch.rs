//! The agent's watch over its keeper: when that is killed, the agent starts another one.
//!
//! An agent in the background has a keeper or is starting one; while none can be started, it goes on without. The new
//! keeper adopts this agent. It is not the agent's parent and cannot see its exit code, so a pipe says whether the
//! agent ends regularly: that is in the pipe before the agent is gone.

use super::orders::{Orders, open_log};
use crate::env::{DETACHED, KEEPER, OWNER, keeper_mark};
use linchpin_shared::backoff::{Backoff, BackoffPolicy};
use linchpin_shared::process::{Identity, exited};
use linchpin_shared::random;
use std::io::{self, PipeWriter, Write};
use std::process::{Command, Stdio};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// The line that a keeper which adopted this agent is sent when the agent starts to end regularly.
pub(super) const DONE: &str = "done";

/// Between attempts to start a keeper, because whatever kills keepers or removed the executable may last.
const RESTART_BACKOFF: BackoffPolicy = BackoffPolicy {
    min: Duration::from_millis(100),
    max: Duration::from_secs(30),
    reset_after: Duration::from_secs(10),
};

/// The capacity of the smallest pipe in bytes: one page (pipe(7)).
const PIPE_CAPACITY: usize = 4096;

/// The task that watches over the keeper.
pub(super) struct KeeperWatch {
    /// Cancelled when the agent ends regularly.
    done: CancellationToken,
    task: JoinHandle<()>,
}

impl KeeperWatch {
    /// Starts to watch over the keeper that sent these orders.
    pub(super) fn start(orders: Orders) -> Self {
        let done = CancellationToken::new();
        Self { done: done.clone(), task: tokio::spawn(watch(orders, done)) }
    }

    /// Call it when the agent starts to end regularly.
    pub(super) fn agent_stopping(&self) {
        self.done.cancel();
    }

    /// Call it when the agent has ended regularly.
    pub(super) async fn agent_done(self) {
        self.done.cancel();
        if let Err(error) = self.task.await {
            tracing::warn!(%error, "the watch over the keeper failed");
        }
    }

    /// Call it when the agent has failed and must be restarted. The keeper learns that from the pipe, which closes
    /// without the line.
    pub(super) async fn agent_failed(self) {
        if self.done.is_cancelled() {
            return self.agent_done().await;
        }
        self.task.abort();
        // Its result does not matter: it was aborted, or it was the task that failed.
        let _ = self.task.await;
    }
}

async fn watch(mut orders: Orders, done: CancellationToken) {
    let (Some(first), Ok(agent)) = (orders.keeper.take(), Identity::current()) else { return };
    if done.run_until_cancelled(exited(&first)).await.is_none() {
        return;
    }
    orders.adopt = Some(agent);
    let mut backoff = Backoff::new(RESTART_BACKOFF);
    loop {
        let started = Instant::now();
        match start(&orders) {
            Ok((keeper, mut pipe)) => {
                tracing::warn!(pid = keeper.pid, "the keeper was killed; another one was started");
                if done.run_until_cancelled(exited(&keeper)).await.is_none() {
                    // It fails only when that keeper is gone too, and then nothing would restart this agent.
                    let _ = writeln!(pipe, "{DONE}");
                    return;
                }
            }
            Err(error) => tracing::warn!(%error, "the keeper was killed, and another one cannot be started yet"),
        }
        backoff.healthy_for(started.elapsed());
        if done.run_until_cancelled(sleep(backoff.next_delay(random::bits()))).await.is_none() {
            return;
        }
    }
}

/// Starts a keeper that adopts this agent. It is reaped like any adopted child.
fn start(orders: &Orders) -> io::Result<(Identity, PipeWriter)> {
    let line = orders.to_line()?;
    let (stdin, mut pipe) = io::pipe()?;
    // What certainly fits is in the pipe before the keeper starts, because this agent may be killed at any moment.
    let (first, rest) = line.split_at(line.len().min(PIPE_CAPACITY));
    pipe.write_all(first)?;
    let Orders { relaunch, options, log, .. } = orders;
    let mut command = Command::new(relaunch.program());
    command.args(&relaunch.keeper).arg(options.name.as_deref().unwrap_or_default()).args(relaunch.typed_args());
    command.current_dir("/").env(DETACHED, "1").env_remove(OWNER).env(KEEPER, keeper_mark(&Identity::current()?));
    command.stdin(stdin).stdout(Stdio::null()).stderr(open_log(log).map_err(io::Error::other)?);
    let keeper = Identity::of(command.spawn()?.id())?;
    pipe.write_all(rest)?;
    Ok((keeper, pipe))
}
