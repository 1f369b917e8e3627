//! What stands in for libFuzzer where there is no nightly toolchain: replays the corpus of a target and then mutates it, so often and by
//! that seed. `TARGET [ROUNDS [SEED]]`

#[path = "mutate.rs"]
mod mutate;

use std::path::Path;
use std::{env, fs};

use mutate::{Dice, mutate};

pub fn run(name: &str, check: fn(&[u8])) {
    let mut arguments = env::args().skip(1).map(|argument| argument.parse::<u64>().expect("a number"));
    let (rounds, seed) = (arguments.next().unwrap_or(100_000), arguments.next().unwrap_or(1));
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    let mut corpus: Vec<Vec<u8>> = Vec::new();
    for entry in fs::read_dir(&folder).expect("a corpus") {
        corpus.push(fs::read(entry.expect("an entry").path()).expect("a file"));
    }
    corpus.sort();
    for bytes in &corpus {
        check(bytes);
    }
    let mut dice = Dice::seeded(seed);
    for round in 0..rounds {
        let mut bytes = corpus[dice.below(corpus.len())].clone();
        mutate(&mut bytes, &mut dice, 3);
        if std::panic::catch_unwind(|| check(&bytes)).is_err() {
            eprintln!("{name}: round {round} of seed {seed} failed: add this to its corpus: {:?}", String::from_utf8_lossy(&bytes));
            std::process::exit(1);
        }
    }
    println!("{name}: {} files and {rounds} mutations of seed {seed} hold", corpus.len());
}
