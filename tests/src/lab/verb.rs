//! One run of a `linchpin` verb that ends by itself, and what it said.
//!
//! Owns [`Output`]. Invariant: an unexpected exit code is an error that shows both streams.
//! Never: keeps a verb alive; what goes on running is a [`super::running::Running`].

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::time::Duration;
use tokio::process::Command;

/// No verb that ends by itself takes longer; the slowest starts a hub and waits for it.
const WITHIN: Duration = Duration::from_secs(30);

/// What a verb said.
#[derive(Debug, Clone)]
pub struct Output {
    /// The command line, for messages.
    pub command: String,
    /// The exit code; 128 + n after signal n, as a shell has it.
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
    /// When it cannot be started or does not end.
    pub async fn of(mut command: Command) -> Result<Self> {
        use std::os::unix::process::ExitStatusExt;
        let line = format!("{:?}", command.as_std());
        command.stdin(std::process::Stdio::null()).kill_on_drop(true);
        let output = tokio::time::timeout(WITHIN, command.output())
            .await
            .with_context(|| format!("{line} did not end within {WITHIN:?}"))?
            .with_context(|| format!("cannot start {line}"))?;
        let code = output.status.code().or_else(|| output.status.signal().map(|signal| 128 + signal));
        Ok(Self {
            command: line,
            code: code.context("neither an exit code nor a signal")?,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Itself, if the exit code is this one.
    ///
    /// # Errors
    /// When it is another; with what was said.
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
    /// When the exit code is not 0 or the output is not JSON.
    pub fn json(self) -> Result<Value> {
        let ok = self.exits(0)?;
        serde_json::from_str(&ok.stdout).with_context(|| format!("{} printed no JSON: {}", ok.command, ok.stdout))
    }

    /// The `Problem` that a verb with `--json` ended with: its code, after checking that it tells a next step.
    ///
    /// # Errors
    /// When the exit code is another, or there is no problem, or it helps nobody.
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

/// Checks that a `Problem` is complete: type, code, status, what failed, and at least one next step.
///
/// # Errors
/// When something is missing; with the problem.
pub fn check_problem(problem: &Value) -> Result<()> {
    let code = problem["code"].as_str().with_context(|| format!("no code in {problem}"))?;
    ensure!(problem["type"] == format!("urn:linchpin:problem:{code}"), "another type in {problem}");
    ensure!(problem["status"].is_u64() && problem["title"].is_string(), "incomplete: {problem}");
    ensure!(problem["detail"].as_str().is_some_and(|text| !text.is_empty()), "does not say what failed: {problem}");
    let steps = problem["next_steps"].as_array().map_or(0, Vec::len);
    ensure!(steps > 0, "no next step in {problem}");
    Ok(())
}
