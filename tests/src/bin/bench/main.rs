//! `make bench`: what DESIGN section 5 promises beside what this machine shows.
//!
//! Everything is real: the release build of `linchpin`, real processes, real deaths. One lab, one run, and every ratio
//! is of numbers from the same run. Never: fails because a number is missed; it says so.
#![expect(clippy::print_stdout, reason = "a bench is what it prints")]

mod calls;
mod presence;
mod registry;
mod stats;
mod wire;

use anyhow::Result;
use linchpin_tests::lab::Lab;
use stats::{Row, targets};
use std::time::Duration;

#[tokio::main]
async fn main() -> Result<()> {
    let lab = Lab::new()?;
    if std::env::args().nth(1).as_deref() == Some("registry") {
        let registry = registry::run().await?;
        println!(
            "{:?} {:?} scan {:?}",
            registry.registered.median(),
            registry.registered.percentile(99),
            registry.scanned.median()
        );
        return Ok(());
    }
    println!("measuring {} in {}\n", lab.binary().display(), lab.home().display());
    let measured = tokio::select! {
        measured = measure(&lab) => measured,
        signal = tokio::signal::ctrl_c() => signal.map(|()| Vec::new()).map_err(Into::into),
    };
    let rows = measured.map_err(|error| anyhow::anyhow!("{error:#}\n{}", lab.logs()))?;
    println!("{}", targets(&rows));
    Ok(())
}

async fn measure(lab: &Lab) -> Result<Vec<Row>> {
    let registry = registry::run().await?;
    let hub = lab.hub().await?;
    let (presence, _hub) = presence::run(lab, hub).await?;
    let added = calls::run(lab, |text| println!("{text}")).await?;
    let millis = Duration::from_millis;
    let crowd = presence::CROWD;
    let deaths = presence.known_dead.len();
    Ok(vec![
        Row::time(
            format!("{} registrations at once, none lost, p50", registry::CROWD),
            millis(50),
            registry.registered.median(),
        ),
        Row::time(
            format!("{} registrations at once, p99 of {}", registry::CROWD, registry.registered.len()),
            millis(50),
            registry.registered.percentile(99),
        ),
        Row::time(format!("reading {} records, median", registry::RECORDS), millis(100), registry.scanned.median()),
        Row::time(
            format!("instance registers → hub routes to it, p50 of {}", presence.routable.len()),
            millis(10),
            presence.routable.median(),
        ),
        Row::time("instance registers → hub routes to it, p99", millis(10), presence.routable.percentile(99)),
        Row::time(format!("instance dies → hub knows, p50 of {deaths}"), millis(10), presence.known_dead.median()),
        Row::time("instance dies → hub knows, p99", millis(10), presence.known_dead.percentile(99)),
        Row::time(format!("hub killed → routing to {crowd} again, median"), millis(300), presence.hub_back.median()),
        Row::time("linchpin status, hub running, median", millis(10), presence.status.median()),
        Row::memory(format!("hub memory, {crowd} instances"), 15.0, presence.hub_mib),
        Row::time("a tool call through the hub over HTTP, added", Duration::from_micros(300), added.http),
        Row::time("a tool call through the shim, added", Duration::from_micros(300), added.shim),
    ])
}
