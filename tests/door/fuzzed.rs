//! What fuzzing has to go by, replayed: every file of the corpora, and some mutations of each that are the same in every run.

use std::path::Path;
use std::{fs, panic};

use crate::mutate::{Dice, mutate};
use crate::{lines, properties, words};

fn holds(name: &str, check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(name);
    let mut files: Vec<_> = fs::read_dir(&folder).expect("a corpus").map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    assert!(files.len() > 10, "{} is nearly empty", folder.display());
    for file in files {
        let bytes = fs::read(&file).expect("a file");
        let mut dice = Dice::seeded(7);
        for round in 0..25 {
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

#[test]
fn bodies_of_the_api_are_read_or_refused_in_a_line_and_read_the_same_when_they_are_written_anew() {
    holds("bodies", words::bodies);
}

#[test]
fn paths_are_sent_as_they_came_or_refused_and_lead_past_no_rule() {
    holds("endpoint", words::endpoint);
}

#[test]
fn configurations_are_read_or_refused_in_a_line_and_read_the_same_when_they_are_written_anew() {
    holds("config", words::config);
}

#[test]
fn token_files_are_read_or_refused_in_a_line_and_read_the_same_when_they_are_written_anew() {
    holds("tokens", words::tokens);
}

#[test]
fn what_is_kept_of_the_registry_is_read_or_refused_in_a_line_and_read_the_same_when_it_is_written_anew() {
    holds("state", words::state);
}

#[test]
fn instances_are_told_of_the_trace_that_was_named_by_fields_that_are_read_as_they_are_meant() {
    holds("trace", lines::trace);
}

#[test]
fn a_state_log_is_read_as_far_as_it_is_whole_whatever_stands_in_it() {
    holds("log", lines::log);
}

#[test]
fn lines_of_a_watch_change_what_they_name_and_nothing_else() {
    holds("watch", lines::watch);
}
