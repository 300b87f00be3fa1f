//! The registry under many processes that come, go and are killed at random, held against a reference model.

use anyhow::Result;
use linchpin_tests::races::driver;

/// Rounds of each seed. `make soak` does more, with seeds that nobody has chosen.
const ROUNDS: u32 = 40;

async fn race(seed: u64) -> Result<()> {
    driver::run(seed, |rounds| rounds >= ROUNDS).await.map(drop)
}

/// Faults 1, 4, 20, 22, 23: nothing alive is missing, nothing dead is left, nothing is torn, no name is held twice.
#[tokio::test]
async fn registry_matches_its_model_after_races_seed_1() -> Result<()> {
    race(1).await
}

/// Faults 1, 4, 20, 22, 23, from another seed.
#[tokio::test]
async fn registry_matches_its_model_after_races_seed_2() -> Result<()> {
    race(2).await
}

/// Faults 1, 4, 20, 22, 23, from another seed.
#[tokio::test]
async fn registry_matches_its_model_after_races_seed_3() -> Result<()> {
    race(3).await
}
