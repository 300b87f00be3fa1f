//! One, 16 and 256 callers at once: how long a call takes, how many calls are answered per second, and what a call
//! costs the hub. The ways take turns, a round each.

use crate::proc;
use crate::stats::{Row, ms};
use crate::ways::{Caller, Servers, Way, added, arguments, shown};
use anyhow::Result;
use futures_util::future::try_join_all;
use linchpin_tests::lab::Lab;
use serde_json::json;
use std::time::Duration;
use tokio::time::Instant;

/// The number of concurrent callers, and of their calls in a round.
const CROWDS: [(usize, usize); 3] = [(1, 500), (16, 3200), (256, 5120)];
/// The number of rounds; the first one warms up.
const ROUNDS: usize = 7;

/// The results of one way in all rounds.
#[derive(Default, Clone, Copy)]
struct Sum {
    calls: u32,
    time: Duration,
    cpu: Duration,
}

/// Measures and prints all numbers of callers.
pub(crate) async fn rows(lab: &Lab, print: impl Fn(&str)) -> Result<Vec<Row>> {
    let _hub = lab.hub().await?;
    let servers = Servers::start(lab).await?;
    let mut rows = Vec::new();
    for (number, calls) in CROWDS {
        let mut ways = servers.ways(lab, number).await?;
        let mut sums = vec![Sum::default(); ways.len()];
        for round in 0..ROUNDS {
            for (way, sum) in ways.iter_mut().zip(&mut sums) {
                one_round(way, calls / number, servers.hub(), round > 0, sum).await?;
            }
        }
        let rate = |at: usize| format!("{:.0}", f64::from(sums[at].calls) / sums[at].time.as_secs_f64());
        let cpu = |at: usize| if ways[at].hub { ms(sums[at].cpu / sums[at].calls) } else { String::new() };
        let more: [(&str, &dyn Fn(usize) -> String); 2] = [("calls/s", &rate), ("hub's CPU a call", &cpu)];
        print(&format!("{number} callers at once, a server that answers at once\n{}", shown(&ways, &more)));
        rows.extend(judged(number, &ways, &sums)?);
    }
    servers.leave()?;
    Ok(rows)
}

fn judged(number: usize, ways: &[Way], sums: &[Sum]) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for name in ["HTTP, through the hub", "stdio, through the hub"] {
        let [median, p99] = added(ways, name)?;
        if number == 1 {
            rows.push(Row::time(format!("{name}, added to a tool call, p50"), Duration::from_micros(300), median));
            rows.push(Row::time(format!("{name}, added to a tool call, p99"), Duration::from_millis(1), p99));
        }
        let sum = ways.iter().zip(sums).find(|(way, _)| way.name == name).map(|(_, sum)| *sum).unwrap_or_default();
        rows.push(Row::seen(format!("{name}, {number} callers, hub's CPU a call"), ms(sum.cpu / sum.calls.max(1))));
    }
    Ok(rows)
}

/// Every caller of a way makes this many calls, one after the other.
async fn one_round(way: &mut Way, calls: usize, hub: u32, counts: bool, sum: &mut Sum) -> Result<()> {
    let params = arguments(way.tool, &json!({"message": "x"}));
    let (began, cpu) = (Instant::now(), proc::cpu(hub)?);
    let each = async |caller: &mut Caller| {
        let mut took = Vec::with_capacity(calls);
        for _ in 0..calls {
            took.push(caller.call(&params).await?.1);
        }
        anyhow::Ok(took)
    };
    let took = try_join_all(way.callers.iter_mut().map(each)).await?;
    if counts {
        sum.time += began.elapsed();
        sum.cpu += proc::cpu(hub)? - cpu;
        for took in took.into_iter().flatten() {
            way.samples.add(took);
            sum.calls += 1;
        }
    }
    Ok(())
}
