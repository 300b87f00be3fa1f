//! A real hub and simulated instances, with a proxy between them that behaves like the worst networks and peers.
//!
//! Every scenario has counted calls in flight, and a second instance that must not be affected.

use anyhow::{Context, Result, ensure};
use linchpin_shared::home::Home;
use linchpin_tests::lab::Lab;
use linchpin_tests::lab::ledger::Load;
use linchpin_tests::lab::witness::Witness;
use linchpin_tests::proxy::{Proxy, Way};
use linchpin_tests::sim::Sim;
use std::net::Ipv6Addr;
use std::time::Duration;
use tokio::net::TcpListener;

struct Scene {
    lab: Lab,
    proxy: Proxy,
    sims: Vec<Sim>,
}

impl Scene {
    /// `shop` behind a proxy that begins in this way, and `other` without a proxy.
    async fn new(way: Way) -> Result<Self> {
        let lab = Lab::new()?;
        let _hub = lab.hub().await?;
        let home = Home::at(lab.home());
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let proxy = Proxy::start(listener.local_addr()?).await?;
        proxy.go(way);
        let shop = Sim::behind(&home, "shop", listener, proxy.address())?;
        let other = Sim::start(&home, "other").await?;
        Ok(Self { lab, proxy, sims: vec![shop, other] })
    }

    async fn leave(self) -> Result<()> {
        for sim in self.sims {
            sim.leave()?;
        }
        for name in ["shop", "other"] {
            self.lab.shows(name, "it is gone", |instance| instance["state"] == "gone").await?;
        }
        self.lab.finish().await
    }
}

/// Breaks a busy link until the hub reports one of these failures, and repairs it.
async fn broken(way: Way, kinds: &[&str]) -> Result<()> {
    let scene = Scene::new(Way::Forward).await?;
    let lab = &scene.lab;
    let (shop, other) = (Witness::of(lab, "shop").await?, Witness::of(lab, "other").await?);
    let calls = Load::start(lab, "shop__echo", 3).await?;
    let others = Load::start(lab, "other__echo", 1).await?;
    calls.continues(lab, 20).await?;
    scene.proxy.go(way);
    lab.fails("shop", kinds).await?;
    others.continues(lab, 20).await.context("the other instance was delayed")?;
    scene.proxy.go(Way::Forward);
    calls.continues(lab, 20).await?;
    let (calls, others) = (calls.finish().await?, others.finish().await?);
    ensure!(calls.interrupted <= 3, "each agent had one call in flight: {calls:?}");
    ensure!(others.interrupted + others.refused == 0, "{others:?}");
    shop.same_run(lab, 1).await.with_context(|| lab.logs())?;
    other.untouched(lab).await?;
    scene.leave().await
}

/// Fault 35: the proxy keeps the connection and loses all bytes.
#[tokio::test]
async fn black_hole_is_detected_and_the_link_recovers() -> Result<()> {
    broken(Way::BlackHole, &["ping_timeout", "hello_timeout"]).await
}

/// Faults 35 and 39: only what the instance sends is lost.
#[tokio::test]
async fn half_open_connection_is_detected_and_the_link_recovers() -> Result<()> {
    broken(Way::HalfOpen, &["ping_timeout", "hello_timeout"]).await
}

/// Fault 36: every connection is reset, also new ones.
#[tokio::test]
async fn link_recovers_from_repeated_resets() -> Result<()> {
    broken(Way::Reset, &["reset", "closed"]).await
}

/// Fault 36: every connection is closed, also new ones.
#[tokio::test]
async fn link_recovers_from_repeated_closes() -> Result<()> {
    broken(Way::Close, &["reset", "closed"]).await
}

/// Fault 38: the peer accepts and never answers, from the first dial on. This is not connected, until it answers.
#[tokio::test]
async fn peer_that_never_answers_is_not_connected_until_it_does() -> Result<()> {
    let scene = Scene::new(Way::BlackHole).await?;
    let link = scene.lab.fails("shop", &["hello_timeout"]).await?;
    ensure!(link["connections"] == 0 && link["state"] != "gone", "{link}");
    Witness::of(&scene.lab, "other").await?;
    scene.proxy.go(Way::Forward);
    let shop = Witness::of(&scene.lab, "shop").await?;
    ensure!(shop.connections == 1, "{shop:?}");
    scene.leave().await
}

/// Fault 40: answers arrive one byte a second for a while. Other links are not delayed, and no call is executed twice.
#[tokio::test]
async fn answer_of_one_byte_a_second_delays_no_other_link() -> Result<()> {
    let scene = Scene::new(Way::Forward).await?;
    let lab = &scene.lab;
    let (shop, other) = (Witness::of(lab, "shop").await?, Witness::of(lab, "other").await?);
    let calls = Load::start(lab, "shop__echo", 2).await?;
    let others = Load::start(lab, "other__echo", 1).await?;
    calls.continues(lab, 20).await?;
    scene.proxy.go(Way::Trickle(Duration::from_secs(1)));
    others.continues(lab, 400).await?;
    scene.proxy.go(Way::Forward);
    calls.continues(lab, 20).await?;
    let (calls, others) = (calls.finish().await?, others.finish().await?);
    ensure!(others.interrupted + others.refused == 0, "{calls:?} {others:?}");
    let connections = lab.link("shop").await?["connections"].as_u64().context("connections")?;
    ensure!(connections <= 2, "a slow link is made again at most once: {connections}");
    shop.same_run(lab, connections - 1).await?;
    other.untouched(lab).await?;
    scene.leave().await
}

/// Fault 44: an instance that listens on `::1` only.
#[tokio::test]
async fn instance_on_ipv6_only_is_reached() -> Result<()> {
    let lab = Lab::new()?;
    let _hub = lab.hub().await?;
    let sim = Sim::start_at(&Home::at(lab.home()), "shop", Ipv6Addr::LOCALHOST.into()).await?;
    let shop = Witness::of(&lab, "shop").await?;
    let calls = Load::start(&lab, "shop__echo", 1).await?;
    calls.continues(&lab, 20).await?;
    let calls = calls.finish().await?;
    ensure!(calls.interrupted + calls.refused == 0 && shop.connections == 1 && sim.accepted() == 1, "{calls:?}");
    sim.leave()?;
    lab.shows("shop", "it is gone", |instance| instance["state"] == "gone").await?;
    lab.finish().await
}
