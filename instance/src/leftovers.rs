//! What a life of an instance left behind when its agent was killed.
//!
//! Owns the questions "is there any?" and "end it", for the next life, for the hub when there is no next life, and for
//! who wants to know whether "stopped" is true. What is left is known by its mark: each supervised process, and unless it
//! changes its environment all that comes of it, names the instance and the very process of its agent.
//! Invariant: nothing is signalled while the agent that the mark names runs, and each process only by its identity.
//! Never: touches a process without a mark, of another agent, or one that left on purpose ([`crate::DETACHED`]).

use crate::supervisor::mark::{self, Life};
use crate::supervisor::tree::{Patience, Tree};
use linchpin_shared::process::{Identity, command_line};
use linchpin_shared::registry::record::Record;
use std::io;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// How many of them are named in a log line.
const NAMED: usize = 5;

/// The processes of this life of an instance that run now. Blocks for some milliseconds.
///
/// # Errors
/// When the processes of this machine cannot be listed.
pub fn of(instance: Uuid, agent: &Identity) -> io::Result<Vec<Identity>> {
    Tree::Dead(Life::of(instance, agent)).identities()
}

/// Those of these dead instances whose processes still run. Blocks for some milliseconds, however many are asked for.
///
/// # Errors
/// When the processes of this machine cannot be listed.
pub fn among<'a>(dead: impl IntoIterator<Item = &'a Record>) -> io::Result<Vec<&'a Record>> {
    let lives = mark::lives()?;
    let left = |record: &&Record| lives.contains(&Life::of(record.id, &record.process));
    Ok(dead.into_iter().filter(left).collect())
}

/// Ends what this dead life left, with SIGTERM and, after `patience`, SIGKILL. Comes back when nothing of it runs, at
/// once when its agent does. It reads `/proc` often: give it a thread where others are waiting.
pub async fn end(dead: &Record, patience: Duration) {
    if !dead.process.is_alive() {
        end_tree(Tree::Dead(Life::of(dead.id, &dead.process)), &dead.name, patience).await;
    }
}

/// Ends what all killed lives of this instance left.
pub(crate) async fn end_earlier(record: &Record, patience: Duration) {
    end_tree(Tree::Earlier(record.id), &record.name, patience).await;
}

async fn end_tree(tree: Tree<'_>, name: &str, patience: Duration) {
    let left = tree.identities().unwrap_or_default();
    if !left.is_empty() {
        let named: Vec<_> = left.iter().take(NAMED).map(describe).collect();
        tracing::warn!(name, left = left.len(), ?named, "an instance that was killed left processes; they are ended");
    }
    tree.end(Patience { unasked: Duration::ZERO, asked: patience }, &CancellationToken::new()).await;
    if !left.is_empty() {
        tracing::info!(name, "what the killed instance left has ended");
    }
}

fn describe(process: &Identity) -> String {
    format!("{} {}", process.pid, command_line(process.pid).unwrap_or_default())
}
