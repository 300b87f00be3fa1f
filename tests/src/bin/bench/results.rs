//! A result of ten megabytes: the time that the hub adds, and the memory that it needs in the meantime.

use crate::proc;
use crate::stats::Row;
use crate::ways::{Servers, Way, added, arguments, shown};
use anyhow::{Result, ensure};
use linchpin_tests::lab::Lab;
use serde_json::json;
use std::time::Duration;

/// The size of the text in the result, before it is escaped as JSON.
const SIZE: usize = 10_000_000;
/// The number of calls of each way, in turns.
const CALLS: usize = 21;

/// The time for the hub to return unused memory.
const REST: Duration = Duration::from_secs(3);

async fn call_large(way: &mut Way) -> Result<Duration> {
    let params = arguments(way.tool, &json!({"message": "x", "size": SIZE}));
    let (size, took) = way.callers[0].call(&params).await?;
    ensure!(size > SIZE, "an answer of {size} bytes");
    Ok(took)
}

/// Measures and prints.
pub(crate) async fn rows(lab: &Lab, print: impl Fn(&str)) -> Result<Vec<Row>> {
    let _hub = lab.hub().await?;
    let servers = Servers::start(lab).await?;
    let mut ways = servers.ways(lab, 1).await?;
    // The first large results of a hub, each after a pause.
    let (began, mut peaks) = (proc::resident_mib(servers.hub())?, vec![0.0_f64; ways.len()]);
    for (way, peak) in ways.iter_mut().zip(&mut peaks).filter(|(way, _)| way.hub) {
        proc::forget_peak(servers.hub())?;
        call_large(way).await?;
        *peak = proc::peak_mib(servers.hub())? - began;
        tokio::time::sleep(REST).await;
    }
    for _ in 0..CALLS {
        for way in &mut ways {
            let took = call_large(way).await?;
            way.samples.add(took);
        }
    }
    tokio::time::sleep(REST).await;
    let kept = proc::resident_mib(servers.hub())? - began;
    let peak = |at: usize| if ways[at].hub { format!("{:.1} MiB", peaks[at]) } else { String::new() };
    print(&format!("a result of {SIZE} bytes\n{}", shown(&ways, &[("hub's peak, added", &peak)])));
    let mut rows = Vec::new();
    for (name, peak) in ways.iter().zip(&peaks).filter(|(way, _)| way.hub).map(|(way, peak)| (way.name, peak)) {
        rows.push(Row::seen(format!("10 MB, {name}, added, median"), crate::stats::ms(added(&ways, name)?[0])));
        rows.push(Row::seen(format!("10 MB, {name}, the hub's peak above its rest"), format!("{peak:.1} MiB")));
    }
    let what = format!("held {} s after the last of {}", REST.as_secs(), 2 * (CALLS + 1));
    rows.push(Row::seen(format!("10 MB, {what}"), format!("{kept:.1} MiB")));
    servers.leave()?;
    Ok(rows)
}
