//! The memory of the hub for a hundred agents: connected with open streams, and after they used it; in both dialects.

use crate::proc;
use crate::stats::Row;
use crate::web::{ECHO, Offer, Web};
use crate::wire::Wire;
use anyhow::Result;
use futures_util::future::try_join_all;
use hyper::body::Incoming;
use linchpin_shared::home::Home;
use linchpin_tests::lab::Lab;
use serde_json::json;
use std::time::Duration;

const SESSIONS: usize = 100;
/// The number of calls after which a session counts as used.
const CALLS: usize = 20;
/// The time for background work to end, and for the allocator to return unused memory.
const SETTLE: Duration = Duration::from_secs(2);

/// Measures both dialects, each with its own hub.
pub(crate) async fn rows(lab: &Lab) -> Result<Vec<Row>> {
    let web = Web::start(&Home::at(lab.home()), "web", Offer { tools: 10, announces: true }).await?;
    let mut rows = Vec::new();
    for (modern, era) in [(false, "2025-11-25"), (true, "2026-07-28")] {
        let mut hub = lab.hub().await?;
        lab.usable("web").await?;
        let resident = async || {
            tokio::time::sleep(SETTLE).await;
            proc::resident_mib(hub.pid())
        };
        let without = resident().await?;
        let mut agents = try_join_all((0..SESSIONS).map(|_| open(lab, modern))).await?;
        let idle = resident().await?;
        try_join_all(agents.iter_mut().map(|(wire, _)| use_it(wire, modern))).await?;
        let used = resident().await?;
        let each = |mib: f64| format!("{:.1} KiB", (mib - without) * 1024.0 / SESSIONS as f64);
        rows.push(Row::seen(format!("hub memory, {SESSIONS} sessions of {era}"), format!("{idle:.1} MiB")));
        rows.push(Row::seen(format!("the same, after {CALLS} calls each"), format!("{used:.1} MiB")));
        rows.push(Row::seen(format!("a session of {era}, idle"), each(idle)));
        rows.push(Row::seen(format!("a session of {era}, used"), each(used)));
        drop(agents);
        hub.kill_9().await?;
    }
    web.leave()?;
    Ok(rows)
}

/// An agent with the usual connections: one for its requests, and one with a stream that stays open.
async fn open(lab: &Lab, modern: bool) -> Result<(Wire, (Wire, Incoming))> {
    let facts = lab.hub_facts()?;
    let url = format!("{}/mcp", facts.url);
    if modern {
        let wire = Wire::connect(&url, &facts.token).await?;
        let mut other = Wire::connect(&url, &facts.token).await?;
        let stream = other.subscribe().await?;
        return Ok((wire, (other, stream)));
    }
    let wire = Wire::mcp(&url, &facts.token).await?;
    let mut other = wire.beside().await?;
    let stream = other.listen().await?;
    Ok((wire, (other, stream)))
}

async fn use_it(wire: &mut Wire, modern: bool) -> Result<()> {
    for _ in 0..CALLS {
        let params = json!({"name": format!("web__{ECHO}"), "arguments": {"message": "x"}});
        if modern {
            wire.modern("tools/call", params).await?
        } else {
            wire.raw("tools/call", &params).await?
        };
    }
    Ok(())
}
