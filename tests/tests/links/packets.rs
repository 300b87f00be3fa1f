//! Lost, refused and reset packets between hub and instance, in a network namespace.
//!
//! Every scenario has calls in flight, whose executions are counted, and a second instance that must not be affected.

use anyhow::{Context, Result, ensure};
use linchpin_tests::agent::ANSWER;
use linchpin_tests::kit;
use linchpin_tests::lab::Lab;
use linchpin_tests::lab::ledger::Load;
use linchpin_tests::lab::net::{EPHEMERAL, Net, Packets, isolated};
use linchpin_tests::lab::witness::Witness;
use serde_json::json;

/// A hub, the instance that gets the faults, and one that must not be affected.
struct Scene {
    lab: Lab,
    shop: Witness,
    other: Witness,
    hub: u32,
}

impl Scene {
    async fn new() -> Result<Self> {
        let lab = Lab::new()?;
        let _hub = lab.hub().await?;
        for name in ["shop", "other"] {
            lab.detached(name, &kit::echo(name)?).await?;
        }
        let (shop, other) = (Witness::of(&lab, "shop").await?, Witness::of(&lab, "other").await?);
        let hub = lab.hub_facts()?.pid;
        ensure!(shop.connections == 1 && other.connections == 1, "{shop:?} {other:?}");
        Ok(Self { lab, shop, other, hub })
    }

    fn port(&self) -> String {
        self.shop.port.to_string()
    }

    /// After the fault: the same processes, this many more connections to the one instance, and no change at the
    /// other.
    async fn ends_well(self, more_connections: u64) -> Result<()> {
        let lives = self.shop.same_run(&self.lab, more_connections).await;
        lives.with_context(|| self.lab.logs())?;
        self.other.untouched(&self.lab).await?;
        ensure!(self.lab.hub_facts()?.pid == self.hub, "another hub");
        self.lab.finish().await
    }
}

/// Packets of an open connection vanish while calls are in flight. The link detects it, reports the failure, and is
/// back on one new connection when packets pass again.
async fn vanishing(net: Net, packets: Packets) -> Result<()> {
    let scene = Scene::new().await?;
    let calls = Load::start(&scene.lab, "shop__echo-shop", 3).await?;
    let others = Load::start(&scene.lab, "other__echo-other", 1).await?;
    calls.continues(&scene.lab, 20).await?;
    net.drop(packets, &scene.port())?;
    let link = scene.lab.fails("shop", &["ping_timeout", "io_timeout", "connect_timeout"]).await?;
    ensure!(link["state"] != "gone", "a silent instance counts as gone: {link}");
    others.continues(&scene.lab, 20).await.context("the other instance was delayed")?;
    net.heal()?;
    calls.continues(&scene.lab, 20).await?;
    let (calls, others) = (calls.finish().await?, others.finish().await?);
    ensure!(calls.interrupted <= 3 && calls.refused <= 3, "each agent had one call in flight: {calls:?}");
    ensure!(others.interrupted == 0 && others.refused == 0, "{others:?}");
    scene.ends_well(1).await
}

/// Fault 35: both directions of a busy connection are lost.
#[test]
fn busy_link_without_packets_is_detected_and_recovers() -> Result<()> {
    isolated(async |net| vanishing(net, Packets::Both).await)
}

/// Faults 35 and 39: only what the instance sends is lost.
#[test]
fn link_that_loses_one_direction_is_detected_and_recovers() -> Result<()> {
    isolated(async |net| vanishing(net, Packets::From).await)
}

/// Fault 35: an idle connection, on which only PINGs are sent.
#[test]
fn idle_link_without_packets_is_detected_and_recovers() -> Result<()> {
    isolated(async |net| {
        let scene = Scene::new().await?;
        net.drop(Packets::Both, &scene.port())?;
        let link = scene.lab.fails("shop", &["ping_timeout", "connect_timeout"]).await?;
        ensure!(link["transitions"].to_string().contains("ping"), "the PING did not find it: {link}");
        net.heal()?;
        scene.ends_well(1).await
    })
}

/// Fault 35: only requests for new connections are lost. The open connection continues and is kept.
#[test]
fn lost_syn_packets_do_not_affect_an_open_connection() -> Result<()> {
    isolated(async |net| {
        let scene = Scene::new().await?;
        let calls = Load::start(&scene.lab, "shop__echo-shop", 2).await?;
        net.drop(Packets::Syn, &scene.port())?;
        calls.continues(&scene.lab, 50).await?;
        scene.shop.untouched(&scene.lab).await?;

        net.cut(scene.shop.port)?;
        let link = scene.lab.fails("shop", &["connect_timeout"]).await?;
        ensure!(link["last_failure"]["phase"] == "dial", "{link}");
        net.heal()?;
        calls.continues(&scene.lab, 20).await?;
        calls.finish().await?;
        scene.ends_well(1).await
    })
}

/// Fault 36: a connection that is reset during a call is replaced at once; the call is reported as interrupted and not
/// repeated.
#[test]
fn reset_during_a_call_is_reported_and_the_link_recovers() -> Result<()> {
    isolated(async |net| {
        let scene = Scene::new().await?;
        let mut agent = scene.lab.shim(&[]).await?;
        let calls = Load::start(&scene.lab, "shop__echo-shop", 2).await?;
        let held = json!({"name": "shop__echo-shop", "arguments": {"message": "", "hold": true},
                          "_meta": {"progressToken": "mine"}});
        let id = agent.send("tools/call", held).await?;
        agent.notification("notifications/progress", ANSWER).await.context("the call is under way")?;
        net.cut(scene.shop.port)?;
        let error = agent.answer(id).await?.error()?;
        ensure!(error["data"]["code"] == "call_interrupted", "{error}");
        calls.continues(&scene.lab, 20).await?;
        calls.finish().await?;
        let log = scene.lab.verb(["logs", "shop"]).await?.exits(0)?.stdout;
        ensure!(log.matches("held").count() == 1, "executed once:\n{log}");
        ensure!(net.connections_to(scene.shop.port)? == 1, "one connection");
        agent.close().await?;
        scene.ends_well(1).await
    })
}

/// Faults 36 and 37: a firewall answers every packet with a reset for a while.
#[test]
fn link_recovers_after_a_firewall_resets_every_packet() -> Result<()> {
    isolated(async |net| {
        let scene = Scene::new().await?;
        let calls = Load::start(&scene.lab, "shop__echo-shop", 2).await?;
        calls.continues(&scene.lab, 20).await?;
        net.reset(Packets::To, &scene.port())?;
        let link = scene.lab.fails("shop", &["refused"]).await?;
        let story = link["transitions"].to_string();
        // A reset or a broken pipe, depending on whether the hub was reading or writing.
        ensure!(story.contains("reset: ") || story.contains("closed: "), "it began with a reset: {link}");
        net.heal()?;
        calls.continues(&scene.lab, 20).await?;
        calls.finish().await?;
        scene.ends_well(1).await
    })
}

/// Fault 37: dials are refused at first and then accepted: the link is connected once, and nothing is restarted for
/// it.
#[test]
fn instance_refused_at_first_is_connected_once_it_accepts() -> Result<()> {
    isolated(async |net| {
        let lab = Lab::new()?;
        let _hub = lab.hub().await?;
        net.reset(Packets::Syn, EPHEMERAL)?;
        lab.detached("shop", &kit::echo("shop")?).await?;
        let link = lab.fails("shop", &["refused"]).await?;
        ensure!(link["connections"] == 0, "{link}");
        let before = lab.instance_status("shop").await?;
        net.heal()?;
        let shop = Witness::of(&lab, "shop").await?;
        let after = lab.instance_status("shop").await?;
        ensure!(shop.connections == 1 && after["generation"] == before["generation"], "{before}\n{after}");
        lab.finish().await
    })
}

/// Fault 39: 30 % of all packets are lost in both directions. Calls take longer, and the breaker stays closed.
#[test]
fn heavy_packet_loss_slows_calls_and_trips_no_breaker() -> Result<()> {
    isolated(async |net| {
        let scene = Scene::new().await?;
        let calls = Load::start(&scene.lab, "shop__echo-shop", 2).await?;
        net.lossy(30, &scene.port())?;
        calls.continues(&scene.lab, 30).await?;
        let link = scene.lab.link("shop").await?;
        net.heal()?;
        let calls = calls.finish().await?;
        // TCP doubles its retransmission timeout, so it is sometimes silent for as long as a dead connection. This
        // causes a new connection now and then, and nothing else.
        let lost = link["connections"].as_u64().context("connections")? - 1;
        ensure!(lost <= 3 && calls.interrupted <= 2 * usize::try_from(lost)?, "{calls:?} {link}");
        ensure!(!link["transitions"].to_string().contains("tripped"), "{link}");
        // The link may have been lost once more since the last look.
        let more = scene.lab.link("shop").await?["connections"].as_u64().context("connections")? - 1;
        ensure!(more <= lost + 1, "{link}");
        scene.ends_well(more).await
    })
}

/// Grade P of recovery: when most links are lost together, the hub suspects the machine and shows that.
#[test]
fn links_lost_together_hold_all_recovery() -> Result<()> {
    isolated(async |net| {
        let scene = Scene::new().await?;
        let mut more = Vec::new();
        for name in ["third", "fourth"] {
            scene.lab.detached(name, &kit::echo(name)?).await?;
            more.push(Witness::of(&scene.lab, name).await?);
        }
        for witness in more.iter().chain([&scene.shop]) {
            net.cut(witness.port)?;
        }
        scene
            .lab
            .wait_for("the ladder is not climbed", async || {
                let hub = scene.lab.status().await?["hub"].take();
                ensure!(hub["hold"]["why"].as_str().is_some_and(|why| why.contains("3 of 4 links")), "{hub}");
                Ok(())
            })
            .await?;
        for witness in more {
            witness.same_run(&scene.lab, 1).await?;
        }
        scene.ends_well(1).await
    })
}
