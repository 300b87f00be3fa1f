//! One run of a `linchpin` verb that ends by itself, and what it printed. What keeps running is a
//! [`super::running::Running`].

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

/// The bound of a verb that ends by itself; the slowest ones start a hub and wait for it.
const WITHIN: Duration = Duration::from_secs(30);

/// The exit code and the output of a verb.
#[derive(Debug, Clone)]
pub struct Output {
    /// The command line, for messages.
    pub command: String,
    /// The exit code; 128 + n after signal n, as in a shell.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// Runs a command to its end.
    ///
    /// # Errors
    /// If it cannot be started or does not end.
    pub async fn of(command: Command) -> Result<Self> {
        let (line, child) = spawn(command)?;
        Self::of_child(line, child).await
    }

    async fn of_child(line: String, child: Child) -> Result<Self> {
        use std::os::unix::process::ExitStatusExt;
        let output = tokio::time::timeout(WITHIN, child.wait_with_output())
            .await
            .with_context(|| format!("{line} did not end within {WITHIN:?}"))?
            .with_context(|| format!("cannot read the output of {line}"))?;
        let code = output.status.code().or_else(|| output.status.signal().map(|signal| 128 + signal));
        Ok(Self {
            command: line,
            code: code.context("neither an exit code nor a signal")?,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// The same output, if the exit code is this one.
    ///
    /// # Errors
    /// If it is another; with both streams.
    pub fn exits(self, code: i32) -> Result<Self> {
        ensure!(
            self.code == code,
            "{} ended with {}, not {code}\nstdout: {}\nstderr: {}",
            self.command,
            self.code,
            self.stdout,
            self.stderr
        );
        Ok(self)
    }

    /// Standard output as one JSON value, after success.
    ///
    /// # Errors
    /// If the exit code is not 0 or the output is not JSON.
    pub fn json(self) -> Result<Value> {
        let ok = self.exits(0)?;
        serde_json::from_str(&ok.stdout).with_context(|| format!("{} printed no JSON: {}", ok.command, ok.stdout))
    }

    /// The `Problem` that a verb with `--json` ended with, after [`check_problem`].
    ///
    /// # Errors
    /// If the exit code is another, or there is no problem, or it is incomplete.
    pub fn problem(self, exit: i32) -> Result<Value> {
        let failed = self.exits(exit)?;
        let problem: Value = [&failed.stdout, &failed.stderr]
            .into_iter()
            .find_map(|text| serde_json::from_str(text).ok())
            .with_context(|| format!("no JSON problem in\nstdout: {}\nstderr: {}", failed.stdout, failed.stderr))?;
        check_problem(&problem)?;
        Ok(problem)
    }
}

/// A verb that was started and ends by itself.
#[derive(Debug)]
pub struct Begun(JoinHandle<Result<Output>>);

impl Begun {
    /// Starts a command, which runs while the test does something else.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(command: Command) -> Result<Self> {
        let (line, child) = spawn(command)?;
        Ok(Self(tokio::spawn(Output::of_child(line, child))))
    }

    /// Waits for its end: the exit code, and what it printed, as JSON if it is JSON.
    ///
    /// # Errors
    /// If it does not end.
    pub async fn end(self) -> Result<(i32, Value)> {
        let output = self.0.await??;
        let said = output.stdout + &output.stderr;
        Ok((output.code, serde_json::from_str(&said).unwrap_or(Value::String(said))))
    }
}

/// Starts a command with its output in pipes; also returns its command line.
fn spawn(mut command: Command) -> Result<(String, Child)> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let line = format!("{:?}", command.as_std());
    let child = command.spawn().with_context(|| format!("cannot start {line}"))?;
    Ok((line, child))
}

/// Checks that a `Problem` is complete: type, code, status, what failed, and at least one next step.
///
/// # Errors
/// If something is missing; with the problem.
pub fn check_problem(problem: &Value) -> Result<()> {
    let code = problem["code"].as_str().with_context(|| format!("no code in {problem}"))?;
    ensure!(problem["type"] == format!("urn:linchpin:problem:{code}"), "another type in {problem}");
    ensure!(problem["status"].is_u64() && problem["title"].is_string(), "incomplete: {problem}");
    ensure!(problem["detail"].as_str().is_some_and(|text| !text.is_empty()), "does not say what failed: {problem}");
    let steps = problem["next_steps"].as_array().map_or(0, Vec::len);
    ensure!(steps > 0, "no next step in {problem}");
    Ok(())
}
