//! The registry under many processes that register, leave and are killed at random, compared with a reference model.

use anyhow::Result;
use linchpin_tests::races::driver;

/// The number of rounds for each seed. `make soak` runs more, with random seeds.
const ROUNDS: u32 = 40;

async fn race(seed: u64) -> Result<()> {
    driver::run(seed, |rounds| rounds >= ROUNDS).await.map(drop)
}

/// Faults 1, 4, 20, 22, 23: no live owner is missing, no dead one is left, nothing is torn, and no name is held twice.
#[tokio::test]
async fn registry_matches_its_model_after_races_seed_1() -> Result<()> {
    race(1).await
}

/// The same from another seed.
#[tokio::test]
async fn registry_matches_its_model_after_races_seed_2() -> Result<()> {
    race(2).await
}

/// The same from another seed.
#[tokio::test]
async fn registry_matches_its_model_after_races_seed_3() -> Result<()> {
    race(3).await
}
