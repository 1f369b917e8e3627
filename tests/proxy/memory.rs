//! What a body that streams costs in memory: the same however long it is.
//!
//! `WEFT_STREAM_MIB=1024 cargo nextest run --test proxy memory` streams a gibibyte in each direction instead of the usual 128 MiB.

use std::{env, fs};

use serde_json::json;

use crate::program::Weft;
use crate::support::eventually;
use crate::support::upstream::answer;
use crate::wire::{Stage, Wire, head};

/// How far the memory of the program may move, in KiB.
const MOST: u64 = 2048;

/// How much to stream in each direction, in bytes.
fn length() -> usize {
    let mib = env::var("WEFT_STREAM_MIB").map_or(128, |mib| mib.parse().expect("a number of MiB"));
    mib << 20
}

/// The most memory the program has had since [`forget_the_peak`], in KiB.
fn peak(weft: &Weft) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", weft.pid())).expect("the status of a process");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("a peak");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
}

fn forget_the_peak(weft: &Weft) {
    fs::write(format!("/proc/{}/clear_refs", weft.pid()), "5").expect("the peak is forgotten");
}

fn download(weft: &Weft, stage: &Stage, bytes: usize) {
    let mut client = Wire::connect(weft.at());
    client.send(head("GET /proxy/s/down", &["Connection: close"]));
    let mut instance = stage.accept();
    instance.head();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            instance.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {bytes}\r\n\r\n"));
            instance.pour(0, bytes);
        });
        assert_eq!(client.head().status(), 200);
        client.drain(bytes);
    });
}

fn upload(weft: &Weft, stage: &Stage, bytes: usize) {
    let mut client = Wire::connect(weft.at());
    client.send(head("PUT /proxy/s/up", &["Connection: close", &format!("Content-Length: {bytes}")]));
    let mut instance = stage.accept();
    instance.head();
    std::thread::scope(|scope| {
        scope.spawn(|| client.pour(0, bytes));
        instance.drain(bytes);
    });
    instance.send(answer(201, &[("Connection", "close")], "whole"));
    assert_eq!(client.answer().with_status(201).text(), "whole");
}

#[test]
fn a_long_body_costs_no_more_memory_than_a_short_one() {
    let weft = Weft::start(&[]);
    let stage = Stage::new();
    weft.post("/register", &json!({"name": "s", "id": "i", "host": "127.0.0.1", "port": stage.port()})).with_status(200);
    for what in [download, upload] {
        // What is set up once is there afterwards.
        what(&weft, &stage, 8 << 20);
        forget_the_peak(&weft);
        let before = peak(&weft);
        what(&weft, &stage, length());
        let after = peak(&weft);
        println!("{} MiB: {before} KiB before, {after} KiB at most", length() >> 20);
        assert!(after.saturating_sub(before) < MOST, "{before} KiB before, {after} KiB at most");
    }
}

#[test]
fn clients_that_do_not_read_cost_two_buffers_each() {
    const CLIENTS: usize = 16;
    /// In KiB: what has been read and not yet passed on, and what has been passed on and not yet taken, and as much again for growth.
    const EACH: u64 = 256;
    let weft = Weft::start(&[]);
    let stage = Stage::new();
    weft.post("/register", &json!({"name": "s", "id": "i", "host": "127.0.0.1", "port": stage.port()})).with_status(200);
    download(&weft, &stage, 8 << 20);
    forget_the_peak(&weft);
    let before = peak(&weft);
    let mut streams: Vec<(Wire, Wire, usize)> = (0..CLIENTS)
        .map(|_| {
            let mut client = Wire::connect(weft.at());
            client.send(head("GET /proxy/s/down", &[]));
            let mut instance = stage.accept();
            instance.head();
            instance.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n");
            (client, instance, 0)
        })
        .collect();
    let mut quiet = 0;
    eventually("nothing more is taken from any instance", || {
        let sent = |(_, instance, sent): &mut (Wire, Wire, usize)| {
            let more = instance.pour_what_fits(*sent);
            *sent += more;
            more
        };
        quiet = if streams.iter_mut().map(sent).sum::<usize>() == 0 { quiet + 1 } else { 0 };
        (quiet == 50).then_some(())
    });
    let after = peak(&weft);
    let sent: usize = streams.iter().map(|(_, _, sent)| sent).sum();
    println!("{CLIENTS} clients, {} MiB on their way: {before} KiB before, {after} KiB at most", sent >> 20);
    assert!(after.saturating_sub(before) < CLIENTS as u64 * EACH, "{before} KiB before, {after} KiB at most");
}
