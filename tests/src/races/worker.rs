//! One worker: a real process that uses the registry.
//!
//! An answer arrives in time or is an error that names the order. A worker ends with its handle, and with this process
//! if that is killed, because its standard input closes. The end of a worker that nobody killed is an error and not an
//! answer.

use super::wire::{Answer, Order};
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// The time limit of an order: it may wait 5 s for the directory lock, on a busy machine.
const WITHIN: Duration = Duration::from_secs(30);

/// A process that carries out orders on the registry.
#[derive(Debug)]
pub struct Worker {
    child: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Worker {
    /// Starts a worker in this home.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(home: &Path) -> Result<Self> {
        Self::with(home, &mut Command::new(crate::kit::program("registry-worker")?))
    }

    /// Starts a worker with this command, for example with a preloaded library.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn with(home: &Path, command: &mut Command) -> Result<Self> {
        let command = command.env("LINCHPIN_HOME", home).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.kill_on_drop(true).spawn().context("cannot start a worker")?;
        let orders = child.stdin.take().context("no standard input")?;
        let answers = BufReader::new(child.stdout.take().context("no standard output")?).lines();
        Ok(Self { child, orders, answers })
    }

    /// Its pid.
    ///
    /// # Errors
    /// If it was killed.
    pub fn pid(&self) -> Result<u32> {
        self.child.id().context("the worker was killed")
    }

    /// Gives an order. Its answer must be read before the next order.
    ///
    /// # Errors
    /// If the worker is gone.
    pub async fn tell(&mut self, order: &Order) -> Result<()> {
        let line = serde_json::to_string(order)? + "\n";
        self.orders.write_all(line.as_bytes()).await.context("the worker is gone")
    }

    /// The answer to the last order.
    ///
    /// # Errors
    /// If the worker ended or does not answer.
    pub async fn answer(&mut self) -> Result<Answer> {
        let line = tokio::time::timeout(WITHIN, self.answers.next_line()).await;
        let Some(line) = line.with_context(|| format!("worker {:?} does not answer", self.child.id()))?? else {
            bail!("worker {:?} ended: {:?}", self.child.id(), self.child.wait().await?);
        };
        serde_json::from_str(&line).with_context(|| format!("no answer: {line}"))
    }

    /// Gives an order and waits for its answer.
    ///
    /// # Errors
    /// If the worker is gone or does not answer.
    pub async fn ask(&mut self, order: &Order) -> Result<Answer> {
        self.tell(order).await?;
        self.answer().await.with_context(|| format!("asked for {order:?}"))
    }

    /// Gives an order that must succeed.
    ///
    /// # Errors
    /// If it fails.
    pub async fn does(&mut self, order: &Order) -> Result<()> {
        match self.ask(order).await? {
            Answer::Registered { .. } | Answer::Done | Answer::Read { .. } => Ok(()),
            Answer::Refused { code, detail } => bail!("{order:?}: {code:?} {detail}"),
        }
    }

    /// Ends it with SIGKILL and waits until it is gone.
    ///
    /// # Errors
    /// If the system call fails.
    pub async fn kill_9(&mut self) -> Result<()> {
        self.child.kill().await.context("cannot kill a worker")
    }
}
