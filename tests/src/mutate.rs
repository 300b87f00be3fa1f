//! Random inputs, made by mutating the committed corpus of the fuzz target.
//!
//! The same seed and the same corpus give the same inputs.

use crate::races::rng::Rng;
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};

/// The words that parsers of JSON, events and templates distinguish.
const WORDS: [&[u8]; 44] = [
    b"\"",
    b"\\",
    b"\\\"",
    b"\\u0000",
    b"\\ud800",
    b"\\u0069",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"null",
    b"true",
    b"0",
    b"-0",
    b"1.0",
    b"1e400",
    b"7.0",
    b"18446744073709551616",
    b"\"id\":1",
    b"\"id\":",
    b"\"jsonrpc\":\"2.0\"",
    b"\"method\":\"x\"",
    b"\"params\":{",
    b"\"_meta\":{\"progressToken\":7}",
    b"\"result\":{}",
    b"\"error\":{}",
    b"\"name\":\"n\"",
    b"\"tools\":[",
    b"\n",
    b"\r",
    b"\r\n",
    b"\n\n",
    b"data:",
    b"data: x",
    b": ",
    b"\xef\xbb\xbf",
    b"\xff",
    b"\0",
    b"{x}",
    b"{+y}",
    b"/",
    b" ",
];

/// The length limit of an input.
const LONGEST: usize = 4096;

/// The committed inputs with their names, sorted by name.
///
/// # Errors
/// If they cannot be read, or there are none.
pub fn corpus() -> Result<Vec<(String, Vec<u8>)>> {
    let dir = dir();
    let entries = std::fs::read_dir(&dir).with_context(|| dir.display().to_string())?;
    let mut files: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.sort();
    ensure!(!files.is_empty(), "no seed inputs in {}", dir.display());
    let read = |path: PathBuf| Ok((path.file_name().unwrap_or_default().display().to_string(), std::fs::read(&path)?));
    files.into_iter().map(read).collect()
}

/// The directory of the committed inputs.
#[must_use]
pub fn dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/messages")
}

/// Mutates inputs.
#[derive(Debug)]
pub struct Mutator {
    rng: Rng,
    corpus: Vec<Vec<u8>>,
}

impl Mutator {
    /// A mutator with this seed.
    #[must_use]
    pub fn new(seed: u64, corpus: Vec<Vec<u8>>) -> Self {
        Self { rng: Rng::new(seed), corpus }
    }

    /// The next input.
    pub fn input(&mut self) -> Vec<u8> {
        let mut input = self.rng.one_of(&self.corpus).clone();
        for _ in 0..=self.rng.below(6) {
            self.change(&mut input);
        }
        input.truncate(LONGEST);
        input
    }

    fn change(&mut self, input: &mut Vec<u8>) {
        let (from, to) = self.part(input.len());
        match self.rng.below(8) {
            0 => drop(input.drain(from..to)),
            1 => {
                let copy = input[from..to].to_vec();
                self.put(input, &copy);
            }
            2 | 3 => {
                let word = *self.rng.one_of(&WORDS);
                self.put(input, word);
            }
            4 => {
                let word = self.rng.one_of(&WORDS).iter().copied();
                input.splice(from..to, word);
            }
            5 => {
                let other = self.rng.one_of(&self.corpus).clone();
                let (start, end) = self.part(other.len());
                self.put(input, &other[start..end]);
            }
            6 => {
                let bit = 1 << self.rng.below(8);
                if let Some(byte) = input.get_mut(from) {
                    *byte ^= bit;
                }
            }
            _ => {
                // Repeats a part many times, for deep nesting and many members.
                let part: Vec<u8> = input[from..to].iter().copied().take(12).collect();
                let times = usize::try_from(self.rng.below(200)).unwrap_or_default();
                self.put(input, &part.repeat(times));
            }
        }
    }

    fn put(&mut self, input: &mut Vec<u8>, part: &[u8]) {
        let at = self.below(input.len() + 1);
        input.splice(at..at, part.iter().copied());
    }

    /// The bounds of a random part of an input with this length, more often a short one.
    fn part(&mut self, length: usize) -> (usize, usize) {
        let from = self.below(length + 1);
        let longest = if self.rng.percent(80) { (length - from).min(16) } else { length - from };
        (from, from + self.below(longest + 1))
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.rng.below(bound as u64)).unwrap_or_default()
    }
}
