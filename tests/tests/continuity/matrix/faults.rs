//! The faults. Each is caused for everything that it can affect, and is over when [`inject`] returns.

use super::backends::{Kind, tools_file};
use super::stage::Stage;
use anyhow::{Context, Result, ensure};
use linchpin_shared::process::{Identity, Signal};
use linchpin_tests::lab::net::Packets;
use linchpin_tests::lab::running::kill_9;
use linchpin_tests::lab::witness::Witness;
use std::time::Duration;

/// A fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    OtherTools,
    BackendKilled,
    HttpRestarted,
    BackendStopped,
    InstanceKilled,
    InstanceStopped,
    HubKilled,
    HubStopped,
    InstancesUnreachable,
    HubUnreachable,
}

impl Fault {
    /// The faults of processes. The lists change before the hub is killed, because a stateless client over HTTP must
    /// then subscribe again itself.
    pub(crate) const PROCESSES: &[Self] = &[
        Self::OtherTools,
        Self::BackendKilled,
        Self::HttpRestarted,
        Self::BackendStopped,
        Self::InstanceKilled,
        Self::InstanceStopped,
        Self::HubStopped,
        Self::HubKilled,
    ];

    /// The faults of the network.
    pub(crate) const NETWORK: &[Self] = &[Self::InstancesUnreachable, Self::HubUnreachable];

    /// For people.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::OtherTools => "restarted with other tools",
            Self::BackendKilled => "`kill -9` of the server",
            Self::HttpRestarted => "restart of an HTTP server",
            Self::BackendStopped => "SIGSTOP of the server",
            Self::InstanceKilled => "`kill -9` of its instance",
            Self::InstanceStopped => "SIGSTOP of its instance",
            Self::HubKilled => "`kill -9` of the hub",
            Self::HubStopped => "SIGSTOP of the hub",
            Self::InstancesUnreachable => "30 s black hole, hub to instance",
            Self::HubUnreachable => "8 s black hole, client to hub",
        }
    }

    /// Whether it affects a server of this kind.
    pub(crate) fn applies_to(self, counts: bool, kind: Kind) -> bool {
        match self {
            Self::OtherTools => counts,
            Self::HttpRestarted => kind != Kind::Stdio,
            Self::BackendKilled
            | Self::BackendStopped
            | Self::InstanceKilled
            | Self::InstanceStopped
            | Self::HubKilled
            | Self::HubStopped
            | Self::InstancesUnreachable
            | Self::HubUnreachable => true,
        }
    }

    /// Whether it disconnects clients from the hub, so that a client without a shim reports an error of its own.
    pub(crate) fn cuts_clients_off(self) -> bool {
        matches!(self, Self::HubKilled | Self::HubUnreachable)
    }

    /// Whether a call in flight must be answered.
    pub(crate) fn answers(self) -> bool {
        matches!(self, Self::BackendStopped | Self::InstanceStopped | Self::HubStopped)
    }
}

/// Causes a fault.
pub(crate) async fn inject(fault: Fault, stage: &mut Stage) -> Result<()> {
    match fault {
        Fault::OtherTools => other_tools(stage).await,
        Fault::BackendKilled => restart(stage, Signal::KILL, |_| true).await,
        Fault::HttpRestarted => restart(stage, Signal::TERM, |kind| kind != Kind::Stdio).await,
        Fault::BackendStopped => {
            let mut all = Vec::new();
            for backend in &stage.backends {
                all.push(backend.process(&stage.lab).await?);
            }
            stopped_for(&all, Duration::from_secs(2)).await
        }
        Fault::InstanceKilled => {
            for instance in witnesses(stage).await? {
                kill_9(instance.pid()?).await?;
            }
            Ok(())
        }
        Fault::InstanceStopped => instances_stopped(stage).await,
        Fault::HubKilled => {
            // The shims start another one.
            stage.hub.kill_9().await?;
            stage.lab.hub_answers(None).await.map(|_| ())
        }
        Fault::HubStopped => stopped_for(&[stage.hub.identity().clone()], Duration::from_secs(3)).await,
        Fault::InstancesUnreachable => {
            let ports: Vec<_> = witnesses(stage).await?.iter().map(|instance| instance.port.to_string()).collect();
            unreachable(stage, &ports, Duration::from_secs(30)).await
        }
        Fault::HubUnreachable => {
            let port = stage.lab.hub_facts()?.url.rsplit_once(':').context("no port")?.1.to_owned();
            unreachable(stage, &[port], Duration::from_secs(8)).await
        }
    }
}

async fn restart(stage: &mut Stage, signal: Signal, of: impl Fn(Kind) -> bool) -> Result<()> {
    for backend in stage.backends.iter_mut().filter(|backend| of(backend.kind)) {
        backend.restart(&stage.lab, signal).await?;
    }
    Ok(())
}

async fn other_tools(stage: &mut Stage) -> Result<()> {
    std::fs::write(tools_file(&stage.lab), "another\n")?;
    // One list changes once, so one notification is due.
    let backend = stage.backends.iter_mut().find(|backend| backend.instance == "count").context("no such server")?;
    backend.restart(&stage.lab, Signal::KILL).await?;
    stage.lab.usable("count").await.map(|_| ())
}

async fn instances_stopped(stage: &Stage) -> Result<()> {
    let witnesses = witnesses(stage).await?;
    let pids = witnesses.iter().map(Witness::pid).collect::<Result<Vec<_>>>()?;
    let all = pids.into_iter().map(|pid| Ok(Identity::of(pid)?)).collect::<Result<Vec<_>>>()?;
    stopped(&all, async || {
        for backend in &stage.backends {
            stage.lab.shows(backend.instance, "it is unresponsive", |now| now["state"] == "unresponsive").await?;
        }
        Ok(())
    })
    .await
}

async fn witnesses(stage: &Stage) -> Result<Vec<Witness>> {
    let mut all = Vec::new();
    for backend in &stage.backends {
        all.push(Witness::of(&stage.lab, backend.instance).await?);
    }
    Ok(all)
}

/// Stops all of them, does something, and continues them in any case.
async fn stopped(all: &[Identity], meanwhile: impl AsyncFnOnce() -> Result<()>) -> Result<()> {
    for process in all {
        ensure!(process.signal(Signal::STOP)?, "{} had ended", process.pid);
    }
    let done = meanwhile().await;
    for process in all {
        ensure!(process.signal(Signal::CONT)?, "{} ended while it was stopped", process.pid);
    }
    done
}

async fn stopped_for(all: &[Identity], long: Duration) -> Result<()> {
    stopped(all, async || {
        tokio::time::sleep(long).await;
        Ok(())
    })
    .await
}

async fn unreachable(stage: &Stage, ports: &[String], long: Duration) -> Result<()> {
    let net = stage.net.as_ref().context("this needs a network of its own")?;
    for port in ports {
        net.drop(Packets::Both, port)?;
    }
    tokio::time::sleep(long).await;
    net.heal()
}
