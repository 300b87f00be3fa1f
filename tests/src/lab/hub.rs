//! The hub of a lab: starting it, finding it, killing it.

use super::Lab;
use super::running::{Running, kill_9};
use crate::wait::PATIENCE;
use anyhow::{Context, Result, ensure};
use linchpin_shared::process::Identity;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// What `hub.json` says about the hub.
#[derive(Debug, Clone)]
pub struct HubFacts {
    /// Its URL, without a slash at the end.
    pub url: String,
    /// Its token.
    pub token: String,
    /// Its pid.
    pub pid: u32,
}

impl Lab {
    /// Starts the hub in the foreground and waits until it answers.
    ///
    /// # Errors
    /// If it does not.
    pub async fn hub(&self) -> Result<Running> {
        let mut hub = self.run_in_front("hub", ["hub"])?;
        self.hub_answers(Some(&mut hub)).await?;
        Ok(hub)
    }

    /// Waits until a hub answers; with a [`Running`], until that one does.
    ///
    /// # Errors
    /// If none does in time.
    pub async fn hub_answers(&self, mut hub: Option<&mut Running>) -> Result<HubFacts> {
        let client = reqwest::Client::new();
        self.wait_for("the hub answers", async || {
            if let Some(running) = hub.as_deref_mut() {
                ensure!(running.ended()?.is_none(), "the hub ended: {}", running.printed());
            }
            let facts = self.hub_facts()?;
            let wanted = hub.as_deref().map_or(facts.pid, Running::pid);
            ensure!(facts.pid == wanted, "hub.json names {}, not {wanted}", facts.pid);
            client.get(format!("{}/health", facts.url)).send().await?.error_for_status()?;
            Ok(facts)
        })
        .await
    }

    /// What `hub.json` says. The file outlives the hub.
    ///
    /// # Errors
    /// If there is none.
    pub fn hub_facts(&self) -> Result<HubFacts> {
        let json = self.hub_file()?;
        let word = |field: &str| json[field].as_str().with_context(|| format!("hub.json has no {field}"));
        Ok(HubFacts {
            url: word("url")?.trim_end_matches('/').to_owned(),
            token: word("token")?.to_owned(),
            pid: u32::try_from(json["process"]["pid"].as_u64().context("hub.json has no pid")?)?,
        })
    }

    /// `hub.json` as it is.
    ///
    /// # Errors
    /// If there is none, or it is not JSON.
    pub fn hub_file(&self) -> Result<Value> {
        let path = self.home().join("hub.json");
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))
    }

    /// The process that `hub.json` names.
    ///
    /// # Errors
    /// If there is no such file.
    pub fn hub_process(&self) -> Result<Identity> {
        Ok(serde_json::from_value(self.hub_file()?["process"].clone())?)
    }

    /// The port that `hub.json` names.
    ///
    /// # Errors
    /// If there is no such file.
    pub fn hub_port(&self) -> Result<u16> {
        Ok(u16::try_from(self.hub_file()?["port"].as_u64().context("hub.json has no port")?)?)
    }

    /// Kills the hub that `hub.json` names and waits until it is gone.
    ///
    /// # Errors
    /// If it does not run.
    pub async fn kill_hub(&self) -> Result<()> {
        kill_9(self.hub_facts()?.pid).await
    }

    /// Sends these bytes to the hub, and returns the status and all that it sends until it closes.
    ///
    /// # Errors
    /// If there is no hub, or it does not close the connection in time.
    pub async fn raw(&self, bytes: &str) -> Result<(u16, String)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.hub_port()?)).await?;
        let mut answer = Vec::new();
        let exchange = async {
            // The hub may close before everything is sent; what it answered counts.
            let _ = stream.write_all(bytes.as_bytes()).await;
            let _ = stream.read_to_end(&mut answer).await;
        };
        timeout(PATIENCE, exchange).await.context("the hub did not close the connection")?;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        Ok((status, answer))
    }
}
