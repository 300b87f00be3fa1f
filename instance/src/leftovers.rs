//! The processes that a run of an instance left behind when its agent was killed.
//!
//! The next run ends them, or the hub when there is no next run, and `linchpin stop` checks that there are none. They
//! are recognised by their marks: each supervised process, and each descendant that keeps its environment, names the
//! instance and the process of its agent. Nothing is signalled while that agent runs, and each process is signalled by
//! its identity. Processes without a mark, with the mark of another agent, or that are detached
//! ([`crate::env::DETACHED`]) are left alone.

use crate::owner_mark::InstanceRun;
use crate::supervisor::tree::{ProcessTree, StopTimeouts};
use linchpin_shared::process::{Identity, command_line};
use linchpin_shared::registry::record::Record;
use std::io;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// How many processes are named in a log line.
const NAMED: usize = 5;

/// Returns the processes of this run of an instance that are alive. It blocks for some milliseconds.
///
/// # Errors
/// When the processes of this machine cannot be listed.
pub fn of(instance: Uuid, agent: &Identity) -> io::Result<Vec<Identity>> {
    ProcessTree::DeadRun(InstanceRun::of(instance, agent)).identities()
}

/// Returns those of these dead instances whose processes still run. It blocks for some milliseconds, however many
/// instances are passed.
///
/// # Errors
/// When the processes of this machine cannot be listed.
pub fn among<'a>(dead: impl IntoIterator<Item = &'a Record>) -> io::Result<Vec<&'a Record>> {
    let running = InstanceRun::all_running()?;
    let left = |record: &&Record| running.contains(&InstanceRun::of(record.id, &record.process));
    Ok(dead.into_iter().filter(left).collect())
}

/// Ends what this dead run left, with SIGTERM and, after `patience`, SIGKILL. It returns when nothing of the run is
/// alive, or at once when its agent is. It reads `/proc` often, so run it on a thread of its own where other tasks
/// wait.
pub async fn end(dead: &Record, patience: Duration) {
    if !dead.process.is_alive() {
        end_tree(ProcessTree::DeadRun(InstanceRun::of(dead.id, &dead.process)), &dead.name, patience).await;
    }
}

/// Ends what all killed runs of this instance left.
pub(crate) async fn end_earlier(record: &Record, patience: Duration) {
    end_tree(ProcessTree::EarlierRuns(record.id), &record.name, patience).await;
}

async fn end_tree(tree: ProcessTree<'_>, name: &str, patience: Duration) {
    let left = tree.identities().unwrap_or_default();
    if !left.is_empty() {
        let named: Vec<_> = left.iter().take(NAMED).map(describe).collect();
        tracing::warn!(name, left = left.len(), ?named, "an instance that was killed left processes; they are ended");
    }
    tree.end(StopTimeouts { before_term: Duration::ZERO, after_term: patience }, &CancellationToken::new()).await;
    if !left.is_empty() {
        tracing::info!(name, "the processes that the killed instance left have ended");
    }
}

fn describe(process: &Identity) -> String {
    format!("{} {}", process.pid, command_line(process.pid).unwrap_or_default())
}
