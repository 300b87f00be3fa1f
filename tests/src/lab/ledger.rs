//! Calls whose executions are counted, so that a lost or a doubled answer shows.
//!
//! Owns [`Load`], agents that call one tool again and again while a scenario does its worst, and [`Ledger`], what became
//! of every call beside what the server says that it did. Each call has a word of its own, which the echo server writes
//! to a file when it executes it.
//! Invariant: an answered call was executed once; an interrupted one at most once; a refused one never.
//! Never: repeats a call.

use super::Lab;
use crate::agent::{Agent, Reply, http::Http};
use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::task::JoinSet;

/// What became of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Answered,
    Interrupted,
    Refused,
}

/// Agents that call.
#[derive(Debug)]
pub struct Load {
    file: PathBuf,
    stop: Arc<AtomicBool>,
    callers: JoinSet<Result<Vec<(String, End)>>>,
}

/// What became of the calls: how many of each sort, after every one of them was checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ledger {
    /// Answered with what was asked for.
    pub answered: usize,
    /// Ended with `call_interrupted`.
    pub interrupted: usize,
    /// Ended with another problem, which says that nothing was done.
    pub refused: usize,
}

impl Load {
    /// Begins to call the echo server's tool of this name over `/mcp`, with so many agents side by side.
    ///
    /// # Errors
    /// When an agent gets no session.
    pub async fn start(lab: &Lab, tool: &str, agents: usize) -> Result<Self> {
        let file = lab.dir().join(format!("ledger-{tool}"));
        let (stop, mut callers) = (Arc::new(AtomicBool::new(false)), JoinSet::new());
        for number in 0..agents {
            let agent = lab.http("/mcp").await?;
            callers.spawn(call(agent, tool.to_owned(), file.clone(), number, Arc::clone(&stop)));
        }
        Ok(Self { file, stop, callers })
    }

    /// How many calls were executed so far.
    #[must_use]
    pub fn executed(&self) -> usize {
        std::fs::read_to_string(&self.file).unwrap_or_default().lines().count()
    }

    /// Waits until so many more calls were executed.
    ///
    /// # Errors
    /// When they are not.
    pub async fn goes_on(&self, lab: &Lab, calls: usize) -> Result<()> {
        let before = self.executed();
        lab.wait_for("calls go on", async || {
            let executed = self.executed();
            ensure!(executed >= before + calls, "{executed} executed, {before} before");
            Ok(())
        })
        .await
    }

    /// Ends the load, and holds what agents were told against what the server did.
    ///
    /// # Errors
    /// When a call was lost, executed twice, or answered with what it was not.
    pub async fn finish(mut self) -> Result<Ledger> {
        self.stop.store(true, Ordering::SeqCst);
        let mut ends = Vec::new();
        while let Some(caller) = self.callers.join_next().await {
            ends.extend(caller??);
        }
        let text = std::fs::read_to_string(&self.file).unwrap_or_default();
        let mut executed: BTreeMap<&str, usize> = BTreeMap::new();
        for word in text.lines() {
            *executed.entry(word).or_default() += 1;
        }
        for (word, end) in &ends {
            let times = executed.get(word.as_str()).copied().unwrap_or_default();
            let right = match end {
                End::Answered => times == 1,
                End::Interrupted => times <= 1,
                End::Refused => times == 0,
            };
            ensure!(right, "call {word} was {end:?} and executed {times} times");
        }
        let count = |wanted| ends.iter().filter(|(_, end)| *end == wanted).count();
        Ok(Ledger {
            answered: count(End::Answered),
            interrupted: count(End::Interrupted),
            refused: count(End::Refused),
        })
    }
}

async fn call(
    mut agent: Http,
    tool: String,
    file: PathBuf,
    caller: usize,
    stop: Arc<AtomicBool>,
) -> Result<Vec<(String, End)>> {
    let mut ends = Vec::new();
    while !stop.load(Ordering::SeqCst) {
        let word = format!("{caller}-{}", ends.len());
        let arguments = json!({"message": word, "ledger": file});
        let reply = agent.request("tools/call", json!({"name": tool, "arguments": arguments})).await;
        let end = match reply.with_context(|| format!("call {word}"))? {
            Reply::Result(result) => {
                ensure!(result["content"][0]["text"] == word.as_str(), "call {word} was answered with {result}");
                End::Answered
            }
            Reply::Error(error) => match error["data"]["code"].as_str() {
                Some("call_interrupted") => End::Interrupted,
                Some("instance_unavailable" | "server_unavailable" | "overloaded") => End::Refused,
                _ => bail!("call {word} ended with {error}"),
            },
        };
        ends.push((word, end));
        // Often enough to be in flight when something happens, and no load to speak of.
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    agent.close().await?;
    Ok(ends)
}
