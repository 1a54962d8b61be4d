//! Changed copies of seeds. No coverage guides them; they are many, and the same at every run.

use std::ops::Range;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Bytes that mean something in one format or another.
const WORDS: [&[u8]; 20] = [
    b"\n",
    b"\r\n",
    b" ",
    b"\t",
    b",",
    b":",
    b";",
    b"=",
    b"\"",
    b"\\",
    b"/",
    b"%",
    b".",
    b"-",
    b"_",
    b"\0",
    b"\x7f",
    b"\xff",
    b"0",
    b"999999999999999999999",
];

/// Never ends.
#[derive(Debug)]
pub struct Mutations<'a> {
    seeds: &'a [Vec<u8>],
    rng: StdRng,
}

impl<'a> Mutations<'a> {
    pub fn of(seeds: &'a [Vec<u8>]) -> Self {
        Self { seeds, rng: StdRng::seed_from_u64(1) }
    }

    fn seed(&mut self) -> &'a [u8] {
        &self.seeds[self.rng.random_range(0..self.seeds.len())]
    }

    /// Short more often than long; it may be empty.
    fn range(&mut self, length: usize) -> Range<usize> {
        let start = self.rng.random_range(0..=length);
        let most = if self.rng.random_bool(0.8) { 8 } else { length };
        start..(start + self.rng.random_range(0..=most)).min(length)
    }

    fn change(&mut self, input: &mut Vec<u8>) {
        let range = self.range(input.len());
        match self.rng.random_range(0..5) {
            0 => {
                let byte = self.rng.random();
                input.splice(range.start..(range.start + 1).min(input.len()), [byte]);
            }
            1 => {
                let word = WORDS[self.rng.random_range(0..WORDS.len())];
                input.splice(range, word.iter().copied());
            }
            2 => drop(input.drain(range)),
            3 => {
                let copied = input[range].to_vec();
                let at = self.rng.random_range(0..=input.len());
                input.splice(at..at, copied);
            }
            _ => {
                let other = self.seed();
                let copied = &other[self.range(other.len())];
                input.splice(range, copied.iter().copied());
            }
        }
    }
}

impl Iterator for Mutations<'_> {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        let mut input = self.seed().to_vec();
        for _ in 0..self.rng.random_range(1..=6) {
            self.change(&mut input);
        }
        Some(input)
    }
}
