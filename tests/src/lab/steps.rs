//! What a scenario does in its lab: run verbs, wait for what `status` shows, finish.
//!
//! Each step returns only when what it started can be used, and its error tells the last state and the logs.

use super::running::Running;
use super::verb::{Begun, Output};
use super::{Lab, leftovers};
use crate::agent::{http::Http, stdio::Stdio};
use crate::wait::PATIENCE;
use anyhow::{Context, Result, ensure};
use linchpin_shared::process::{Identity, Signal};
use serde_json::Value;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::time::Duration;

/// The bound of a single step of a scenario; on a busy machine with two cores Node alone takes a second.
pub const STEP: Duration = Duration::from_secs(20);

impl Lab {
    /// Runs a verb to its end, without letting it start a hub. Its exit code is for the caller to judge.
    ///
    /// # Errors
    /// If it cannot be started or does not end.
    pub async fn verb(&self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<Output> {
        let mut command = self.linchpin(["--no-autostart"]);
        command.args(arguments);
        Output::of(command).await
    }

    /// Runs a verb that may start a hub, and returns the JSON that it prints.
    ///
    /// # Errors
    /// If its exit code is not 0.
    pub async fn json(&self, arguments: &[&str]) -> Result<Value> {
        let (code, said) = self.begin(&[&["--json"], arguments].concat())?.end().await?;
        ensure!(code == 0, "{arguments:?} ended with {code}: {said}");
        Ok(said)
    }

    /// Starts a verb that ends by itself and may start a hub.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn begin(&self, arguments: &[&str]) -> Result<Begun> {
        Begun::start(self.linchpin(arguments))
    }

    /// Waits as [`crate::wait::until`] does; the error also tells the logs.
    ///
    /// # Errors
    /// If the condition is not met in time.
    pub async fn wait_for<T>(&self, what: &str, probe: impl AsyncFnMut() -> Result<T>) -> Result<T> {
        let outcome = crate::wait::until(what, STEP, probe).await;
        outcome.map_err(|error| anyhow::anyhow!("{error:#}\n{}", self.logs()))
    }

    /// Starts a verb that keeps running, with its output in the lab's `out/NAME.log`.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn run_in_front(&self, name: &str, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<Running> {
        Running::start(self.linchpin(arguments), self.dir().join("out").join(format!("{name}.log")))
    }

    /// Starts a verb that keeps running, with its output in the lab's `out/launched.log`.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn launch(&self, arguments: &[&str]) -> Result<Running> {
        self.run_in_front("launched", arguments)
    }

    /// `linchpin run --name NAME --mcp -- SERVER…` in the foreground.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn instance(&self, name: &str, server: &[String]) -> Result<Running> {
        self.run_in_front(name, ["run", "--name", name, "--mcp", "--"].into_iter().chain(words(server)))
    }

    /// `linchpin run --name NAME --mcp-url URL -- SERVER…` in the foreground.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn instance_at(&self, name: &str, url: &str, server: &[String]) -> Result<Running> {
        let arguments = ["run", "--name", name, "--mcp-url", url, "--"];
        self.run_in_front(name, arguments.into_iter().chain(words(server)))
    }

    /// `linchpin run --name NAME --mcp-url URL --detach -- SERVER…`, which returns when the instance is registered.
    ///
    /// # Errors
    /// If it fails.
    pub async fn detached_at(&self, name: &str, url: &str, server: &[String]) -> Result<()> {
        let arguments = ["run", "--name", name, "--detach", "--mcp-url", url, "--"];
        self.verb(arguments.into_iter().chain(words(server))).await?.exits(0).map(drop)
    }

    /// Starts an echo server as an instance of each of these names (its tool is `NAME__echo-NAME`), and waits until
    /// all of them can be used.
    ///
    /// # Errors
    /// If that takes too long.
    pub async fn echo_instances(&self, names: &[&str]) -> Result<()> {
        for name in names {
            self.detached(name, &crate::kit::echo(name)?).await?;
        }
        for name in names {
            self.usable(name).await?;
        }
        Ok(())
    }

    /// `linchpin run --name NAME --mcp --detach -- SERVER…`, which returns when the instance is registered.
    ///
    /// # Errors
    /// If it fails.
    pub async fn detached(&self, name: &str, server: &[String]) -> Result<()> {
        let arguments = ["run", "--name", name, "--mcp", "--detach", "--"].into_iter().chain(words(server));
        self.verb(arguments).await?.exits(0).map(|_| ())
    }

    /// Begins an agent's session through `linchpin mcp` with these arguments. The shim may start a hub.
    ///
    /// # Errors
    /// If there is no session.
    pub async fn shim(&self, arguments: &[&str]) -> Result<Stdio> {
        let mut command = self.linchpin(["mcp"]);
        command.args(arguments);
        let opened = Stdio::open(command, &self.shim_log()).await;
        Ok(opened.map_err(|error| anyhow::anyhow!("{error:#}\n{}", self.logs()))?.0)
    }

    /// Starts `linchpin mcp` for an agent that has sent nothing yet.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn bare_shim(&self) -> Result<Stdio> {
        Stdio::start(self.linchpin(["mcp"]), &self.shim_log())
    }

    /// The file that takes the standard error of shims.
    #[must_use]
    pub fn shim_log(&self) -> PathBuf {
        self.dir().join("out/shim.log")
    }

    /// A client of the hub at this path, for example `/mcp`, that has sent nothing yet.
    ///
    /// # Errors
    /// If there is no `hub.json`.
    pub fn client(&self, path: &str) -> Result<Http> {
        let facts = self.hub_facts()?;
        Ok(Http::at(format!("{}{path}", facts.url), facts.token))
    }

    /// Begins an agent's session over HTTP at this path of the hub.
    ///
    /// # Errors
    /// If there is no session.
    pub async fn http(&self, path: &str) -> Result<Http> {
        let begun = self.client(path)?.begin().await;
        begun.map_err(|error| anyhow::anyhow!("{error:#}\n{}", self.logs()))
    }

    /// `linchpin status --json`.
    ///
    /// # Errors
    /// If it fails.
    pub async fn status(&self) -> Result<Value> {
        self.verb(["status", "--json"]).await?.json()
    }

    /// What `status` says about one instance; of two with this name, the one that is not gone.
    ///
    /// # Errors
    /// If it is not listed.
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
    /// If that takes too long; with what `status` said last.
    pub async fn usable(&self, name: &str) -> Result<Value> {
        self.wait_for(&format!("{name} is usable"), async || {
            let instance = self.instance_status(name).await?;
            ensure!(instance["state"] == "active", "{instance}");
            let servers = instance["servers"].as_array().with_context(|| format!("no servers in {instance}"))?;
            let ready = |server: &Value| server["session"] == "ready" && server["tools"] != 0;
            // No server at all means that the instance has not reported its servers yet.
            ensure!(!servers.is_empty() && servers.iter().all(ready), "{instance}");
            Ok(instance)
        })
        .await
    }

    /// Waits until what `status` shows of one instance is as wanted.
    ///
    /// # Errors
    /// If that takes too long; with what `status` said last.
    pub async fn shows(&self, name: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        self.wait_for(&format!("{name}: {what}"), async || {
            let instance = self.instance_status(name).await?;
            ensure!(wanted(&instance), "{instance}");
            Ok(instance)
        })
        .await
    }

    /// Stops every instance and the hub as a person would, and fails if anything is left: a process, a record, a
    /// half-written file. Agents must have ended before: a shim outlives its hub by design.
    ///
    /// # Errors
    /// If something is left.
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

    /// Asks every `linchpin` process of the lab to end, as the end of a login session does, and fails if any process is
    /// left. For a lab whose registry or hub a test has damaged.
    ///
    /// # Errors
    /// If a process is left.
    pub async fn terminate(self) -> Result<()> {
        for process in self.mark().processes().iter().filter(|process| process.executable == self.binary()) {
            process.signal(Signal::TERM)?;
        }
        crate::wait::until("all processes end", PATIENCE, async || self.no_process_is_left()).await
    }

    /// Waits until no process of the lab is left, and checks that the registry is empty.
    ///
    /// # Errors
    /// If something is left.
    pub async fn nothing_is_left(&self) -> Result<()> {
        self.wait_for("all processes end", async || self.no_process_is_left()).await?;
        let left = self.registry_files()?;
        ensure!(left.is_empty(), "left in the registry: {left:?}");
        Ok(())
    }

    fn no_process_is_left(&self) -> Result<()> {
        let left = self.mark().processes();
        ensure!(left.is_empty(), "still running:\n{}", leftovers::describe(&left));
        Ok(())
    }

    /// The processes of the lab whose command line has this word.
    #[must_use]
    pub fn processes(&self, word: &str) -> Vec<Identity> {
        let has = |process: &Identity| {
            let line = std::fs::read(format!("/proc/{}/cmdline", process.pid)).unwrap_or_default();
            line.split(|byte| *byte == 0).any(|part| part == word.as_bytes())
        };
        self.mark().processes().into_iter().filter(has).collect()
    }

    /// The names of all files in the registry that belong to an instance: records and half-written records. Lease
    /// files may stay, because whoever removes one must hold it.
    ///
    /// # Errors
    /// If the registry cannot be read.
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
