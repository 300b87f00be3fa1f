//! A stdio server that is called directly, with many requests in flight: the reference for callers through the hub.

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

/// A server process and its pipes.
pub(crate) struct Pipe {
    to: Mutex<ChildStdin>,
    waiting: Waiting,
    next_id: AtomicU64,
    _child: Child,
}

impl Pipe {
    /// Starts it and begins a session.
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

    /// Sends one request and returns the whole response.
    pub(crate) async fn rpc(&self, method: &str, params: &Value) -> Result<String> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        self.waiting.lock().await.insert(id, answer);
        let line = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}).to_string() + "\n";
        self.to.lock().await.write_all(line.as_bytes()).await?;
        answered.await.context("the server ended")
    }
}

/// Hands each line to the request that waits for it. The id is searched where the test servers write it, because
/// parsing a large answer would add time of the client.
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
            // A request waits for this id.
            let _ = answer.send(line);
        }
    }
}
