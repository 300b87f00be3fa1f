//! The committed inputs of the fuzz target, replayed on stable Rust, and a few thousand mutations of them.

use anyhow::{Result, anyhow, ensure};
use linchpin_hub::fuzz::check;
use linchpin_tests::mutate::{Mutator, corpus};

/// Fault 61: random inputs. `make fuzz` runs more of them.
#[test]
fn readers_agree_on_the_corpus_and_its_mutations() -> Result<()> {
    let corpus = corpus()?;
    ensure!(corpus.len() > 30, "the corpus is not all there: {} inputs", corpus.len());
    for (name, input) in &corpus {
        check(input).map_err(|what| anyhow!("{name}: {what}"))?;
    }
    let mut mutator = Mutator::new(20261121, corpus.into_iter().map(|(_, input)| input).collect());
    for number in 0..5000 {
        let input = mutator.input();
        check(&input).map_err(|what| anyhow!("mutation {number}: {what}: {:?}", String::from_utf8_lossy(&input)))?;
    }
    Ok(())
}
