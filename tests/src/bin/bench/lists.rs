//! The tools of twenty instances in one list: for an agent that has a session, and for the first agent of a hub that
//! has just started. For comparison the same servers are asked directly, all at once and one after the other.

use crate::stats::{Row, Samples, ms, table};
use crate::web::{Offer, Web};
use crate::wire::Wire;
use anyhow::{Result, ensure};
use futures_util::future::try_join_all;
use linchpin_shared::home::Home;
use linchpin_tests::lab::Lab;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::Instant;

const INSTANCES: usize = 20;
const TOOLS: usize = 10;
/// The list also contains the builtin tools of the hub.
const AT_LEAST: usize = INSTANCES * TOOLS;
/// How often each kind of list is measured, in turns.
const LISTS: usize = 200;
/// How often the hub is killed, started and asked for its first list.
const STARTS: usize = 15;
const MOST: Duration = Duration::from_millis(5);

/// Measures and prints, with servers that announce changes of their lists and with servers that do not.
pub(crate) async fn rows(lab: &Lab, print: impl Fn(&str)) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (announces, servers) in [(true, "servers that announce changes"), (false, "servers that announce nothing")] {
        let home = Home::at(lab.home());
        let offer = Offer { tools: TOOLS, announces };
        let mut webs = Vec::new();
        for number in 0..INSTANCES {
            webs.push(Web::start(&home, &format!("web-{announces}-{number}"), offer).await?);
        }
        let [warm, at_once, in_turn] = warm(lab, &webs).await?;
        let cold = cold(lab).await?;
        let ways =
            [("directly, all at once", &at_once), ("directly, in turn", &in_turn), ("warm", &warm), ("cold", &cold)];
        let line = |(name, samples): (&str, &Samples)| {
            let ratio = samples.median().as_secs_f64() / at_once.median().as_secs_f64();
            vec![name.to_owned(), ms(samples.median()), ms(samples.percentile(99)), format!("{ratio:.2}")]
        };
        let lines: Vec<_> = ways.into_iter().map(line).collect();
        print(&format!(
            "{AT_LEAST} tools of {INSTANCES} {servers}\n{}",
            table(&["way", "median", "p99", "ratio"], &lines)
        ));
        for (kind, samples) in
            [("warm, median", warm.median()), ("warm, p99", warm.percentile(99)), ("cold, median", cold.median())]
        {
            rows.push(Row::time(format!("{AT_LEAST} tools of {INSTANCES} {servers}, {kind}"), MOST, samples));
        }
        webs.into_iter().try_for_each(Web::leave)?;
    }
    Ok(rows)
}

/// Measures through the hub, and directly: all at once and one after the other.
async fn warm(lab: &Lab, webs: &[Web]) -> Result<[Samples; 3]> {
    let mut hub = lab.hub().await?;
    let mut agent = ready(lab).await?;
    let mut direct = try_join_all(webs.iter().map(|web| Wire::mcp(&web.url, ""))).await?;
    let mut samples = [Samples::default(), Samples::default(), Samples::default()];
    for _ in 0..LISTS {
        let (count, took) = list(&mut agent).await?;
        ensure!(count >= AT_LEAST, "{count} tools");
        samples[0].add(took);
        let began = Instant::now();
        try_join_all(direct.iter_mut().map(list)).await?;
        samples[1].add(began.elapsed());
        let began = Instant::now();
        for wire in &mut direct {
            list(wire).await?;
        }
        samples[2].add(began.elapsed());
    }
    hub.kill_9().await?;
    Ok(samples)
}

/// The first list of a hub that has a session with every server.
async fn cold(lab: &Lab) -> Result<Samples> {
    let mut samples = Samples::default();
    for _ in 0..STARTS {
        let mut hub = lab.hub().await?;
        samples.add(list(&mut ready(lab).await?).await?.1);
        hub.kill_9().await?;
    }
    Ok(samples)
}

/// Begins a new agent once the hub has a session with every server and knows its lists.
async fn ready(lab: &Lab) -> Result<Wire> {
    let facts = lab.hub_facts()?;
    let mut view = Wire::connect(&facts.url, &facts.token).await?;
    lab.wait_for("all servers are ready", async || {
        let (_, body) = view.get("/v1/instances").await?;
        let list: Value = serde_json::from_slice(&body)?;
        let all = list["instances"].as_array().map(Vec::as_slice).unwrap_or_default();
        let is_ready = |it: &&Value| it["servers"][0]["session"] == "ready" && it["servers"][0]["tools"] == TOOLS;
        let ready = all.iter().filter(is_ready).count();
        ensure!(ready == INSTANCES, "{ready} are ready of {}: {:?}", all.len(), all.first());
        Ok(())
    })
    .await?;
    Wire::mcp(&format!("{}/mcp", facts.url), &facts.token).await
}

/// The number of tools, and the time. They are counted by a word that each has once, because parsing is not to be
/// measured.
async fn list(wire: &mut Wire) -> Result<(usize, Duration)> {
    let began = Instant::now();
    let answer = wire.raw("tools/list", &json!({})).await?;
    let took = began.elapsed();
    Ok((String::from_utf8_lossy(&answer).matches("\"inputSchema\"").count(), took))
}
