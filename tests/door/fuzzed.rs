//! What fuzzing has to go by, replayed: every file of the corpora, and some mutations of each that are the same in every run.

use std::path::Path;
use std::{fs, panic};

use crate::mutate::{Dice, mutate};
use crate::properties;

fn holds(name: &str, check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(name);
    let mut files: Vec<_> = fs::read_dir(&folder).expect("a corpus").map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    assert!(files.len() > 10, "{} is nearly empty", folder.display());
    for file in files {
        let bytes = fs::read(&file).expect("a file");
        let mut dice = Dice::seeded(7);
        for round in 0..100 {
            let mut changed = bytes.clone();
            if round > 0 {
                mutate(&mut changed, &mut dice, 3);
            }
            if panic::catch_unwind(|| check(&changed)).is_err() {
                panic!("{} in round {round}: {:?}", file.display(), String::from_utf8_lossy(&changed));
            }
        }
    }
}

#[test]
fn heads_of_requests_are_read_the_same_in_whatever_pieces_they_come_and_however_often_they_are_written_anew() {
    holds("request_head", properties::request_head);
}

#[test]
fn heads_of_answers_are_read_the_same_in_whatever_pieces_they_come_and_however_often_they_are_written_anew() {
    holds("response_head", properties::response_head);
}

#[test]
fn bodies_in_chunks_are_read_the_same_in_whatever_pieces_they_come_and_however_often_they_are_written_anew() {
    holds("chunks", properties::chunks);
}
