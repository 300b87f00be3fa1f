//! Large results through the hub.

use anyhow::{Result, ensure};
use linchpin_tests::agent::Agent;
use linchpin_tests::kit;
use linchpin_tests::lab::Lab;
use linchpin_tests::large;
use serde_json::json;

/// Sizes that need many frames on the link and many reads of the pipe, and that are no multiple of either.
const SIZES: [usize; 4] = [1, 16_385, 300_001, 3_000_003];

#[tokio::test]
async fn large_result_arrives_byte_for_byte() -> Result<()> {
    let lab = Lab::new()?;
    let _hub = lab.hub().await?;
    let _instance = lab.instance("large", &kit::echo("x")?)?;
    lab.usable("large").await?;
    let mut agent = lab.http("/mcp").await?;
    for size in SIZES {
        let got = agent.call("large__echo-x", json!({"size": size})).await?;
        ensure!(got == large::text(size), "{size} bytes became {} others", got.len());
    }
    lab.finish().await
}
