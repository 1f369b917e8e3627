//! Answers that have gone wrong in thousands of ways: whatever an instance says, nobody panics, nothing hangs, and what the caller gets is
//! a well-formed answer to its own request, or a reset.
//!
//! `WEFT_MUTATIONS=1000000 WEFT_SEED=7 cargo nextest run --test proxy mutated` looks further. A finding names its number and its bytes.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::panic;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::{env, thread};

use serde_json::json;

use crate::house::House;
use crate::support::client::request;
use crate::support::eventually;
use crate::ways::Way;
use crate::wire::{Whole, Wire};

/// Whole answers of every kind.
const WHOLE: [&[u8]; 14] = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\nContent-Type: text/plain\r\n\r\nhello world",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;a=b\r\n world\r\n0\r\nX-Sum: 1\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n\r\nuntil the end",
    b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nok",
    b"HTTP/1.1 204 No Content\r\nX-A: b\r\n\r\n",
    b"HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\nContent-Length: 10\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\nframes",
    b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 4\r\nRetry-After: 1\r\n\r\noops",
    b"HTTP/1.1 302 Found\r\nLocation: /b\r\nSet-Cookie: a=b\r\nSet-Cookie: c=d\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nVia: 1.0 a\r\nContent-Length: 3\r\n\r\nabc",
    b"HTTP/1.1 200 OK\r\nX-Mesh-Instance: forged\r\nX-Request-Id: forged\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison",
];

/// What mistakes and attacks are made of.
const PIECES: [&[u8]; 24] = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b"\r\n\r\n",
    b" ",
    b"\t",
    b":",
    b"Content-Length: 5\r\n",
    b"Content-Length: 18446744073709551615\r\n",
    b"content-length: -1\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n",
    b"Transfer-Encoding:\x0bchunked\r\n",
    b"Connection: close\r\n",
    b"Connection: upgrade\r\nUpgrade: websocket\r\n",
    b"0\r\n\r\n",
    b"ffffffffffffffff\r\n",
    b"HTTP/1.1 101 -\r\n\r\n",
    b"HTTP/1.1 100 -\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison",
    b"HTTP/9.9",
    b"\xff\xfe\x80",
    b" folded\r\n",
];

/// A generator of numbers (SplitMix64): the same for the same seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.roll() % end.max(1) as u64).expect("small")
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }
}

/// The answer with that number, and whether the connection is reset after it.
fn answer(number: u64, seed: u64) -> (Vec<u8>, bool) {
    let mut dice = Dice(number ^ seed.rotate_left(32));
    let mut bytes = dice.one_of(&WHOLE).to_vec();
    for _ in 0..dice.below(3) {
        // Half of them in the body, where there is one.
        let body = bytes.windows(4).position(|four| four == b"\r\n\r\n").map_or(0, |end| end + 4);
        let from = if dice.below(2) == 0 && body < bytes.len() { body } else { 0 };
        let at = from + dice.below(bytes.len() - from);
        let end = at + dice.below((bytes.len() - at).min(24));
        match dice.below(8) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..end)),
            2 => bytes.extend_from_within(at..end),
            3 if !bytes.is_empty() => bytes[at] ^= 1 << dice.below(8),
            4 if !bytes.is_empty() => bytes[at] = u8::try_from(dice.below(256)).expect("a byte"),
            5 => {
                let other = dice.one_of(&WHOLE);
                bytes.truncate(at);
                bytes.extend_from_slice(&other[dice.below(other.len())..]);
            }
            6 => drop(bytes.splice(at..at, vec![b'x'; dice.below(20_000)])),
            _ => drop(bytes.splice(at..at, dice.one_of(&PIECES).to_vec())),
        }
    }
    (bytes, dice.below(16) == 0)
}

/// An instance that answers the request for `/7` with the answer number 7, and then ends the connection.
struct Liar {
    ports: Vec<u16>,
    stopped: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Liar {
    fn new(seed: u64) -> Self {
        let stopped = Arc::new(AtomicBool::new(false));
        let (mut ports, mut threads) = (Vec::new(), Vec::new());
        for _ in 0..CLIENTS {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
            ports.push(listener.local_addr().expect("an address").port());
            let stopped = Arc::clone(&stopped);
            threads.push(thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    if stopped.load(Ordering::SeqCst) {
                        return;
                    }
                    // One that breaks is the caller's business.
                    let _ = lie(stream, seed);
                }
            }));
        }
        Self { ports, stopped, threads }
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        for port in &self.ports {
            drop(TcpStream::connect(("127.0.0.1", *port)));
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn lie(mut stream: TcpStream, seed: u64) -> io::Result<()> {
    let (mut head, mut piece) = (Vec::new(), [0; 4096]);
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut piece)? {
            0 => return Ok(()),
            read => head.extend_from_slice(&piece[..read]),
        }
    }
    let head = String::from_utf8_lossy(&head);
    let number = head.split(['/', ' ']).nth(2).and_then(|word| word.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
    let (bytes, reset) = answer(number, seed);
    let (first, second) = bytes.split_at(bytes.len() / 2);
    stream.write_all(first)?;
    stream.write_all(second)?;
    if reset {
        rustix::net::sockopt::set_socket_linger(&stream, Some(std::time::Duration::ZERO))?;
    }
    Ok(())
}

/// Callers at once.
const CLIENTS: usize = 4;

/// What a caller has to say against what it got.
fn complaint(way: Way, number: u64, outcome: &io::Result<Whole>) -> Option<String> {
    let whole = match outcome {
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset && way == Way::Proxy => return None,
        Err(error) => return Some(format!("no answer: {error}")),
        Ok(whole) => whole,
    };
    let said = |name: &str| whole.head.all(name);
    if said("x-request-id") != [format!("n{number}")] {
        return Some("not the answer to this request".to_owned());
    }
    match (said("x-mesh-reason").as_slice(), said("x-mesh-instance").as_slice()) {
        ([], ["i"]) if whole.status() == 101 => Some("a switch".to_owned()),
        ([], ["i"]) => None,
        (["upstream_reset" | "upstream_protocol" | "upstream_status"], _) if whole.body.starts_with(b"{\"error\":") => None,
        _ => Some("neither passed on nor refused for a good reason".to_owned()),
    }
}

/// What came of all of them.
#[derive(Default)]
struct Notes {
    passed_on: AtomicUsize,
    refused: AtomicUsize,
    reset: AtomicUsize,
    findings: Mutex<Vec<String>>,
}

impl Notes {
    fn note(&self, outcome: &io::Result<Whole>) {
        let count = match outcome {
            Ok(whole) if whole.header("x-mesh-reason").is_none() => &self.passed_on,
            Ok(_) => &self.refused,
            Err(_) => &self.reset,
        };
        count.fetch_add(1, Ordering::SeqCst);
    }
}

/// Asks for the answers of these numbers, on one connection as long as it lasts.
fn ask_for_all(way: Way, house: &House, service: &str, numbers: impl Iterator<Item = u64>, notes: &Notes, seed: u64) {
    let mut kept: Option<Wire> = None;
    for number in numbers {
        let mut wire = kept.take().unwrap_or_else(|| Wire::to(house));
        let id = ("x-request-id", &*format!("n{number}"));
        wire.send(match way {
            Way::Proxy => request("GET", &format!("/proxy/{service}/{number}"), &[id], b""),
            Way::Invoke | Way::Workers => {
                let call = json!({"serviceName": service, "endpoint": format!("/{number}")}).to_string();
                request("POST", "/invoke", &[id], call.as_bytes())
            }
        });
        let outcome = loop {
            match wire.try_answer(false) {
                Ok(whole) if whole.status() < 200 && whole.status() != 101 => {}
                outcome => break outcome,
            }
        };
        if let Some(complaint) = complaint(way, number, &outcome) {
            let (bytes, reset) = answer(number, seed);
            let text = String::from_utf8_lossy(&bytes).chars().take(400).collect::<String>();
            notes.findings.lock().unwrap().push(format!("{way:?} {number}: {complaint}: {outcome:?}\nof {text:?}, reset: {reset}"));
        }
        notes.note(&outcome);
        if outcome.is_ok_and(|whole| whole.header("connection").is_none()) {
            kept = Some(wire);
        }
    }
}

fn number_from(name: &str, usual: u64) -> u64 {
    env::var(name).map_or(usual, |text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

#[test]
fn whatever_an_instance_says_the_caller_gets_an_answer_or_a_reset() {
    static PANICS: AtomicUsize = AtomicUsize::new(0);
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |what| {
        let of_the_mesh = thread::current().name().is_some_and(|name| name.starts_with("weft"));
        PANICS.fetch_add(usize::from(of_the_mesh), Ordering::SeqCst);
        usual(what);
    }));
    let (all, seed) = (number_from("WEFT_MUTATIONS", 20_000), number_from("WEFT_SEED", 1));
    let notes = Notes::default();
    let liar = Liar::new(seed);
    // Of ten, six through /proxy, three through /invoke and one through /invoke on workers.
    let mut begin = 0;
    for (way, share) in [(Way::Proxy, all * 6 / 10), (Way::Invoke, all * 3 / 10), (Way::Workers, all / 10)] {
        let house = way.house(json!({"retry": {"maxRetries": 0}, "circuitBreaker": {"failureThreshold": 1_000_000}}));
        thread::scope(|scope| {
            for (n, port) in (0..).zip(&liar.ports) {
                let (house, notes, service) = (&house, &notes, format!("s{n}"));
                house.register_at(&service, "i", *port);
                let numbers = (begin + n..begin + share).step_by(CLIENTS);
                scope.spawn(move || ask_for_all(way, house, &service, numbers, notes, seed));
            }
        });
        begin += share;
        for n in 0..CLIENTS {
            eventually("everything is given back", || (house.metrics()["services"][format!("s{n}")]["inFlight"] == 0).then_some(()));
        }
    }
    let [passed_on, refused, reset] = [&notes.passed_on, &notes.refused, &notes.reset].map(|count| count.load(Ordering::SeqCst));
    println!("{passed_on} passed on, {refused} refused, {reset} reset");
    let least = usize::try_from(all / 50).expect("not that many");
    assert!(passed_on.min(refused).min(reset) > least, "the mutations miss something: {passed_on}, {refused}, {reset}");
    let findings = notes.findings.into_inner().unwrap();
    assert!(findings.is_empty(), "{} findings:\n{}", findings.len(), findings.iter().take(10).cloned().collect::<Vec<_>>().join("\n"));
    assert_eq!(PANICS.load(Ordering::SeqCst), 0, "panics");
}
