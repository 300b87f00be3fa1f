//! The agent's watch over its keeper: when that is killed, the agent starts another.
//!
//! Owns the task and the line to the new keeper, which adopts this agent: it is no child of it, so the line tells whether
//! the agent ends as it should. Invariant: an agent in the background has a keeper, or is starting one; the word that it
//! ends as it should is in the pipe before the agent is gone.
//! Never: ends the agent. It goes on without a keeper for as long as none can be started.

use super::{Orders, open_log, said};
use crate::conflict::{KEEPER, keeper_mark};
use crate::supervisor::{DETACHED, OWNER};
use linchpin_shared::backoff::{Backoff, Policy};
use linchpin_shared::process::{Identity, exited};
use linchpin_shared::random;
use std::io::{self, PipeWriter, Write};
use std::process::{Command, Stdio};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// What is said to a keeper that adopted us when we begin to end as we should.
pub(super) const DONE: &str = "done";

/// Between attempts to start a keeper: what kills keepers, or has removed the executable, may do so for long.
const PACE: Policy =
    Policy { min: Duration::from_millis(100), max: Duration::from_secs(30), reset_after: Duration::from_secs(10) };

/// How much the smallest pipe takes at once, in bytes: one page (pipe(7)).
const PIPE: usize = 4096;

/// Watches over the keeper.
pub(super) struct Standby {
    done: CancellationToken,
    task: JoinHandle<()>,
}

impl Standby {
    /// Begins to watch over the keeper that gave these orders.
    pub(super) fn begin(orders: Orders) -> Self {
        let done = CancellationToken::new();
        Self { done: done.clone(), task: tokio::spawn(watch(orders, done)) }
    }

    /// The agent has begun to end as it should.
    pub(super) fn stopping(&self) {
        self.done.cancel();
    }

    /// The agent has ended as it should.
    pub(super) async fn done(self) {
        self.done.cancel();
        if let Err(error) = self.task.await {
            tracing::warn!(%error, "the watch over the keeper failed");
        }
    }

    /// The agent has failed, and is to be started again. It is told by the line's end without a word.
    pub(super) async fn failed(self) {
        if self.done.is_cancelled() {
            return self.done().await;
        }
        self.task.abort();
        // Cancelled, or it was what failed.
        let _ = self.task.await;
    }
}

async fn watch(mut orders: Orders, done: CancellationToken) {
    let (Some(first), Ok(us)) = (orders.keeper.take(), Identity::current()) else { return };
    if done.run_until_cancelled(exited(&first)).await.is_none() {
        return;
    }
    orders.adopt = Some(us);
    let mut pace = Backoff::new(PACE);
    loop {
        let begun = Instant::now();
        match start(&orders) {
            Ok((keeper, mut line)) => {
                tracing::warn!(pid = keeper.pid, "the keeper was killed; another one was started");
                if done.run_until_cancelled(exited(&keeper)).await.is_none() {
                    // It fails only when that keeper is gone too, and then nobody would start us again.
                    let _ = writeln!(line, "{DONE}");
                    return;
                }
            }
            Err(error) => tracing::warn!(%error, "the keeper was killed, and another one cannot be started yet"),
        }
        pace.healthy_for(begun.elapsed());
        if done.run_until_cancelled(sleep(pace.next_delay(random::bits()))).await.is_none() {
            return;
        }
    }
}

/// Starts a keeper that adopts us. It is waited for like any child that came to us.
fn start(orders: &Orders) -> io::Result<(Identity, PipeWriter)> {
    let mut words = serde_json::to_vec(orders)?;
    words.push(b'\n');
    let (stdin, mut line) = io::pipe()?;
    // What the pipe surely takes is in it before the keeper is there: we may be killed at any moment.
    let (first, rest) = words.split_at(words.len().min(PIPE));
    line.write_all(first)?;
    let Orders { relaunch, options, log, .. } = orders;
    let mut command = Command::new(relaunch.program());
    command.args(&relaunch.keeper).arg(options.name.as_deref().unwrap_or_default()).args(said(relaunch));
    command.current_dir("/").env(DETACHED, "1").env_remove(OWNER).env(KEEPER, keeper_mark(&Identity::current()?));
    command.stdin(stdin).stdout(Stdio::null()).stderr(open_log(log).map_err(io::Error::other)?);
    let keeper = Identity::of(command.spawn()?.id())?;
    line.write_all(rest)?;
    Ok((keeper, line))
}
