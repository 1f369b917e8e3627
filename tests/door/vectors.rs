//! Requests that are not one, or not one request, are refused. Behind each bad one hides a good one that must never be executed, and it does
//! not matter in which pieces the bytes come.

use std::time::{Duration, Instant};

use serde_json::json;
use weft::Mesh;
use weft::server::Config;

use crate::bad::{self, Vector};
use crate::house::House;
use crate::support::client::{Client, request};
use crate::support::upstream::{Act, Upstream};
use crate::wire::{Ending, Wire};

/// A registration that nobody has asked for.
fn smuggled() -> Vec<u8> {
    registration("smuggled")
}

fn registration(service: &str) -> Vec<u8> {
    let body = json!({"name": service, "id": "i", "host": "127.0.0.1", "port": 9}).to_string();
    request("POST", "/register", &[], body.as_bytes())
}

/// A mesh of one event loop, so that whoever has been answered knows that what was sent before has been looked at.
struct Door {
    house: House,
    upstream: Upstream,
    other: Client,
}

/// Before this, no timeout of the mesh can have been what answered.
const AT_ONCE: Duration = Duration::from_secs(4);

impl Door {
    fn new() -> Self {
        let house = House::of(Mesh::builder(), Config { loops: 1, ..Config::default() });
        // Whatever reaches it stays unanswered, so that all answers are those of the mesh.
        let upstream = Upstream::start(|_| Act::Held(Vec::new()));
        house.register("users", "i", &upstream);
        let other = house.client();
        Self { house, upstream, other }
    }

    /// Sends a vector in pieces, each looked at before the next comes, and what hides behind it.
    #[track_caller]
    fn is_refused(&mut self, vector: &Vector, pieces: &[&[u8]]) {
        let began = Instant::now();
        let mut wire = Wire::to(self.house.at);
        let (last, first) = pieces.split_last().expect("a piece");
        for piece in first {
            wire.send(piece);
            self.other.ask("GET", "/health", &[], b"").expect("answered").with_status(200);
        }
        wire.send([last, smuggled().as_slice()].concat());
        let (answers, _) = wire.answers();
        let name = format!("{} in {} pieces", vector.name, pieces.len());
        let said: Vec<(u16, String)> = answers.iter().map(|answer| (answer.status, answer.text())).collect();
        assert!(began.elapsed() < AT_ONCE, "{name}: only after {:?}: {said:?}", began.elapsed());
        assert_eq!(answers.iter().map(|answer| answer.status).collect::<Vec<_>>(), [vector.status], "{name}: {said:?}");
        assert_eq!(answers[0].header("connection"), Some("close"), "{name}: {said:?}");
        answers[0].reason();
    }

    fn is_refused_whole_and_in_halves(&mut self, vector: &Vector) {
        self.is_refused(vector, &[&vector.bytes]);
        let length = vector.bytes.len();
        for at in [1, length / 3, length / 2, length - 3, length - 1] {
            let (one, two) = vector.bytes.split_at(at);
            self.is_refused(vector, &[one, two]);
        }
    }

    fn is_refused_byte_by_byte(&mut self, vector: &Vector) {
        let pieces: Vec<&[u8]> = vector.bytes.chunks(1).collect();
        self.is_refused(vector, &pieces);
    }

    /// Nothing that was hidden has been executed.
    fn end(self) {
        let services = self.house.get("/services").with_status(200).text();
        assert!(!services.contains("smuggled"), "{services}");
        let asked = self.upstream.asked();
        assert!(asked.iter().all(|asked| asked.target == "/x"), "{asked:?}");
        let doors = &self.house.metrics()["doors"];
        let busy = doors["requestsInProgress"].as_u64().expect("a number");
        assert!(busy <= 1, "nothing is left behind: {doors}");
        // The control: it is a good one when nothing stands before it.
        let mut wire = Wire::to(self.house.at);
        wire.send(smuggled());
        assert_eq!(wire.answer().status, 200);
        assert!(self.house.get("/services").text().contains("smuggled"));
    }
}

fn all_are_refused(line: &str) {
    let mut door = Door::new();
    for vector in bad::heads(line).iter().chain(&bad::bodies(line)) {
        door.is_refused_whole_and_in_halves(vector);
    }
    door.end();
}

#[test]
fn a_bad_request_to_the_api_is_refused_and_nothing_behind_it_is_executed() {
    all_are_refused("POST /deregister");
}

#[test]
fn a_bad_call_is_refused_and_nothing_behind_it_is_executed() {
    all_are_refused("POST /invoke");
}

#[test]
fn a_bad_request_to_be_passed_on_is_refused_and_nothing_behind_it_is_executed() {
    all_are_refused("POST /proxy/users/x");
}

#[test]
fn a_bad_request_for_nothing_in_particular_is_refused() {
    let mut door = Door::new();
    for vector in &bad::everywhere() {
        door.is_refused_whole_and_in_halves(vector);
        door.is_refused_byte_by_byte(vector);
    }
    door.end();
}

#[test]
fn a_bad_request_that_comes_byte_by_byte_is_refused_all_the_same() {
    let mut door = Door::new();
    let all = bad::heads("POST /invoke").into_iter().chain(bad::bodies("PUT /proxy/users/x"));
    for vector in all.filter(|vector| vector.bytes.len() < 500) {
        door.is_refused_byte_by_byte(&vector);
    }
    door.end();
}

/// Good requests that look odd: their bytes, and the answers to them.
fn odd_ones() -> Vec<(&'static str, Vec<u8>, Vec<u16>)> {
    let with = |line: &str, fields: &str, body: &str| format!("{line} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n{body}").into_bytes();
    let health = || with("GET /health", "", "");
    let unknown = r#"{"serviceName":"nobody","endpoint":"/"}"#;
    let (first, second) = unknown.split_at(10);
    let chunks = format!("a\r\n{first}\r\n{:X}\r\n{second}\r\n0\r\n", second.len());
    let close_asked = with("POST /invoke", "Transfer-Encoding: chunked\r\n", &format!("{chunks}\r\n"));
    let expecting = |fields: &str| with("POST /invoke", &format!("Expect: 100-continue\r\n{fields}"), "");
    let length = format!("Content-Length: {}\r\n", unknown.len());
    vec![
        ("one empty line first", [b"\r\n".to_vec(), health()].concat(), vec![200]),
        ("an empty line between", [health(), b"\r\n".to_vec(), health()].concat(), vec![200, 200]),
        ("three at once", health().repeat(3), vec![200; 3]),
        ("chunks", close_asked.clone(), vec![503]),
        ("chunks and another request", [close_asked, health()].concat(), vec![503, 200]),
        (
            "trailers and another request",
            [with("POST /invoke", "Transfer-Encoding: Chunked\r\n", &format!("{chunks}X-A: b\r\nX-C:\r\n\r\n")), health()].concat(),
            vec![503, 200],
        ),
        ("an extension", with("POST /invoke", "Transfer-Encoding: chunked\r\n", "2;a=\"b c\"\r\n{}\r\n0\r\n\r\n"), vec![400]),
        ("an expectation", [expecting(&length), unknown.as_bytes().to_vec()].concat(), vec![100, 503]),
        ("an expectation without a body", expecting(""), vec![400]),
        ("no blank after the colon", with("GET /health", "X-A:b\r\n", ""), vec![200]),
        ("blanks around a value", with("GET /health", "X-A:   b\t \r\n", ""), vec![200]),
        ("a value that is not ASCII", with("GET /health", "X-A: b\u{e9}\r\n", ""), vec![200]),
        ("an empty value", with("GET /health", "X-A:\r\n", ""), vec![200]),
        ("99 more fields", with("GET /health", &"X-A: b\r\n".repeat(99), ""), vec![200]),
        ("a field of 15 KiB", with("GET /health", &format!("X-A: {}\r\n", "x".repeat(15 * 1024)), ""), vec![200]),
        ("a path of 8 KiB", with(&format!("GET /{}", "x".repeat(8 * 1024 - 1)), "", ""), vec![404]),
        ("a URL", with("GET http://localhost/health", "", ""), vec![200]),
        ("a URL in capitals", with("GET HTTP://LOCALHOST/health", "", ""), vec![200]),
        ("the server as a whole", with("OPTIONS *", "", ""), vec![404]),
        ("a method nobody knows", with("BREW /health", "", ""), vec![405]),
        ("leading zeros in a length", with("POST /invoke", "Content-Length: 0002\r\n", "{}"), vec![400]),
        ("a body where none is read", with("GET /health", "Content-Length: 3\r\n", "abc"), vec![200]),
    ]
}

#[test]
fn odd_requests_that_are_good_are_answered_in_whatever_pieces_they_come() {
    let mut door = Door::new();
    for (name, bytes, statuses) in odd_ones() {
        let last = [request("GET", "/health", &[("connection", "close"), ("x-request-id", "last")], b"")].concat();
        let all = [bytes.as_slice(), &last].concat();
        let pieces: Vec<Vec<&[u8]>> = [1, 2, bytes.len() / 2, bytes.len() - 1, bytes.len(), bytes.len() + 1]
            .into_iter()
            .map(|at| vec![&all[..at], &all[at..]])
            .chain([vec![all.as_slice()]])
            .chain((all.len() < 400).then(|| all.chunks(1).collect()))
            .collect();
        for pieces in pieces {
            let began = Instant::now();
            let mut wire = Wire::to(door.house.at);
            for piece in &pieces {
                assert!(wire.send(piece), "{name}");
                if pieces.len() > 1 {
                    door.other.ask("GET", "/health", &[], b"").expect("answered").with_status(200);
                }
            }
            let (answers, ending) = wire.answers();
            assert!(began.elapsed() < AT_ONCE, "{name}: {:?}", began.elapsed());
            let got: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
            // Who has sent its body already need not be told to go on.
            let least: Vec<u16> = statuses.iter().copied().filter(|status| *status != 100).chain([200]).collect();
            let most: Vec<u16> = statuses.iter().copied().chain([200]).collect();
            assert!(got == least || got == most, "{name} in {} pieces: {got:?}, not {most:?}", pieces.len());
            assert_eq!((answers[answers.len() - 1].header("x-request-id"), ending), (Some("last"), Ending::Closed), "{name}");
        }
    }
    door.end();
}

#[test]
fn a_body_that_ends_too_early_is_no_request() {
    let door = Door::new();
    let body = json!({"name": "smuggled", "id": "i", "host": "127.0.0.1", "port": 9}).to_string();
    let by_length = request("POST", "/register", &[("content-length", "1000")], body.as_bytes());
    let chunked = format!("{:x}\r\n{body}\r\n", body.len());
    let in_chunks = request("POST", "/register", &[("transfer-encoding", "chunked")], chunked.as_bytes());
    for bytes in [by_length, in_chunks] {
        let mut wire = Wire::to(door.house.at);
        assert!(wire.send(&bytes));
        wire.finish();
        assert_eq!(wire.answers().0.len(), 0);
    }
    assert_eq!(door.house.metrics()["doors"]["brokenOff"], 2);
    door.end();
}
