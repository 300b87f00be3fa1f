//! Calls whose executions are counted, so that a lost or a repeated call is noticed.
//!
//! [`Load`] is a group of agents that call one tool again and again during a scenario, and [`Ledger`] is what became of
//! the calls. Each call has a word of its own, which the echo server writes to a file when it executes the call. An
//! answered call must have been executed once, an interrupted one at most once, and a refused one never. No call is
//! repeated.

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

/// How many calls ended in each way, after each of them was checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ledger {
    /// Answered with the right result.
    pub answered: usize,
    /// Ended with `call_interrupted`.
    pub interrupted: usize,
    /// Ended with another problem, which says that the call was not executed.
    pub refused: usize,
}

impl Load {
    /// Starts calling a tool of the echo server over `/mcp`, with this many agents at the same time.
    ///
    /// # Errors
    /// If an agent gets no session.
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

    /// Waits until this many more calls were executed.
    ///
    /// # Errors
    /// If that takes too long.
    pub async fn continues(&self, lab: &Lab, calls: usize) -> Result<()> {
        let before = self.executed();
        lab.wait_for("calls continue", async || {
            let executed = self.executed();
            ensure!(executed >= before + calls, "{executed} executed, {before} before");
            Ok(())
        })
        .await
    }

    /// Ends the load, and compares what agents were told with what the server did.
    ///
    /// # Errors
    /// If a call was lost, executed twice, or answered with a wrong result.
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
        // Short enough that calls are in flight when something happens, and long enough to be a light load.
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    agent.close().await?;
    Ok(ends)
}
