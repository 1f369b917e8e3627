//! How long it takes to refuse a token must tell nothing about the tokens there are: one that is wrong in its last character alone must not
//! take longer than one that is wrong in all.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use crate::callers::{line, write};
use crate::mutate::Dice;
use crate::support::client::request;
use crate::weft::{Folder, Weft};

const TOKEN: &str = "b51f6a0d0c6e4c27a3f2d1b0e9c8d7a6-token";

/// What may be shown instead of it, and whether it is a token at all.
fn shown() -> [(&'static str, String); 5] {
    let all_but = |n: usize| TOKEN[..TOKEN.len() - n].to_owned();
    [
        ("wrong in all", "x".repeat(TOKEN.len())),
        ("wrong in the last character", all_but(1) + "m"),
        ("wrong in the second half", all_but(TOKEN.len() / 2) + &"y".repeat(TOKEN.len() / 2)),
        ("one character shorter", all_but(1)),
        ("none", String::new()),
    ]
}

/// How many of them are wrong tokens, which must be alike; the last is only there to be seen.
const WRONG: usize = 4;

/// Relabelled at random so often, no difference of medians was as large in all but a thousandth.
const RELABELLED: usize = 1000;

fn median_of(sorted: &[u64]) -> f64 {
    let half = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[half] as f64 } else { (sorted[half - 1] + sorted[half]) as f64 / 2.0 }
}

/// The difference of medians if the first `first` of all were one kind, and the rest another.
fn difference(all: &[u64], first: usize) -> f64 {
    let (mut one, mut other) = (all[..first].to_vec(), all[first..].to_vec());
    one.sort_unstable();
    other.sort_unstable();
    (median_of(&one) - median_of(&other)).abs()
}

/// The difference that chance makes among these.
fn noise(one: &[u64], other: &[u64], dice: &mut Dice) -> f64 {
    let mut all = [one, other].concat();
    let mut differences: Vec<f64> = (0..RELABELLED)
        .map(|_| {
            for n in (1..all.len()).rev() {
                all.swap(n, dice.below(n + 1));
            }
            difference(&all, one.len())
        })
        .collect();
    differences.sort_by(f64::total_cmp);
    differences[RELABELLED - 1]
}

/// Asks, and answers how long the answer took in nanoseconds, and its status.
fn ask(stream: &mut TcpStream, bytes: &[u8]) -> (u64, String) {
    let (mut came, mut piece) = (Vec::new(), [0; 4096]);
    let began = Instant::now();
    stream.write_all(bytes).expect("sent");
    loop {
        let read = stream.read(&mut piece).expect("an answer");
        let took = began.elapsed();
        came.extend_from_slice(&piece[..read]);
        assert!(read > 0, "the connection ended: {}", String::from_utf8_lossy(&came));
        // It is short, and its body ends in a brace.
        if came.ends_with(b"}") {
            let text = String::from_utf8_lossy(&came).into_owned();
            return (u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), text);
        }
    }
}

#[test]
fn how_long_a_token_is_refused_tells_nothing_about_it() {
    let samples = crate::asked_for("WEFT_TIMING_SAMPLES");
    let folder = Folder::new();
    let file = folder.path("tokens");
    let others = (0..999).map(|n| line(&format!("caller-{n}"), "invoke", serde_json::json!({})));
    let name = TOKEN.strip_suffix("-token").expect("the name and its suffix");
    write(&file, &others.chain([line(name, "read", serde_json::json!({}))]).collect::<Vec<_>>().join("\n"));
    let weft = Weft::start(&["--token-file", &file]);
    let mut stream = TcpStream::connect(weft.at()).expect("a connection");
    stream.set_nodelay(true).expect("a setting");
    stream.set_read_timeout(Some(crate::support::PATIENCE)).expect("a setting");

    let kinds = shown();
    let requests: Vec<Vec<u8>> = kinds
        .iter()
        .map(|(_, token)| {
            let bearer = format!("Bearer {token}");
            let field = [("authorization", &*bearer)];
            request("GET", "/services", if token.is_empty() { &[] } else { &field }, b"")
        })
        .collect();
    let mut dice = Dice::seeded(crate::asked_for("WEFT_SEED").unwrap_or(1));
    let mut took = vec![Vec::new(); kinds.len()];
    let most = usize::try_from(samples.unwrap_or(20)).expect("a number");
    while took.iter().any(|each| each.len() < most) {
        let kind = dice.below(kinds.len());
        let (nanoseconds, answer) = ask(&mut stream, &requests[kind]);
        assert!(answer.starts_with("HTTP/1.1 401 "), "{}: {answer}", kinds[kind].0);
        took[kind].push(nanoseconds);
    }
    if samples.is_none() {
        return;
    }
    let mut told = Vec::new();
    for (kind, took) in kinds.iter().zip(&took) {
        let mut sorted = took.clone();
        sorted.sort_unstable();
        println!("{}: median {:.0} ns of {} samples", kind.0, median_of(&sorted), sorted.len());
    }
    for kind in 1..WRONG {
        let (one, other) = (&took[0], &took[kind]);
        let (seen, by_chance) = (difference(&[&**one, other].concat(), one.len()), noise(one, other, &mut dice));
        println!("{} against {}: {seen:.0} ns; chance alone makes up to {by_chance:.0} ns", kinds[0].0, kinds[kind].0);
        if seen > by_chance {
            told.push(kinds[kind].0);
        }
    }
    assert_eq!(told, [""; 0], "how long it takes tells them apart");
}
