//! What a scenario does in its lab: start, look, kill, finish.
//!
//! Owns the verbs of [`Lab`] that run programs. Invariant: each of them comes back only when what it started can be
//! used, and an error tells the last state and the logs. Never: looks into the product by another way than a user has.

use super::running::{Running, kill_9};
use super::verb::Output;
use super::{Lab, leftovers};
use crate::agent::{http::Http, stdio::Stdio};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::ffi::OsStr;
use std::time::Duration;

/// Any single step of a scenario must be done by then; on a busy machine of two cores Node alone takes a second.
pub const STEP: Duration = Duration::from_secs(20);

/// What `hub.json` says of the hub.
#[derive(Debug, Clone)]
pub struct HubFacts {
    /// Its address, without a slash at the end.
    pub url: String,
    /// Its token.
    pub token: String,
    /// Its pid.
    pub pid: u32,
}

impl Lab {
    /// Runs a verb to its end, without letting it start a hub.
    ///
    /// # Errors
    /// When it cannot be started or does not end. Its exit code is for the caller to judge.
    pub async fn verb(&self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<Output> {
        let mut command = self.linchpin(["--no-autostart"]);
        command.args(arguments);
        Output::of(command).await
    }

    /// Waits as [`crate::wait::until`] does; its error also tells the logs.
    ///
    /// # Errors
    /// When the condition does not come.
    pub async fn wait_for<T>(&self, what: &str, probe: impl AsyncFnMut() -> Result<T>) -> Result<T> {
        let outcome = crate::wait::until(what, STEP, probe).await;
        outcome.map_err(|error| anyhow::anyhow!("{error:#}\n{}", self.logs()))
    }

    /// Starts the hub in the foreground and waits until it answers.
    ///
    /// # Errors
    /// When it does not.
    pub async fn hub(&self) -> Result<Running> {
        let mut hub = self.run_in_front("hub", ["hub"])?;
        self.hub_answers(Some(&mut hub)).await?;
        Ok(hub)
    }

    /// Waits until a hub answers; with a [`Running`], until that one does.
    ///
    /// # Errors
    /// When none does.
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

    /// What `hub.json` says. It outlives the hub.
    ///
    /// # Errors
    /// When there is none.
    pub fn hub_facts(&self) -> Result<HubFacts> {
        let path = self.home().join("hub.json");
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let json: Value = serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))?;
        let word = |field: &str| json[field].as_str().with_context(|| format!("hub.json has no {field}"));
        Ok(HubFacts {
            url: word("url")?.trim_end_matches('/').to_owned(),
            token: word("token")?.to_owned(),
            pid: u32::try_from(json["process"]["pid"].as_u64().context("hub.json has no pid")?)?,
        })
    }

    /// Ends the hub that `hub.json` names with SIGKILL.
    ///
    /// # Errors
    /// When there is none.
    pub async fn kill_hub(&self) -> Result<()> {
        kill_9(self.hub_facts()?.pid).await
    }

    /// Starts a verb that goes on running, with its output in the lab's `out/NAME.log`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn run_in_front(&self, name: &str, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<Running> {
        Running::start(self.linchpin(arguments), self.dir().join("out").join(format!("{name}.log")))
    }

    /// `linchpin run --name NAME --mcp -- SERVER…` in the foreground.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn instance(&self, name: &str, server: &[String]) -> Result<Running> {
        self.run_in_front(name, ["run", "--name", name, "--mcp", "--"].into_iter().chain(words(server)))
    }

    /// `linchpin run --name NAME --mcp --detach -- SERVER…`, which comes back when the instance is registered.
    ///
    /// # Errors
    /// When it is not.
    pub async fn detached(&self, name: &str, server: &[String]) -> Result<()> {
        let arguments = ["run", "--name", name, "--mcp", "--detach", "--"].into_iter().chain(words(server));
        self.verb(arguments).await?.exits(0).map(|_| ())
    }

    /// Opens an agent's session through `linchpin mcp`, with more arguments if wanted. The shim may start a hub.
    ///
    /// # Errors
    /// When there is no session.
    pub async fn shim(&self, arguments: &[&str]) -> Result<Stdio> {
        let mut command = self.linchpin(["mcp"]);
        command.args(arguments);
        let opened = Stdio::open(command, &self.dir().join("out/shim.log")).await;
        Ok(opened.map_err(|error| anyhow::anyhow!("{error:#}\n{}", self.logs()))?.0)
    }

    /// Opens an agent's session over HTTP at a path of the hub, for example `/mcp`.
    ///
    /// # Errors
    /// When there is no session.
    pub async fn http(&self, path: &str) -> Result<Http> {
        let facts = self.hub_facts()?;
        let opened = Http::open(format!("{}{path}", facts.url), facts.token).await;
        Ok(opened.map_err(|error| anyhow::anyhow!("{error:#}\n{}", self.logs()))?.0)
    }

    /// `linchpin status --json`.
    ///
    /// # Errors
    /// When it fails.
    pub async fn status(&self) -> Result<Value> {
        self.verb(["status", "--json"]).await?.json()
    }

    /// What `status` says of one instance; of two with this name, the one that is not gone.
    ///
    /// # Errors
    /// When it is not listed.
    pub async fn instance_status(&self, name: &str) -> Result<Value> {
        let status = self.status().await?;
        let instances = status["instances"].as_array().with_context(|| format!("no instances in {status}"))?;
        let named = instances.iter().filter(|instance| instance["name"] == name);
        let found = named.min_by_key(|instance| instance["state"] == "gone");
        found.cloned().with_context(|| format!("{name} is not in {status}"))
    }

    /// Waits until an instance is connected and all its MCP servers have a session and their tools are known (every
    /// server of the kit has some).
    ///
    /// # Errors
    /// When it is not; with what `status` said last.
    pub async fn usable(&self, name: &str) -> Result<Value> {
        self.wait_for(&format!("{name} is usable"), async || {
            let instance = self.instance_status(name).await?;
            ensure!(instance["state"] == "active", "{instance}");
            let servers = instance["servers"].as_array().with_context(|| format!("no servers in {instance}"))?;
            let ready = |server: &Value| server["session"] == "ready" && server["tools"] != 0;
            // None at all means that the instance has not told yet.
            ensure!(!servers.is_empty() && servers.iter().all(ready), "{instance}");
            Ok(instance)
        })
        .await
    }

    /// Waits until `status` shows something of one instance.
    ///
    /// # Errors
    /// When it does not; with what `status` said last.
    pub async fn shows(&self, name: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        self.wait_for(&format!("{name}: {what}"), async || {
            let instance = self.instance_status(name).await?;
            ensure!(wanted(&instance), "{instance}");
            Ok(instance)
        })
        .await
    }

    /// Stops every instance and the hub as a person would, and fails if anything is left: a process, a record, a
    /// half-written file. Agents must be gone before: a shim outlives its hub by design.
    ///
    /// # Errors
    /// When something is left.
    pub async fn finish(self) -> Result<()> {
        if let Ok(status) = self.status().await {
            for instance in status["instances"].as_array().into_iter().flatten() {
                let gone = instance["state"] == "gone";
                let name = instance["name"].as_str().context("an instance without a name")?;
                if !gone {
                    self.verb(["stop", name]).await?.exits(0)?;
                }
            }
            self.verb(["hub", "stop"]).await?.exits(0)?;
        }
        self.nothing_is_left().await
    }

    /// Waits until no process of the lab runs, and checks that the registry is empty.
    ///
    /// # Errors
    /// When something is left.
    pub async fn nothing_is_left(&self) -> Result<()> {
        self.wait_for("all processes end", async || {
            let left = self.mark().processes();
            ensure!(left.is_empty(), "still running:\n{}", leftovers::describe(&left));
            Ok(())
        })
        .await?;
        let left = self.registry_files()?;
        ensure!(left.is_empty(), "left in the registry: {left:?}");
        Ok(())
    }

    /// The names of all files of the registry that belong to an instance: records and what is half written. Lease files
    /// may stay, see DESIGN section 3.
    ///
    /// # Errors
    /// When the registry cannot be read.
    pub fn registry_files(&self) -> Result<Vec<String>> {
        let dir = self.home().join("instances");
        if !dir.exists() {
            return Ok(Vec::new());
        }
        let mut names = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if ![".lock", ".names", "quarantine"].contains(&name.as_str()) && !name.ends_with(".lease") {
                names.push(name);
            }
        }
        Ok(names)
    }
}

fn words(server: &[String]) -> impl Iterator<Item = &str> {
    server.iter().map(String::as_str)
}
