//! What many instances cost the hub: CPU time while they arrive and while a new hub finds them, and memory.
//! The instances are simulated, with the real hello and messages; each has an MCP server.

use crate::proc;
use crate::stats::{Row, ms};
use crate::view::{View, crowd};
use anyhow::Result;
use linchpin_shared::home::Home;
use linchpin_tests::lab::Lab;
use linchpin_tests::sim::Sim;
use std::time::Duration;
use tokio::time::Instant;

/// The numbers of instances, each with the memory limit of the hub in MiB.
const SIZES: [(usize, f64); 2] = [(50, 15.0), (1000, 40.0)];
/// How often the hub is killed and started again.
const STARTS: usize = 3;
/// The time for the work after the arrivals to end.
const SETTLE: Duration = Duration::from_secs(3);

/// Measures all numbers of instances.
pub(crate) async fn rows(lab: &Lab) -> Result<Vec<Row>> {
    let mut hub = lab.hub().await?;
    let (home, mut sims, mut rows) = (Home::at(lab.home()), Vec::new(), Vec::new());
    for (size, most) in SIZES {
        let before = proc::cpu(hub.pid())?;
        crowd(&home, &View::of(lab)?, &mut sims, size).await?;
        tokio::time::sleep(SETTLE).await;
        let took = proc::cpu(hub.pid())? - before;
        rows.push(Row::seen(format!("hub's CPU while {size} instances come, one by one"), ms(took)));
        rows.push(Row::memory(format!("hub memory, {size} instances"), most, proc::resident_mib(hub.pid())?));
    }
    let number = sims.len();
    for start in 0..STARTS {
        hub.kill_9().await?;
        let began = Instant::now();
        hub = lab.hub().await?;
        View::of(lab)?.until_active(number).await?;
        let back = began.elapsed();
        let took = proc::cpu(hub.pid())?;
        tokio::time::sleep(SETTLE).await;
        rows.push(Row::seen(format!("start {start} of a hub that finds {number}: all connected after"), ms(back)));
        rows.push(Row::seen("its CPU until then", ms(took)));
        rows.push(Row::seen("its memory", format!("{:.1} MiB", proc::resident_mib(hub.pid())?)));
    }
    sims.into_iter().try_for_each(Sim::leave)?;
    Ok(rows)
}
