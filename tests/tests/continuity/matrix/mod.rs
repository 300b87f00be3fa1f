//! Every kind of client with every kind of server and every fault, each client in one open session.
//!
//! All clients are connected to one hub with all servers behind it, so a fault affects all pairs at once. Each client
//! has a call in flight at that moment, of a tool that counts its executions; then it lists, calls every server, and
//! must still be in its first session. The results are compared with the tables of `docs/continuity.md`;
//! `LINCHPIN_WRITE_DOCS=1` writes them.

mod backends;
mod clients;
mod faults;
mod stage;
mod table;

use anyhow::Result;
use faults::Fault;
use linchpin_tests::lab::net::isolated;
use stage::Matrix;
use table::Table;

/// Faults 1, 2, 5 and 6, and lists that change with a restart.
#[tokio::test]
async fn sessions_survive_killed_and_stopped_processes() -> Result<()> {
    let mut matrix = Matrix::new(None).await?;
    let mut table = Table::new("processes", Fault::PROCESSES);
    for fault in Fault::PROCESSES {
        matrix.run_fault(*fault, &mut table).await?;
    }
    let ended = matrix.finish().await;
    table.holds().and(ended)
}

/// Fault 35: the network between hub and instances, and between clients and hub.
#[test]
fn sessions_survive_black_holes() -> Result<()> {
    isolated(async |net| {
        let mut matrix = Matrix::new(Some(net)).await?;
        let mut table = Table::new("network", Fault::NETWORK);
        for fault in Fault::NETWORK {
            matrix.run_fault(*fault, &mut table).await?;
        }
        let ended = matrix.finish().await;
        table.holds().and(ended)
    })
}
