//! Checks that an instance was left alone while something else happened.
//!
//! [`Witness`] records which generation of an instance and which run of its server exist, and how many connections its
//! link had. Everything comes from `linchpin status` and `linchpin explain`, as a person would see it.

use super::Lab;
use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// The state of an instance at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Witness {
    name: String,
    generation: String,
    pid: u64,
    /// Name, pid and restarts of each process.
    processes: Vec<(String, u64, u64)>,
    /// How many connections its link has had.
    pub connections: u64,
    /// The port on which it listens.
    pub port: u16,
}

impl Witness {
    /// Waits until an instance is connected, and records its state.
    ///
    /// # Errors
    /// If it is not.
    pub async fn of(lab: &Lab, name: &str) -> Result<Self> {
        lab.usable(name).await?;
        Self::look(lab, name).await
    }

    /// The pid of the instance.
    ///
    /// # Errors
    /// If `status` shows no valid pid.
    pub fn pid(&self) -> Result<u32> {
        u32::try_from(self.pid).context("no pid")
    }

    async fn look(lab: &Lab, name: &str) -> Result<Self> {
        let (instance, link) = (lab.instance_status(name).await?, lab.link(name).await?);
        let number = |value: &Value, what: &str| value.as_u64().with_context(|| format!("no {what} in {instance}"));
        let processes = instance["processes"].as_array().context("no processes")?;
        let process = |process: &Value| {
            let name = process["name"].as_str().context("a process without a name")?.to_owned();
            Ok((name, number(&process["pid"], "pid")?, number(&process["restarts"], "restarts")?))
        };
        let endpoint = instance["endpoint"].as_str().context("no endpoint")?;
        Ok(Self {
            name: name.to_owned(),
            generation: instance["generation"].as_str().context("no generation")?.to_owned(),
            pid: number(&instance["pid"], "pid")?,
            processes: processes.iter().map(process).collect::<Result<_>>()?,
            connections: number(&link["connections"], "connections")?,
            port: endpoint.rsplit_once(':').context("no port")?.1.parse()?,
        })
    }

    /// Waits until the instance is connected again, and checks that neither it nor its server was restarted, and that
    /// its link needed exactly this many more connections.
    ///
    /// # Errors
    /// If it was restarted, or the link needed more or fewer connections.
    pub async fn same_run(&self, lab: &Lab, more_connections: u64) -> Result<()> {
        let now = Self::of(lab, &self.name).await?;
        let due = Self { connections: self.connections + more_connections, ..self.clone() };
        ensure!(now == due, "{} was {self:?}\nand is {now:?},\nbut {due:?} is due", self.name);
        Ok(())
    }

    /// Checks that nothing happened to it: the same processes, on the same connection.
    ///
    /// # Errors
    /// If something happened to it.
    pub async fn untouched(&self, lab: &Lab) -> Result<()> {
        self.same_run(lab, 0).await
    }
}

impl Lab {
    /// `linchpin explain NAME --json`: the state and history of a link.
    ///
    /// # Errors
    /// If there is no such instance.
    pub async fn link(&self, name: &str) -> Result<Value> {
        self.verb(["explain", name, "--json"]).await?.json()
    }

    /// Waits until the last failure of a link is of one of these kinds and the link is not connected.
    ///
    /// # Errors
    /// If it does not fail in this way; with its history.
    pub async fn fails(&self, name: &str, kinds: &[&str]) -> Result<Value> {
        self.wait_for(&format!("{name} fails with {kinds:?}"), async || {
            let link = self.link(name).await?;
            let seen = link["last_failure"]["kind"].as_str().unwrap_or_default();
            ensure!(kinds.contains(&seen) && link["connection"].is_null(), "{link}");
            Ok(link)
        })
        .await
    }
}
