//! `make bench`: the promised numbers beside what this machine shows. `bench ROOM…` measures only these rooms.
//!
//! Everything is real: the release build of `linchpin`, real processes, real kills; only the many instances of the room
//! `links` are simulated. Each room has a lab of its own, and both numbers of a ratio are from the same run. A missed
//! target is reported and does not fail the run.
#![expect(clippy::print_stdout, reason = "a benchmark prints its results")]

mod callers;
mod calls;
mod links;
mod lists;
mod many;
mod pipe;
mod presence;
mod proc;
mod registry;
mod request;
mod results;
mod sessions;
mod stats;
mod view;
mod ways;
mod web;
mod wire;

use anyhow::{Result, bail};
use linchpin_tests::lab::Lab;
use stats::{Row, Samples, ms, targets};
use std::time::Duration;

/// The rooms, in the order in which they are measured.
const ROOMS: [&str; 11] =
    ["registry", "presence", "polling", "calls", "callers", "results", "lists", "sessions", "request", "links", "many"];

#[tokio::main]
async fn main() -> Result<()> {
    let asked: Vec<String> = std::env::args().skip(1).collect();
    if let Some(unknown) = asked.iter().find(|room| !ROOMS.contains(&room.as_str())) {
        bail!("there is no room {unknown:?}; there are {ROOMS:?}");
    }
    for room in ROOMS.iter().filter(|room| asked.is_empty() || asked.iter().any(|asked| asked == *room)) {
        let lab = Lab::new()?;
        println!("{room}: measuring {} in {}\n", lab.binary().display(), lab.home().display());
        let measured = tokio::select! {
            measured = measure(room, &lab) => measured,
            signal = tokio::signal::ctrl_c() => return Ok(signal?),
        };
        let rows = measured.map_err(|error| anyhow::anyhow!("{error:#}\n{}", lab.logs()))?;
        println!("{}", targets(&rows));
    }
    Ok(())
}

async fn measure(room: &str, lab: &Lab) -> Result<Vec<Row>> {
    match room {
        "registry" => registry_rows().await,
        "presence" => presence_rows(lab).await,
        "polling" => polling_rows(lab).await,
        "calls" => calls_rows(lab).await,
        "callers" => callers::rows(lab, |text| println!("{text}")).await,
        "results" => results::rows(lab, |text| println!("{text}")).await,
        "lists" => lists::rows(lab, |text| println!("{text}")).await,
        "sessions" => sessions::rows(lab).await,
        "request" => request_rows().await,
        "links" => links_rows(lab).await,
        _ => many::rows(lab).await,
    }
}

const fn millis(number: u64) -> Duration {
    Duration::from_millis(number)
}

async fn registry_rows() -> Result<Vec<Row>> {
    let registry = registry::run().await?;
    let (crowd, number) = (registry::CROWD, registry.registered.len());
    Ok(vec![
        Row::time(format!("{crowd} registrations at once, none lost, p50"), millis(50), registry.registered.median()),
        Row::time(
            format!("{crowd} registrations at once, p99 of {number}"),
            millis(50),
            registry.registered.percentile(99),
        ),
        Row::time(format!("reading {} records, median", registry::RECORDS), millis(100), registry.scanned.median()),
    ])
}

async fn presence_rows(lab: &Lab) -> Result<Vec<Row>> {
    let hub = lab.hub().await?;
    let (presence, _hub) = presence::run(lab, hub).await?;
    let (crowd, deaths) = (presence::CROWD, presence.known_dead.len());
    Ok(vec![
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
    ])
}

async fn polling_rows(lab: &Lab) -> Result<Vec<Row>> {
    let routable = presence::polling(lab).await?;
    let (number, limit) = (routable.len(), millis(2000));
    let what = "instance registers → hub that may not watch files routes to it";
    Ok(vec![
        Row::time(format!("{what}, p50 of {number}"), limit, routable.median()),
        Row::time(format!("{what}, longest"), limit, routable.percentile(100)),
    ])
}

async fn calls_rows(lab: &Lab) -> Result<Vec<Row>> {
    let _hub = lab.hub().await?;
    let added = calls::run(lab, |text| println!("{text}")).await?;
    let most = Duration::from_micros(300);
    Ok(vec![
        Row::time("a tool call through the hub over HTTP, added", most, added.http),
        Row::time("a tool call through the shim, added", most, added.shim),
    ])
}

async fn request_rows() -> Result<Vec<Row>> {
    let (bare, link) = request::run().await?;
    for (what, bare, link) in [("takes", &bare.latency, &link.latency), ("costs its client", &bare.cpu, &link.cpu)] {
        let ratio = link.median().as_secs_f64() / bare.median().as_secs_f64();
        println!("a request {what} {} bare, {} over a link: {ratio:.2} times", ms(bare.median()), ms(link.median()));
    }
    let added = |over: &Samples, plain: &Samples| over.median().saturating_sub(plain.median());
    Ok(vec![
        Row::time(
            "a request over a link, added to a bare one, median",
            Duration::from_micros(300),
            added(&link.latency, &bare.latency),
        ),
        Row::time("CPU of a request over a link, added", Duration::from_micros(300), added(&link.cpu, &bare.cpu)),
    ])
}

async fn links_rows(lab: &Lab) -> Result<Vec<Row>> {
    let hub = lab.hub().await?;
    let links = links::run(lab, &hub).await?;
    let times = links.back.len();
    Ok(vec![
        Row::time(format!("instance back → connected, p50 of {times}"), millis(50), links.back.median()),
        Row::time("instance back → connected, p99", millis(50), links.back.percentile(99)),
        Row::time("half-open link found, idle, longest", millis(3000), links.idle_found.percentile(100)),
        Row::time("half-open link found, busy, longest", millis(3000), links.busy_found.percentile(100)),
        Row::percent(format!("hub idle, {} instances, of one core", links::IDLE), 0.5, links.idle_cpu_percent),
        Row::time(format!("{} links cut at once → all back", links::CUT), millis(10_000), links.storm),
    ])
}
