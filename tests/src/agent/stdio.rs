//! An agent that drives an MCP command over its pipes: `linchpin mcp`, or a server directly.
//!
//! Owns the child and its session. Invariant: every line is one JSON message; anything else on standard output is an
//! error, as the specification has it. Requests may overlap ([`Stdio::send`], [`Stdio::answer`]).
//! Never: drops a message; what is not the awaited answer is kept.

use super::{ANSWER, Agent, Reply, answer_to, introduction};
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

/// How long a server may stay when its agent has gone; agents kill it after a few seconds.
const GOODBYE: Duration = Duration::from_secs(2);

/// A session over a child's pipes.
#[derive(Debug)]
pub struct Stdio {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    next_id: u64,
    kept: Vec<Value>,
}

impl Stdio {
    /// Starts the command and opens a session; its standard error goes to the end of `errors`.
    ///
    /// # Errors
    /// When it cannot be started or does not answer as a server does.
    pub async fn open(command: Command, errors: &Path) -> Result<(Self, Value)> {
        Self::open_able(command, errors, json!({})).await
    }

    /// The same as a client with these capabilities. It says that it has them; it answers no request.
    ///
    /// # Errors
    /// When it cannot be started or does not answer as a server does.
    pub async fn open_able(command: Command, errors: &Path, capabilities: Value) -> Result<(Self, Value)> {
        let mut agent = Self::start(command, errors)?;
        let mut params = introduction();
        params["capabilities"] = capabilities;
        let result = agent.request("initialize", params).await?.result()?;
        agent.notify("notifications/initialized", json!({})).await?;
        Ok((agent, result))
    }

    /// Starts the command without saying anything yet.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(mut command: Command, errors: &Path) -> Result<Self> {
        let errors = std::fs::File::options().create(true).append(true).open(errors)?;
        let mut child = command
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(errors)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {:?}", command.as_std()))?;
        let input = child.stdin.take().context("no standard input")?;
        let output = BufReader::new(child.stdout.take().context("no standard output")?).lines();
        Ok(Self { child, input, output, next_id: 1, kept: Vec::new() })
    }

    /// The pid of the command.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Sends a request and gives its id.
    ///
    /// # Errors
    /// When the command does not read any more.
    pub async fn send(&mut self, method: &str, params: Value) -> Result<u64> {
        let id = self.next_id;
        self.next_id += 1;
        self.line(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}).to_string()).await?;
        Ok(id)
    }

    /// Sends a notification.
    ///
    /// # Errors
    /// When the command does not read any more.
    pub async fn notify(&mut self, method: &str, params: Value) -> Result<()> {
        self.line(&json!({"jsonrpc": "2.0", "method": method, "params": params}).to_string()).await
    }

    /// Sends any line, also one that is no message.
    ///
    /// # Errors
    /// When the command does not read any more.
    pub async fn line(&mut self, line: &str) -> Result<()> {
        self.input.write_all(format!("{line}\n").as_bytes()).await.context("the agent's server is gone")?;
        self.input.flush().await.context("the agent's server is gone")
    }

    /// Waits for the answer to a request of [`Stdio::send`].
    ///
    /// # Errors
    /// When the command ended, or said something that is no message, or said nothing.
    pub async fn answer(&mut self, id: u64) -> Result<Reply> {
        let message = self.first("an answer", ANSWER, |message| message["id"] == id && message["method"].is_null());
        Reply::of(message.await?)
    }

    /// Waits for a notification; one that came before counts, and is given once.
    ///
    /// # Errors
    /// When it does not come.
    pub async fn notification(&mut self, method: &str, within: Duration) -> Result<Value> {
        self.first(method, within, |message| message["method"] == method && message["id"].is_null()).await
    }

    /// Waits for the first message of a kind, and keeps the others.
    ///
    /// # Errors
    /// When it does not come.
    pub async fn first(&mut self, what: &str, within: Duration, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        if let Some(at) = self.kept.iter().position(&wanted) {
            return Ok(self.kept.remove(at));
        }
        let deadline = tokio::time::Instant::now() + within;
        loop {
            let next = tokio::time::timeout_at(deadline, self.receive()).await;
            let message = next.with_context(|| format!("no {what} within {within:?}; kept: {:?}", self.kept))??;
            if wanted(&message) {
                return Ok(message);
            }
            match answer_to(&message) {
                Some(answer) => self.line(&answer.to_string()).await?,
                None => self.kept.push(message),
            }
        }
    }

    /// How many notifications of this method came and were not awaited.
    #[must_use]
    pub fn kept(&self, method: &str) -> usize {
        self.kept.iter().filter(|message| message["method"] == method).count()
    }

    /// Forgets what was kept.
    pub fn forget(&mut self) {
        self.kept.clear();
    }

    async fn receive(&mut self) -> Result<Value> {
        let Some(line) = self.output.next_line().await? else {
            bail!("the agent's server closed its output");
        };
        serde_json::from_str(&line).with_context(|| format!("not a message on standard output: {line}"))
    }

    /// Closes the pipes, as an agent does that goes, and waits until the command ends by itself.
    ///
    /// # Errors
    /// When it does not, or not well.
    pub async fn close(self) -> Result<()> {
        let Self { mut child, input, .. } = self;
        drop(input);
        let status = timeout(GOODBYE, child.wait()).await.context("it stays when its agent goes")??;
        anyhow::ensure!(status.success(), "it ended with {status}");
        Ok(())
    }

    /// Ends the program, for one that does not end by itself.
    ///
    /// # Errors
    /// When it cannot be ended.
    pub async fn kill(mut self) -> Result<()> {
        Ok(self.child.kill().await?)
    }
}

impl Agent for Stdio {
    async fn request(&mut self, method: &str, params: Value) -> Result<Reply> {
        let id = self.send(method, params).await?;
        self.answer(id).await
    }
}
