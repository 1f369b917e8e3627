//! Mutated requests by the ten thousand, over sockets: whatever they have become, each is answered or refused, nothing hides in it, and
//! whatever is passed on to an instance is what a strict reader accepts.
//!
//! `WEFT_REQUESTS` says how many, `WEFT_SEED` from which seed; `scripts/soak requests` does.

use std::env;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::json;

use crate::mutate::{Dice, mutate};
use crate::program::Weft;
use crate::strict::{self, Reading};
use crate::support::client::Answer;
use crate::support::eventually;
use crate::wire::Wire;

fn asked_for(name: &str, usual: u64) -> u64 {
    env::var(name).map_or(usual, |text| text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}")))
}

/// An instance that trusts nobody: it reads as strictly as can be, and remembers what it could not accept.
struct Instance {
    at: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    requests: AtomicUsize,
    complaints: Mutex<Vec<String>>,
    stopped: AtomicBool,
}

impl Instance {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let (at, shared) = (listener.local_addr().expect("an address"), Arc::<Shared>::default());
        let here = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming().take_while(|_| !here.stopped.load(Ordering::SeqCst)).flatten() {
                let here = Arc::clone(&here);
                thread::spawn(move || here.serve(stream));
            }
        });
        Self { at, shared }
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        // So that it looks up; its connections end with the mesh.
        let _ = TcpStream::connect(self.at);
    }
}

impl Shared {
    fn serve(&self, mut stream: TcpStream) {
        let (mut bytes, mut piece) = (Vec::new(), [0; 4096]);
        loop {
            match strict::read(&bytes) {
                Reading::Request { length, .. } => {
                    bytes.drain(..length);
                    self.requests.fetch_add(1, Ordering::SeqCst);
                    if stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").is_err() {
                        return;
                    }
                }
                Reading::Unfinished => match stream.read(&mut piece) {
                    Ok(read @ 1..) => bytes.extend_from_slice(&piece[..read]),
                    Ok(_) | Err(_) => return,
                },
                Reading::Bad(what) => {
                    let text = format!("{what} of {:?}", String::from_utf8_lossy(&bytes));
                    return self.complaints.lock().expect("no panic inside").push(text);
                }
            }
        }
    }
}

/// A request before it is mutated.
fn original(dice: &mut Dice, id: &str) -> Vec<u8> {
    let nobody = r#"{"serviceName":"nobody","endpoint":"/"}"#;
    let (first, second) = nobody.split_at(10);
    let chunks = format!("a\r\n{first}\r\n{:x};a=b\r\n{second}\r\n0\r\n", second.len());
    let head = |line: &str, fields: &str| format!("{line} HTTP/1.1\r\nHost: localhost\r\nX-Request-ID: {id}\r\n{fields}\r\n");
    let length = |body: &str| format!("Content-Length: {}\r\n", body.len());
    let registration = json!({"name": format!("r{}", dice.below(100)), "id": "i", "host": "127.0.0.1", "port": 9}).to_string();
    match dice.below(16) {
        0..5 => head("GET /health", "Accept: */*\r\n"),
        5 => head("POST /register", &length(&registration)) + &registration,
        6 => head("POST /invoke", &length(nobody)) + nobody,
        7 => head("POST /invoke", "Transfer-Encoding: chunked\r\n") + &chunks + "\r\n",
        8 => head("POST /invoke", "Transfer-Encoding: chunked\r\n") + &chunks + "X-A: b\r\n\r\n",
        9 => head("POST /proxy/users/a?b=c", "Content-Length: 5\r\n") + "hello",
        10 => head("PUT /proxy/users/a", "Transfer-Encoding: chunked\r\n") + &chunks + "X-A: b\r\n\r\n",
        11 => head("GET /proxy/nobody/", "Connection: keep-alive\r\n"),
        12 => head("GET http://localhost/health", ""),
        13 => head("POST /deregister", &format!("Expect: 100-continue\r\n{}", length("{}"))) + "{}",
        14 => head("GET /services/nobody", "").replace("HTTP/1.1", "HTTP/1.0").replace("\r\n\r\n", "\r\nConnection: keep-alive\r\n\r\n"),
        _ => head("OPTIONS *", ""),
    }
    .into_bytes()
}

/// Some requests, each mutated and each with a plain one behind it, and how many were mutated.
fn stream(dice: &mut Dice) -> (Vec<u8>, u64) {
    let mut bytes = Vec::new();
    let count = 1 + dice.below(12);
    for _ in 0..count {
        let id = format!("m-{:016x}", dice.roll());
        let mut one = original(dice, &id);
        // Some stay as they are, so that what comes behind them is looked at as well.
        if dice.below(3) > 0 {
            let most = 1 + dice.below(2);
            mutate(&mut one, dice, most);
        }
        bytes.append(&mut one);
        bytes.extend(format!("GET /health HTTP/1.1\r\nHost: localhost\r\nX-Request-ID: k-{:016x}\r\n\r\n", dice.roll()).bytes());
    }
    (bytes, count as u64)
}

/// The requests that a strict reader finds, before what it does not accept or what is not whole.
fn expected(bytes: &[u8]) -> Vec<Option<String>> {
    let (mut rest, mut ids) = (bytes, Vec::new());
    while let Reading::Request { length, id } = strict::read(rest) {
        rest = &rest[length..];
        ids.push(id);
    }
    ids
}

/// What is wrong with these answers to a stream of requests with such ids, if anything is.
fn fault(ids: &[Option<String>], answers: &[Answer]) -> Option<String> {
    if answers.len() > ids.len() + 1 {
        return Some(format!("{} answers to {} requests", answers.len(), ids.len()));
    }
    for (n, answer) in answers.iter().enumerate() {
        let closes = answer.header("connection") == Some("close");
        let refuses = (400..600).contains(&answer.status) && closes;
        if closes && n + 1 < answers.len() {
            return Some(format!("answer {n} says that it is the last"));
        }
        if !matches!(answer.status, 200 | 400 | 403 | 404 | 405 | 408 | 413 | 414 | 431 | 501 | 503 | 505) {
            return Some(format!("answer {n} has status {}: {}", answer.status, answer.text()));
        }
        match ids.get(n) {
            None if !refuses => return Some(format!("answer {n} is to something that is no request: {} {}", answer.status, answer.text())),
            Some(Some(id)) if !refuses && is_ours(id) && answer.header("x-request-id") != Some(id) => {
                return Some(format!("answer {n} is to {:?}, not to {id}", answer.header("x-request-id")));
            }
            _ => {}
        }
    }
    None
}

/// Whether a mutation has left an id as it was.
fn is_ours(id: &str) -> bool {
    id.len() == 18
        && (id.starts_with("m-") || id.starts_with("k-"))
        && id[2..].bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Sends streams until so many requests have been mutated. How many were found good, and how many streams there were.
fn attack(at: SocketAddr, seed: u64, left: &AtomicU64) -> (usize, usize) {
    let (mut good, mut streams) = (0, 0);
    let mut dice = Dice::seeded(seed);
    loop {
        let mut here = Dice::seeded(dice.roll());
        let (bytes, count) = stream(&mut here);
        let mut wire = Wire::to(at);
        wire.reset_on_drop();
        if here.below(4) == 0 {
            let (one, two) = bytes.split_at(here.below(bytes.len()));
            wire.send(one);
            wire.send(two);
        } else {
            wire.send(&bytes);
        }
        wire.finish();
        let (mut answers, rest, _) = wire.answers_and_rest();
        answers.retain(|answer| answer.status != 100);
        let ids = expected(&bytes);
        if let Some(fault) = fault(&ids, &answers) {
            panic!(
                "stream {streams} of seed {seed}: {fault}\n{:?}\n{ids:?}\n{:?}",
                String::from_utf8_lossy(&bytes),
                String::from_utf8_lossy(&rest)
            );
        }
        good += answers.iter().filter(|answer| answer.status == 200).count();
        streams += 1;
        if left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| Some(left.saturating_sub(count))).is_ok_and(|left| left <= count) {
            return (good, streams);
        }
    }
}

#[test]
fn mutated_requests_are_answered_or_refused_and_nothing_hides_in_them() {
    let (requests, seed) = (asked_for("WEFT_REQUESTS", 100_000), asked_for("WEFT_SEED", 1));
    let mut weft = Weft::start(&["--loops", "2", "--workers", "4"]);
    let instance = Instance::start();
    // It is the mesh that is judged: whatever calls come to, the breaker stays out of it.
    let users = json!({"name": "users", "id": "i", "host": "127.0.0.1", "port": instance.at.port()});
    weft.post("/register", &users).with_status(200);
    let left = AtomicU64::new(requests);
    let (mut good, mut streams) = (0, 0);
    thread::scope(|scope| {
        let attackers: Vec<_> = (0..4)
            .map(|n| {
                scope.spawn({
                    let (at, left) = (weft.at(), &left);
                    move || attack(at, seed * 1000 + n, left)
                })
            })
            .collect();
        for attacker in attackers {
            let (more_good, more_streams) = attacker.join().expect("no fault");
            good += more_good;
            streams += more_streams;
        }
    });
    let complaints = instance.shared.complaints.lock().expect("no panic inside").clone();
    assert_eq!(complaints, [""; 0], "the instance was sent what is no request");
    assert!(weft.is_running() && !weft.err().contains("panicked"), "{}", weft.err());
    weft.get("/health").with_status(200);
    weft.get("/services").with_status(200);
    let doors = eventually("everybody has left", || {
        let doors = weft.get("/metrics").json()["doors"].clone();
        (doors["openConnections"] == 1 && doors["requestsInProgress"].as_u64() <= Some(1)).then_some(doors)
    });
    let (memory, passed_on) = (weft.status("VmHWM"), instance.shared.requests.load(Ordering::SeqCst));
    println!(
        "{requests} mutated requests of seed {seed} on {streams} connections: {good} answered 200, {passed_on} passed on; {memory} KiB at most; {doors}"
    );
    assert!(memory < 64 * 1024, "{memory} KiB");
    assert!(
        good as u64 > requests / 20 && passed_on as u64 > requests / 200,
        "the mutations are too wild to find anything: {good}, {passed_on}"
    );
}
