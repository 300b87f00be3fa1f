//! The server of `tests/fixtures/mcp_server.py` as an instance of a lab, and the notes that it keeps.

use super::Lab;
use super::running::Running;
use crate::kit;
use crate::wait::{PATIENCE, until};
use anyhow::{Result, ensure};
use std::path::PathBuf;

impl Lab {
    /// Starts an instance with the server of the fixtures in the foreground, and waits until the hub has a session
    /// with it.
    ///
    /// # Errors
    /// If that takes too long.
    pub async fn serve(&self, name: &str) -> Result<Running> {
        let state = self.state(name);
        std::fs::create_dir_all(&state)?;
        let instance = self.instance(name, &kit::fixture(name, &state)?)?;
        until(&format!("{name} is ready"), PATIENCE, async || {
            let status = self.json(&["status"]).await?;
            let ready = status["instances"].as_array().into_iter().flatten().any(|instance| {
                instance["name"] == name
                    && instance["servers"][0]["session"] == "ready"
                    && instance["servers"][0]["tools"].as_u64() > Some(3)
            });
            ensure!(ready, "{status:#}");
            Ok(())
        })
        .await?;
        Ok(instance)
    }

    /// A path in the lab's own directory, for example where the server of this name keeps what outlives it.
    #[must_use]
    pub fn state(&self, name: &str) -> PathBuf {
        self.dir().join(name)
    }

    /// The lines of a file that the server of this name keeps.
    #[must_use]
    pub fn noted(&self, name: &str, file: &str) -> Vec<String> {
        let text = std::fs::read_to_string(self.state(name).join(file)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Waits until the server of this name has noted exactly so many calls of a tool.
    ///
    /// # Errors
    /// If it does not.
    pub async fn called(&self, name: &str, tool: &str, times: usize) -> Result<()> {
        until(&format!("{tool} is called"), PATIENCE, async || {
            let calls = self.noted(name, "calls");
            ensure!(calls.iter().filter(|line| *line == tool).count() == times, "{calls:?}");
            Ok(())
        })
        .await
    }
}
