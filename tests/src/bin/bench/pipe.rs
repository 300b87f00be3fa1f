//! A stdio server called directly, with many requests under way at once: what the hub's callers are compared with.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::{Mutex, oneshot};

type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<String>>>>;

/// A server of our own, and its pipes.
pub(crate) struct Pipe {
    to: Mutex<ChildStdin>,
    waiting: Waiting,
    next_id: AtomicU64,
    _child: Child,
}

impl Pipe {
    /// Starts it and introduces itself.
    pub(crate) async fn open(mut command: Command) -> Result<Arc<Self>> {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true).spawn()?;
        let (to, from) = (child.stdin.take().context("no pipe")?, child.stdout.take().context("no pipe")?);
        let waiting = Waiting::default();
        tokio::spawn(read(from, Arc::clone(&waiting)));
        let pipe = Arc::new(Self { to: Mutex::new(to), waiting, next_id: AtomicU64::new(1), _child: child });
        pipe.rpc("initialize", &linchpin_tests::agent::introduction(&json!({}))).await?;
        Ok(pipe)
    }

    /// One request; the whole message that answers it.
    pub(crate) async fn rpc(&self, method: &str, params: &Value) -> Result<String> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        self.waiting.lock().await.insert(id, answer);
        let line = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}).to_string() + "\n";
        self.to.lock().await.write_all(line.as_bytes()).await?;
        answered.await.context("the server ended")
    }
}

/// Hands each line to who waits for it. Its id is looked for where our servers write it, since reading a large answer as
/// JSON would be the client's time and not the way's.
async fn read(from: ChildStdout, waiting: Waiting) {
    let mut lines = BufReader::with_capacity(1 << 18, from).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let id = line.split_once(r#""id":"#).and_then(|(_, rest)| {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            rest[..digits].parse::<u64>().ok()
        });
        if let Some(answer) = match id {
            Some(id) => waiting.lock().await.remove(&id),
            None => None,
        } {
            // Whoever asked waits.
            let _ = answer.send(line);
        }
    }
}
