//! The official SDKs as agents: the Python SDK through `tests/kit/client.py`, both TypeScript SDKs through
//! `client.mjs`.
//!
//! A driver reads one request per line and prints one answer per line. It shows what an independent implementation of
//! MCP makes of the hub, so its answers are not interpreted here.

use super::ANSWER;
use crate::lab::Lab;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout};

/// How long a driver may take for one answer: longer than any SDK waits by itself.
const PATIENCE: Duration = Duration::from_secs(75);

/// A session of an SDK.
#[derive(Debug)]
pub struct Driven {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    session: Option<String>,
}

impl Driven {
    /// The Python SDK, with this way to find the version (`auto`, `legacy`, `2026-07-28`) and this transport (`http
    /// URL`, `stdio COMMAND…`). Also returns what the server said of itself.
    ///
    /// # Errors
    /// If the SDK does not connect.
    pub async fn python(lab: &Lab, mode: &str, transport: &[&str]) -> Result<(Self, Value)> {
        Self::open(lab, &crate::kit::python_client()?, &["--mode", mode], transport).await
    }

    /// The TypeScript SDK of this version (`1`, `2`); version 1 knows only the mode `legacy`.
    ///
    /// # Errors
    /// If the SDK does not connect.
    pub async fn typescript(lab: &Lab, sdk: &str, mode: &str, transport: &[&str]) -> Result<(Self, Value)> {
        Self::open(lab, &crate::kit::typescript_client()?, &["--sdk", sdk, "--mode", mode], transport).await
    }

    async fn open(lab: &Lab, line: &[String], options: &[&str], transport: &[&str]) -> Result<(Self, Value)> {
        let (program, script) = line.split_first().context("an empty command line")?;
        let mut command = lab.command(program);
        command.args(script).args(options).args(transport);
        if let Ok(facts) = lab.hub_facts() {
            command.env("LINCHPIN_TOKEN", facts.token);
        }
        let errors = std::fs::File::options().create(true).append(true).open(lab.dir().join("out/drivers.log"))?;
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors).kill_on_drop(true).spawn()?;
        let input = child.stdin.take().context("no standard input")?;
        let output = BufReader::new(child.stdout.take().context("no standard output")?).lines();
        let mut agent = Self { child, input, output, session: None };
        let hello = agent.receive().await.map_err(|error| anyhow::anyhow!("{error:#}\n{}", lab.logs()))?;
        Ok((agent, hello["result"].clone()))
    }

    /// The session id of its last request; `None` on stdio and in 2026-07-28.
    #[must_use]
    pub fn session(&self) -> Option<&str> {
        self.session.as_deref()
    }

    /// Performs one verb of the driver and returns its answer, `{"result"}` or `{"error"}`.
    ///
    /// # Errors
    /// If the driver ended.
    pub async fn perform(&mut self, verb: &Value) -> Result<Value> {
        self.input.write_all(format!("{verb}\n").as_bytes()).await?;
        self.receive().await
    }

    /// As [`Driven::perform`], for a verb that must have a result.
    ///
    /// # Errors
    /// If it is an error.
    pub async fn result(&mut self, verb: &Value) -> Result<Value> {
        let mut answer = self.perform(verb).await?;
        ensure!(answer["error"].is_null(), "{verb} was answered with {answer}");
        Ok(answer["result"].take())
    }

    async fn receive(&mut self) -> Result<Value> {
        let line = tokio::time::timeout(PATIENCE, self.output.next_line()).await.context("the driver is silent")??;
        let line = line.context("the driver ended")?;
        let answer: Value = serde_json::from_str(&line).with_context(|| format!("not JSON: {line}"))?;
        self.session = answer["session"].as_str().map(str::to_owned);
        Ok(answer)
    }

    /// Ends the session and the driver.
    ///
    /// # Errors
    /// If the driver does not end with success.
    pub async fn close(self) -> Result<()> {
        let Self { mut child, input, .. } = self;
        drop(input);
        let status = tokio::time::timeout(ANSWER, child.wait()).await.context("the driver does not end")??;
        ensure!(status.success(), "the driver ended with {status}");
        Ok(())
    }
}
