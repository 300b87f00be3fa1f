//! An agent that drives an MCP command over its pipes: `linchpin mcp`, or a server directly.
//!
//! Every line of the command's standard output must be one JSON message; anything else is an error, as the
//! specification has it. Requests may overlap ([`Stdio::send`], [`Stdio::answer`]), and a message that is not the
//! awaited one is kept.

use super::{ANSWER, Agent, Reply, answer_to, introduction};
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::{Instant, timeout};

/// How long a server may take to end when its agent has gone; agents kill it after a few seconds.
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
    /// Starts the command and begins a session; its standard error is appended to `errors`. Returns the session and
    /// what the server said of itself.
    ///
    /// # Errors
    /// If it cannot be started or does not answer as a server.
    pub async fn open(command: Command, errors: &Path) -> Result<(Self, Value)> {
        Self::open_with(command, errors, json!({})).await
    }

    /// As [`Stdio::open`], for a client that announces these capabilities. The test answers what the server then asks.
    ///
    /// # Errors
    /// As [`Stdio::open`].
    pub async fn open_with(command: Command, errors: &Path, capabilities: Value) -> Result<(Self, Value)> {
        let mut agent = Self::start(command, errors)?;
        let about = agent.initialize(&capabilities).await?;
        Ok((agent, about))
    }

    /// Begins a session and returns what the server said of itself.
    ///
    /// # Errors
    /// If the command does not answer as a server.
    pub async fn initialize(&mut self, capabilities: &Value) -> Result<Value> {
        let about = self.request("initialize", introduction(capabilities)).await?.result()?;
        self.notify("notifications/initialized", json!({})).await?;
        Ok(about)
    }

    /// Starts the command and sends nothing yet.
    ///
    /// # Errors
    /// If it cannot be started.
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

    /// Sends a request and returns its id.
    ///
    /// # Errors
    /// If the command has closed its input.
    pub async fn send(&mut self, method: &str, params: Value) -> Result<u64> {
        let id = self.next_id;
        self.next_id += 1;
        self.send_as(&json!(id), method, params).await?;
        Ok(id)
    }

    /// Sends a request under this id.
    ///
    /// # Errors
    /// As [`Stdio::send`].
    pub async fn send_as(&mut self, id: &Value, method: &str, params: Value) -> Result<()> {
        self.line(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}).to_string()).await
    }

    /// Sends a notification.
    ///
    /// # Errors
    /// If the command has closed its input.
    pub async fn notify(&mut self, method: &str, params: Value) -> Result<()> {
        self.line(&json!({"jsonrpc": "2.0", "method": method, "params": params}).to_string()).await
    }

    /// Sends any line, also one that is not a message.
    ///
    /// # Errors
    /// If the command has closed its input.
    pub async fn line(&mut self, line: &str) -> Result<()> {
        self.input.write_all(format!("{line}\n").as_bytes()).await.context("the agent's server is gone")?;
        self.input.flush().await.context("the agent's server is gone")
    }

    /// Waits for the answer to a request of [`Stdio::send`].
    ///
    /// # Errors
    /// As [`Stdio::first`].
    pub async fn answer(&mut self, id: u64) -> Result<Reply> {
        Reply::of(self.response(&json!(id)).await?)
    }

    /// Waits for the response with this id and returns the whole message.
    ///
    /// # Errors
    /// As [`Stdio::first`].
    pub async fn response(&mut self, id: &Value) -> Result<Value> {
        let what = format!("the response to {id:.40}");
        self.first(&what, ANSWER, |message| message["id"] == *id && message.get("method").is_none()).await
    }

    /// Sends `ping` and waits for the answer of whoever is at the other end.
    ///
    /// # Errors
    /// If there is none, or it is an error.
    pub async fn ping(&mut self) -> Result<()> {
        let result = self.request("ping", json!({})).await?.result()?;
        ensure!(result == json!({}), "ping was answered with {result}");
        Ok(())
    }

    /// Waits for a notification; one that has arrived before counts, and is returned once.
    ///
    /// # Errors
    /// As [`Stdio::first`].
    pub async fn notification(&mut self, method: &str, within: Duration) -> Result<Value> {
        self.first(method, within, |message| message["method"] == method && message["id"].is_null()).await
    }

    /// Waits for the first message that `wanted` accepts, and keeps the others.
    ///
    /// # Errors
    /// If it does not arrive, the command ended, or it printed something that is not a message.
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

    /// How many notifications with this method are kept.
    #[must_use]
    pub fn kept(&self, method: &str) -> usize {
        self.kept.iter().filter(|message| message["method"] == method).count()
    }

    /// Drops the messages that are kept.
    pub fn forget(&mut self) {
        self.kept.clear();
    }

    async fn receive(&mut self) -> Result<Value> {
        let Some(line) = self.output.next_line().await? else {
            bail!("the agent's server closed its output");
        };
        serde_json::from_str(&line).with_context(|| format!("not a message on standard output: {line}"))
    }

    /// Closes the command's input, as an agent does that ends, and waits until the command has ended by itself.
    ///
    /// # Errors
    /// If it does not end soon, or not with success.
    pub async fn close(self) -> Result<()> {
        timeout(GOODBYE, self.leave()).await.context("the command still runs after its agent has gone")?.map(drop)
    }

    /// As [`Stdio::close`]; returns how long the command still ran and the messages that nobody awaited.
    ///
    /// # Errors
    /// As [`Stdio::close`], after the patience of [`ANSWER`].
    pub async fn leave(self) -> Result<(Duration, Vec<Value>)> {
        let Self { mut child, input, mut output, mut kept, .. } = self;
        let begun = Instant::now();
        drop(input);
        let rest = async {
            while let Some(line) = output.next_line().await? {
                let message = serde_json::from_str(&line);
                kept.push(message.with_context(|| format!("not a message on standard output: {line}"))?);
            }
            Ok::<_, anyhow::Error>(kept)
        };
        let end = timeout(ANSWER, async { tokio::join!(child.wait(), rest) }).await;
        let (status, kept) = end.context("the command still runs after its agent has gone")?;
        let (status, took) = (status?, begun.elapsed());
        ensure!(status.success(), "it ended with {status}");
        Ok((took, kept?))
    }

    /// Kills the command, for one that does not end by itself.
    ///
    /// # Errors
    /// If the system refuses.
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
