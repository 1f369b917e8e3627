//! `GET /tap`: calls as they happen, for as long as somebody reads them.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};
use weft::Mesh;
use weft::server::Config;
use weft::telemetry::onlookers;

use crate::house::House;
use crate::support::PATIENCE;
use crate::support::eventually;
use crate::support::upstream::{Upstream, ok};

/// Somebody who watches, in HTTP/1.0 so that lines are lines.
struct Watcher {
    stream: TcpStream,
    read: String,
}

impl Watcher {
    /// Opens a tap, and is there when this returns.
    fn new(house: &House, query: &str) -> Self {
        let mut stream = TcpStream::connect(house.at).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        stream.write_all(format!("GET /tap{query} HTTP/1.0\r\nhost: localhost\r\n\r\n").as_bytes()).expect("sent");
        let mut watcher = Self { stream, read: String::new() };
        while !watcher.read.contains("\r\n\r\n") {
            assert!(watcher.more(), "a head comes");
        }
        watcher.read = watcher
            .read
            .split_once("\r\n\r\n")
            .map(|(head, rest)| {
                assert!(head.starts_with("HTTP/1.1 200") && head.contains("application/x-ndjson"), "{head}");
                rest.to_owned()
            })
            .expect("a head");
        watcher
    }

    fn more(&mut self) -> bool {
        let mut piece = [0; 4096];
        let read = self.stream.read(&mut piece).expect("readable");
        self.read.push_str(std::str::from_utf8(&piece[..read]).expect("UTF-8"));
        read > 0
    }

    /// The next call.
    fn next(&mut self) -> Value {
        while !self.read.contains('\n') {
            assert!(self.more(), "another line comes");
        }
        let (line, rest) = self.read.split_once('\n').map(|(line, rest)| (line.to_owned(), rest.to_owned())).expect("a line");
        self.read = rest;
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }

    fn is_at_end(&mut self) -> bool {
        self.read.is_empty() && !self.more()
    }
}

fn number(house: &House, what: &str) -> u64 {
    house.metrics()["onlookers"][what].as_u64().expect("a number")
}

#[test]
fn a_tap_shows_the_calls_it_asks_for_with_their_fields_and_without_secrets() {
    let house = House::new();
    let upstream = Upstream::start(|_| ok("fine"));
    house.register("s", "a", &upstream);
    let mut all = Watcher::new(&house, "");
    let mut failed = Watcher::new(&house, "?status=5xx&limit=2");
    let secrets = [("authorization", "Bearer s3cret"), ("x-api-key", "s3cret"), ("x-note", "\"quoted\" <b>")];
    house.ask("GET", "/proxy/s/x?token=s3cret", &secrets, b"").with_status(200);
    house.call("nobody", "/1").with_status(503);
    house.call("nobody", "/2").with_status(503);
    let call = all.next();
    assert_eq!((&call["service"], &call["path"], &call["status"]), (&json!("s"), &json!("/x"), &json!(200)));
    assert_eq!((&call["attempts"][0]["instance"], &call["sampled"]), (&json!("a"), &json!(false)));
    assert!(!call.to_string().contains("s3cret"), "{call}");
    let fields = call["headers"].as_array().expect("fields");
    assert!(fields.contains(&json!(["authorization", "[redacted]"])) && fields.contains(&json!(["x-note", "\"quoted\" <b>"])), "{call}");
    assert_eq!((all.next()["path"].as_str(), all.next()["path"].as_str()), (Some("/1"), Some("/2")));
    assert_eq!((failed.next()["path"].as_str(), failed.next()["path"].as_str()), (Some("/1"), Some("/2")));
    assert!(failed.is_at_end(), "two were asked for");
    assert_eq!(number(&house, "tapLines"), 5);
    eventually("one tap is left", || (number(&house, "openTaps") == 1).then_some(()));
    drop(all);
    eventually("whoever has gone is noticed without a call", || (number(&house, "openTaps") == 0).then_some(()));
    house.call("s", "/").with_status(200);
    assert_eq!(number(&house, "tapLines"), 5);
}

#[test]
fn in_http_1_1_each_line_is_a_chunk_and_the_connection_can_be_used_again() {
    let house = House::new();
    let mut client = house.client();
    client.send(b"GET /tap?limit=1 HTTP/1.1\r\nhost: localhost\r\n\r\n").expect("sent");
    eventually("the tap is open", || (number(&house, "openTaps") == 1).then_some(()));
    house.call("nobody", "/x").with_status(503);
    let (mut stream, mut text) = (TcpStream::connect(house.at).expect("a connection"), String::new());
    drop(client);
    stream.write_all(b"GET /tap?limit=1 HTTP/1.1\r\nhost: localhost\r\n\r\n").expect("sent");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    eventually("the second tap is open", || (number(&house, "openTaps") == 1).then_some(()));
    house.call("nobody", "/y").with_status(503);
    let mut piece = [0; 4096];
    while !text.ends_with("\r\n0\r\n\r\n") {
        let read = stream.read(&mut piece).expect("readable");
        assert!(read > 0, "{text}");
        text.push_str(std::str::from_utf8(&piece[..read]).expect("UTF-8"));
    }
    assert!(text.contains("transfer-encoding: chunked") && text.contains("\"path\":\"/y\""), "{text}");
    stream.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").expect("sent");
    let mut rest = String::new();
    stream.read_to_string(&mut rest).expect("readable");
    assert!(rest.contains("healthy"), "{rest}");
}

#[test]
fn there_are_only_so_many_taps_and_mistakes_are_named() {
    let telemetry = onlookers::Config { max_taps: 1, ..onlookers::Config::default() };
    let house = House::of(Mesh::builder().telemetry(telemetry), Config::default());
    let first = Watcher::new(&house, "");
    let refused = house.get("/tap").with_status(503);
    assert_eq!((refused.reason().as_str(), refused.json()["limit"].as_str()), ("overloaded", Some("telemetry.maxTaps")));
    assert_eq!(number(&house, "tapsRefused"), 1);
    for (query, field) in [("?status=9xx", "status"), ("?limit=x", "limit"), ("?servce=s", "servce")] {
        assert_eq!(house.get(&format!("/tap{query}")).with_status(400).json()["field"], field);
    }
    drop(first);
    eventually("there is room again", || (number(&house, "openTaps") == 0).then_some(()));
    drop(Watcher::new(&house, ""));
}

#[test]
fn whoever_does_not_read_misses_calls_and_holds_up_none() {
    let house = House::new();
    let slow = Watcher::new(&house, "");
    let mut caller = house.client();
    let call =
        json!({"serviceName": "nobody", "endpoint": format!("/{}", "x".repeat(250)), "headers": {"x-filler": "y".repeat(250)}}).to_string();
    // Until both the sockets' buffers and the queue are full.
    eventually("calls are missed", || {
        for _ in 0..500 {
            caller.ask("POST", "/invoke", &[], call.as_bytes()).expect("answered").with_status(503);
        }
        (number(&house, "tapLinesDropped") > 0).then_some(())
    });
    assert_eq!(number(&house, "openTaps"), 1);
    drop(slow);
}

#[test]
fn taps_end_when_the_server_is_drained() {
    let house = House::new();
    let mut watcher = Watcher::new(&house, "");
    assert!(house.server.drain(Duration::ZERO, Duration::from_secs(10)));
    assert!(watcher.is_at_end());
}
