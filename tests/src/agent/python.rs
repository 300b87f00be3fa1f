//! The Python SDK as an agent, through `tests/kit/client.py`.
//!
//! Owns the driver's pipes. Invariant: an independent implementation of MCP decides what is right here.
//! Never: interprets what the SDK answered.

use super::ANSWER;
use crate::lab::Lab;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout};

/// A session of the Python SDK.
#[derive(Debug)]
pub struct Python {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Python {
    /// Connects with the given era (`auto`, `legacy`) and transport (`http URL`, `stdio COMMAND…`).
    ///
    /// # Errors
    /// When the SDK does not connect.
    pub async fn open(lab: &Lab, mode: &str, transport: &[&str]) -> Result<(Self, Value)> {
        let line = crate::kit::python_client()?;
        let (program, script) = line.split_first().context("an empty command line")?;
        let mut command = lab.command(program);
        command.args(script).args(["--mode", mode]).args(transport);
        if let Ok(facts) = lab.hub_facts() {
            command.env("LINCHPIN_TOKEN", facts.token);
        }
        let errors = std::fs::File::options().create(true).append(true).open(lab.dir().join("out/python.log"))?;
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors).kill_on_drop(true).spawn()?;
        let input = child.stdin.take().context("no standard input")?;
        let output = BufReader::new(child.stdout.take().context("no standard output")?).lines();
        let mut agent = Self { child, input, output };
        let hello = agent.receive().await.map_err(|error| anyhow::anyhow!("{error:#}\n{}", lab.logs()))?;
        Ok((agent, hello["result"].clone()))
    }

    /// Performs one verb of the driver and gives its answer, `{"result"}` or `{"error"}`.
    ///
    /// # Errors
    /// When the driver ended.
    pub async fn perform(&mut self, verb: &Value) -> Result<Value> {
        self.input.write_all(format!("{verb}\n").as_bytes()).await?;
        self.receive().await
    }

    /// As [`Python::perform`], when only a result will do.
    ///
    /// # Errors
    /// When it is an error.
    pub async fn result(&mut self, verb: &Value) -> Result<Value> {
        let mut answer = self.perform(verb).await?;
        ensure!(answer["error"].is_null(), "{verb} was answered with {answer}");
        Ok(answer["result"].take())
    }

    async fn receive(&mut self) -> Result<Value> {
        let line = tokio::time::timeout(ANSWER, self.output.next_line()).await.context("the driver is silent")??;
        let line = line.context("the driver ended")?;
        serde_json::from_str(&line).with_context(|| format!("not JSON: {line}"))
    }

    /// Ends the session and the driver.
    ///
    /// # Errors
    /// When it does not end well.
    pub async fn close(self) -> Result<()> {
        let Self { mut child, input, .. } = self;
        drop(input);
        let status = tokio::time::timeout(ANSWER, child.wait()).await.context("the driver does not end")??;
        ensure!(status.success(), "the driver ended with {status}");
        Ok(())
    }
}
