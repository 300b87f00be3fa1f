//! `make soak`: random races of the registry, seed after seed.
//!
//! `SEED` is the first seed (random by default), `ROUNDS` the number of rounds of each seed, `SECONDS` how long new seeds
//! are started (0: one seed only). A failure names the seed that repeats the same actions.
#![expect(clippy::print_stdout, reason = "a command-line program prints its results")]

use anyhow::{Context, Result};
use linchpin_tests::races::driver;
use std::time::Duration;
use tokio::time::Instant;

#[tokio::main]
async fn main() -> Result<()> {
    let first = match number("SEED")? {
        Some(seed) => seed,
        None => u64::from(uuid::Uuid::new_v4().as_fields().0),
    };
    let rounds = u32::try_from(number("ROUNDS")?.unwrap_or(300))?;
    let (began, long) = (Instant::now(), Duration::from_secs(number("SECONDS")?.unwrap_or(600)));
    let mut done = 0;
    for seed in first.. {
        println!("seed {seed}: {rounds} rounds (again: make soak SEED={seed} ROUNDS={rounds} SECONDS=0)");
        done += driver::run(seed, |round| round >= rounds).await?;
        if began.elapsed() >= long {
            break;
        }
    }
    println!("{done} rounds of the registry held, from seed {first}, in {:.0} s", began.elapsed().as_secs_f64());
    Ok(())
}

fn number(name: &str) -> Result<Option<u64>> {
    match std::env::var(name) {
        Ok(text) if !text.is_empty() => text.parse().map(Some).with_context(|| format!("{name}={text} is no number")),
        Ok(_) | Err(_) => Ok(None),
    }
}
