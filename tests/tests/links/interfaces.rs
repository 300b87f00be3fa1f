//! Interfaces, addresses and ports that come and go, in a network namespace.

use anyhow::{Context, Result, ensure};
use linchpin_tests::kit;
use linchpin_tests::lab::Lab;
use linchpin_tests::lab::ledger::Load;
use linchpin_tests::lab::net::isolated;
use linchpin_tests::lab::witness::Witness;
use std::net::Ipv4Addr;
use tokio::net::{TcpSocket, TcpStream};

async fn two(lab: &Lab) -> Result<[Witness; 2]> {
    for name in ["shop", "other"] {
        lab.detached(name, &kit::echo(name)?).await?;
    }
    Ok([Witness::of(lab, "shop").await?, Witness::of(lab, "other").await?])
}

/// Fault 41: an interface is added, changes its address, goes down and up, and is removed. Links use loopback and
/// stay.
#[test]
fn interface_and_address_changes_affect_no_link() -> Result<()> {
    isolated(async |net| {
        let lab = Lab::new()?;
        let _hub = lab.hub().await?;
        let witnesses = two(&lab).await?;
        let calls = Load::start(&lab, "shop__echo-shop", 2).await?;
        let steps: [&[&str]; 8] = [
            &["link", "add", "lab0", "type", "veth", "peer", "name", "lab1"],
            &["addr", "add", "10.99.0.1/24", "dev", "lab0"],
            &["link", "set", "lab0", "up"],
            &["route", "add", "default", "via", "10.99.0.2"],
            &["addr", "replace", "10.98.0.1/24", "dev", "lab0"],
            &["link", "set", "lab0", "down"],
            &["link", "set", "lab0", "up"],
            &["link", "del", "lab0"],
        ];
        for step in steps {
            net.ip(step)?;
            calls.continues(&lab, 20).await?;
        }
        lab.wait_for("the link is probed because of it", async || {
            let (hub, link) = (lab.status().await?["hub"].take(), lab.link("shop").await?);
            ensure!(hub["network"]["interfaces"] == "netlink" && hub["network"]["changes"] != 0, "{hub}");
            ensure!(link["transitions"].to_string().contains("interfaces or addresses changed"), "{link}");
            Ok(())
        })
        .await?;
        let calls = calls.finish().await?;
        ensure!(calls.interrupted == 0 && calls.refused == 0, "{calls:?}");
        for witness in witnesses {
            witness.untouched(&lab).await?;
        }
        lab.finish().await
    })
}

/// Fault 42: loopback itself goes down. The hub waits; when it is up again, every link is back with the same instance.
#[test]
fn hub_without_loopback_waits_and_restarts_nothing() -> Result<()> {
    isolated(async |net| {
        let lab = Lab::new()?;
        let hub = lab.hub().await?;
        let witnesses = two(&lab).await?;
        net.ip(&["link", "set", "lo", "down"])?;
        // The hub cannot be asked now, but its log can be read.
        lab.wait_for("both links are lost", async || {
            let log = std::fs::read_to_string(lab.home().join("logs/hub.log"))?;
            let lost = log.lines().filter(|line| line.contains("lost")).count();
            ensure!(lost >= 2, "{log}");
            Ok(())
        })
        .await?;
        net.ip(&["link", "set", "lo", "up"])?;
        for witness in witnesses {
            witness.same_run(&lab, 1).await.with_context(|| lab.logs())?;
        }
        ensure!(lab.hub_facts()?.pid == hub.pid(), "the same hub");
        lab.finish().await
    })
}

/// Takes local ports with connections to this port until none is left.
async fn take_all_ports_to(port: u16) -> Result<Vec<TcpStream>> {
    let mut taken = Vec::new();
    loop {
        let socket = TcpSocket::new_v4()?;
        // The ports are then free at once when the connections are dropped.
        socket.set_zero_linger()?;
        match socket.connect((Ipv4Addr::LOCALHOST, port).into()).await {
            Ok(stream) => taken.push(stream),
            Err(error) if error.kind() == std::io::ErrorKind::AddrNotAvailable => return Ok(taken),
            Err(error) => return Err(error).context("another error than that no port is left"),
        }
    }
}

/// Fault 43: no local port is left to dial from. The failure says so, and the link is back when there is one.
#[test]
fn link_without_a_free_local_port_reports_it_and_recovers() -> Result<()> {
    isolated(async |net| {
        let lab = Lab::new()?;
        let _hub = lab.hub().await?;
        let [shop, other] = two(&lab).await?;
        // Enough for the requests of this test to the hub, each of which keeps a port for a second after its end, and
        // few enough for the instance, whose full accept queue would block further connections.
        net.ephemeral_ports(61_000..=61_159)?;
        let taken = take_all_ports_to(shop.port).await?;
        net.cut(shop.port)?;
        let link = lab.fails("shop", &["unreachable"]).await?;
        ensure!(
            link["last_failure"].to_string().contains("assign requested address"),
            "the system's own words: {link}"
        );
        drop(taken);
        shop.same_run(&lab, 1).await?;
        other.untouched(&lab).await?;
        lab.finish().await
    })
}
