//! `make fuzz`: feeds random inputs to the parsers of the gateway, on stable Rust.
//!
//! `SEED` is the seed (random by default), `SECONDS` the duration. The inputs are mutations of the committed corpus. An
//! input on which two parsers differ, or one panics, is stored beside the corpus as `fuzz/found/NAME`. To keep it, fix
//! the parser and move the input into the corpus, which a test replays.
#![expect(clippy::print_stdout, reason = "a command-line program prints its results")]

use anyhow::{Context, Result, bail};
use linchpin_hub::fuzz::check;
use linchpin_tests::mutate::{Mutator, corpus, dir};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;
use tokio::time::Instant;

fn main() -> Result<()> {
    let seed = match number("SEED")? {
        Some(seed) => seed,
        None => u64::from(uuid::Uuid::new_v4().as_fields().0),
    };
    let (began, long) = (Instant::now(), Duration::from_secs(number("SECONDS")?.unwrap_or(60)));
    println!("seed {seed} (again: make fuzz SEED={seed})");
    let mut mutator = Mutator::new(seed, corpus()?.into_iter().map(|(_, input)| input).collect());
    let mut done = 0_u64;
    while began.elapsed() < long {
        for _ in 0..1000 {
            let input = mutator.input();
            let checked = catch_unwind(AssertUnwindSafe(|| check(&input)));
            if let Err(what) = checked.unwrap_or_else(|_| Err(String::from("a reader panicked"))) {
                return found(seed, done, &input, &what);
            }
            done += 1;
        }
    }
    println!(
        "{done} inputs, from seed {seed}, in {:.0} s: no reader panicked, none differed",
        began.elapsed().as_secs_f64()
    );
    Ok(())
}

fn found(seed: u64, number: u64, input: &[u8], what: &str) -> Result<()> {
    let path = dir().join("../../found").join(format!("seed-{seed}-{number}"));
    let parent = path.parent().context("no directory")?;
    std::fs::create_dir_all(parent)?;
    std::fs::write(&path, input)?;
    bail!("input {number} of seed {seed}: {what}\n{:?}\nit is in {}", String::from_utf8_lossy(input), path.display())
}

fn number(name: &str) -> Result<Option<u64>> {
    match std::env::var(name) {
        Ok(text) if !text.is_empty() => text.parse().map(Some).with_context(|| format!("{name}={text} is no number")),
        Ok(_) | Err(_) => Ok(None),
    }
}
