//! Many links: how soon an instance is back, how soon a dead connection is detected, how long a storm of reconnects
//! takes, and what a hundred idle links cost. The instances are simulated, with the real hello and messages.

use crate::proc;
use crate::stats::Samples;
use crate::view::{View, active, crowd, state};
use anyhow::Result;
use linchpin_shared::home::Home;
use linchpin_tests::agent::Agent;
use linchpin_tests::agent::http::Http;
use linchpin_tests::lab::Lab;
use linchpin_tests::lab::running::Running;
use linchpin_tests::proxy::{Proxy, Way};
use linchpin_tests::sim::Sim;
use serde_json::json;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// The numbers of instances while the hub is idle, and when their links are cut.
pub(crate) const IDLE: usize = 100;
pub(crate) const CUT: usize = 500;
/// How often an instance leaves and comes back.
const BACK: usize = 100;
/// How often a connection is lost silently, both idle and with calls in flight.
const SILENT: usize = 5;
/// How long the idle hub is measured.
const WATCHED: Duration = Duration::from_secs(20);

/// What was measured.
#[derive(Default)]
pub(crate) struct Links {
    pub(crate) back: Samples,
    pub(crate) idle_found: Samples,
    pub(crate) busy_found: Samples,
    pub(crate) idle_cpu_percent: f64,
    pub(crate) storm: Duration,
}

pub(crate) async fn run(lab: &Lab, hub: &Running) -> Result<Links> {
    let view = View::of(lab)?;
    let home = Home::at(lab.home());
    let mut links = Links::default();
    for _ in 0..BACK {
        come_back(&home, &view, &mut links.back).await?;
    }
    for busy in [false, true] {
        let samples = if busy { &mut links.busy_found } else { &mut links.idle_found };
        silent(lab, &home, &view, busy, samples).await?;
    }
    let mut sims = Vec::new();
    crowd(&home, &view, &mut sims, IDLE).await?;
    links.idle_cpu_percent = idle_cpu(hub.pid()).await?;
    crowd(&home, &view, &mut sims, CUT).await?;
    let began = Instant::now();
    sims.iter().for_each(Sim::cut);
    view.until("all links are back", |all| sims.iter().all(|sim| sim.accepted() == 2) && active(all) >= CUT).await?;
    links.storm = began.elapsed();
    for sim in sims {
        sim.leave()?;
    }
    Ok(links)
}

/// One instance leaves and comes back with a new generation.
async fn come_back(home: &Home, view: &View, samples: &mut Samples) -> Result<()> {
    let first = Sim::start(home, "back").await?;
    view.until("it is there", |all| state(all, "back") == Some("active")).await?;
    first.leave()?;
    view.until("it is gone", |all| state(all, "back") != Some("active")).await?;
    // The limiter of dials is not measured here.
    tokio::time::sleep(Duration::from_millis(40)).await;
    let began = Instant::now();
    let second = Sim::start(home, "back").await?;
    view.until("it is back", |all| state(all, "back") == Some("active")).await?;
    samples.add(began.elapsed());
    second.leave()?;
    view.until("it is gone", |all| state(all, "back") != Some("active")).await
}

/// Bytes vanish while TCP keeps the connection: how long until the hub gives it up. Each time it is another link,
/// because the hub waits longer for a link that was lost a moment ago, on purpose.
async fn silent(lab: &Lab, home: &Home, view: &View, busy: bool, samples: &mut Samples) -> Result<()> {
    for number in 0..SILENT {
        let name = format!("{}-{number}", if busy { "busy" } else { "silent" });
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let proxy = Proxy::start(listener.local_addr()?).await?;
        let sim = Sim::behind(home, &name, listener, proxy.address())?;
        lab.usable(&name).await?;
        let caller = if busy { Some(calls(lab.http(&format!("/i/{name}/mcp")).await?).await?) } else { None };
        // At different moments between two PINGs.
        tokio::time::sleep(Duration::from_millis(300 + 170 * number as u64)).await;
        let began = Instant::now();
        proxy.go(Way::BlackHole);
        view.until("it is lost", |all| !matches!(state(all, &name), Some("active" | "suspect"))).await?;
        samples.add(began.elapsed());
        proxy.go(Way::Forward);
        if let Some(caller) = caller {
            caller.await?;
        }
        sim.leave()?;
    }
    Ok(())
}

/// Makes calls one after the other until one fails.
async fn calls(mut agent: Http) -> Result<JoinHandle<()>> {
    agent.call("echo", json!({"message": "x"})).await?;
    Ok(tokio::spawn(async move { while agent.call("echo", json!({"message": "x"})).await.is_ok() {} }))
}

/// The share of one core that a process uses, in percent.
async fn idle_cpu(pid: u32) -> Result<f64> {
    tokio::time::sleep(Duration::from_secs(3)).await;
    let before = proc::cpu(pid)?;
    let began = Instant::now();
    tokio::time::sleep(WATCHED).await;
    Ok((proc::cpu(pid)? - before).as_secs_f64() / began.elapsed().as_secs_f64() * 100.0)
}
