//! Clients that are slow, greedy, gone, or merely old: each gets what is due to it in its time, and holds nothing that others need.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use weft::Mesh;
use weft::mesh::ports::{Refused, Store, StoreError};
use weft::mesh::record::{Document, Key, Version};
use weft::model::settings::Millis;
use weft::server::Config;

use crate::house::{House, call};
use crate::mutations::Instance;
use crate::support::client::{Client, request};
use crate::support::upstream::{Act, End, Upstream, answer, ok};
use crate::support::{PATIENCE, eventually, throughout};
use crate::wire::{Ending, Wire};

fn house(config: Config) -> House {
    House::of(Mesh::builder(), config)
}

/// A counter of the doors.
#[track_caller]
pub(crate) fn counted(house: &House, name: &str) -> u64 {
    let doors = house.metrics()["doors"].clone();
    doors[name].as_u64().unwrap_or_else(|| panic!("no {name} in {doors}"))
}

/// Waits until nobody but the one who asks is connected, and nothing is held in memory.
#[track_caller]
pub(crate) fn nothing_is_left(house: &House) {
    eventually("nothing is left", || {
        let doors = house.metrics()["doors"].clone();
        let is = |name: &str, most: u64| doors[name].as_u64().expect("a number") <= most;
        (is("openConnections", 1) && is("requestsInProgress", 1) && is("bufferedBytes", 0)).then_some(())
    });
}

#[test]
fn a_head_that_does_not_end_in_time_is_given_up_and_nobody_else_waits() {
    let limit = Duration::from_millis(300);
    let house = house(Config { head_timeout_ms: Millis(300), ..Config::default() });
    let mut other = house.client();
    let began = Instant::now();
    let mut slow: Vec<Wire> = (0..50).map(|_| Wire::to(house.at)).collect();
    for (n, wire) in slow.iter_mut().enumerate() {
        assert!(wire.send(if n % 2 == 0 { "GET /hea" } else { "GET /health HTTP/1.1\r\nHost: loc" }));
    }
    for _ in 0..100 {
        other.ask("GET", "/health", &[], b"").expect("answered").with_status(200);
    }
    for wire in &mut slow {
        let (answers, ending) = wire.answers();
        assert_eq!((answers.len(), answers[0].status, ending), (1, 408, Ending::Closed));
        assert_eq!((answers[0].reason().as_str(), answers[0].header("connection")), ("request_timeout", Some("close")));
    }
    assert!(began.elapsed() >= limit, "not before their time: {:?}", began.elapsed());
    assert_eq!(counted(&house, "headTimeouts"), 50);
    drop((slow, other));
    nothing_is_left(&house);
}

#[test]
fn a_head_that_trickles_in_has_no_more_time_than_one_that_stops() {
    let house = house(Config { head_timeout_ms: Millis(300), ..Config::default() });
    let mut wire = Wire::to(house.at);
    assert!(wire.send("GET /health HTTP/1.1\r\nHost: localhost\r\n"));
    let began = Instant::now();
    wire.drip("X-A: b\r\n", Duration::from_millis(5));
    assert!(began.elapsed() < PATIENCE / 4, "{:?}", began.elapsed());
    assert_eq!(wire.answers().0[0].status, 408);
    // So has a second request on a connection that has been of use.
    let mut wire = Wire::to(house.at);
    assert!(wire.send(request("GET", "/health", &[], b"")));
    assert_eq!(wire.answer().status, 200);
    wire.drip("GET /health-and-a-very-long-path", Duration::from_millis(5));
    assert_eq!(wire.answers().0[0].status, 408);
    assert_eq!(counted(&house, "headTimeouts"), 2);
}

#[test]
fn who_says_nothing_is_shown_out_in_silence() {
    let house = house(Config { idle_timeout_ms: Millis(200), head_timeout_ms: Millis(200), ..Config::default() });
    let (mut fresh, mut used) = (Wire::to(house.at), Wire::to(house.at));
    assert!(used.send(request("GET", "/health", &[], b"")));
    assert_eq!(used.answer().status, 200);
    for wire in [&mut fresh, &mut used] {
        let (answers, ending) = wire.answers();
        assert_eq!((answers.len(), ending), (0, Ending::Closed));
    }
    assert_eq!(counted(&house, "idleTimeouts"), 2);
}

/// Beginnings of requests whose bodies do not come.
fn half_bodies(target: &str) -> [Vec<u8>; 2] {
    [
        request("POST", target, &[("content-length", "2000")], b"{"),
        request("POST", target, &[("transfer-encoding", "chunked")], b"7d0\r\n{"),
    ]
}

#[test]
fn a_body_that_does_not_come_in_time_is_given_up_and_takes_no_worker() {
    let house = house(Config { workers: 2, reserved_workers: 1, body_timeout_ms: Millis(500), ..Config::default() });
    let began = Instant::now();
    let mut slow: Vec<Wire> = Vec::new();
    for _ in 0..12 {
        for bytes in half_bodies("/register").into_iter().chain(half_bodies("/invoke")) {
            let mut wire = Wire::to(house.at);
            assert!(wire.send(bytes));
            slow.push(wire);
        }
    }
    house.register_at("s", "i", 9);
    house.get("/services").with_status(200);
    assert!(began.elapsed() < PATIENCE / 2);
    for wire in &mut slow {
        let (answers, _) = wire.answers();
        assert_eq!((answers.len(), answers[0].status), (1, 408));
        assert_eq!((answers[0].reason().as_str(), answers[0].header("connection")), ("request_timeout", Some("close")));
    }
    assert!(began.elapsed() >= Duration::from_millis(500), "not before their time");
    assert_eq!(counted(&house, "bodyTimeouts"), 48);
    drop(slow);
    nothing_is_left(&house);
}

#[test]
fn a_body_that_trickles_in_has_no_more_time_than_one_that_stops() {
    let house = house(Config { body_timeout_ms: Millis(300), ..Config::default() });
    for bytes in half_bodies("/invoke") {
        let mut wire = Wire::to(house.at);
        assert!(wire.send(bytes));
        wire.drip(" ", Duration::from_millis(5));
        assert_eq!(wire.answers().0[0].status, 408);
    }
    assert_eq!(counted(&house, "bodyTimeouts"), 2);
}

/// Calls have so little time, and fail by their first failure; five of those in a row are enough for breaker and ejection.
fn hasty(attempt_ms: u64) -> Value {
    json!({"timeouts": {"attemptMs": attempt_ms, "idleBodyMs": 200}, "retry": {"maxRetries": 0}})
}

/// A service whose callers have been at fault still stands well.
#[track_caller]
fn nobody_blames(house: &House, service: &str) {
    let metrics = house.metrics();
    assert_eq!(metrics["circuitBreakers"][service]["status"], "CLOSED", "{}", metrics["services"][service]);
    assert_eq!(metrics["services"][service]["instances"]["i"]["ejected"], false);
    assert_eq!(house.get(&format!("/proxy/{service}/quick")).status, 200);
}

#[test]
fn who_sends_slowly_through_the_mesh_is_given_up_and_the_instance_is_not_blamed() {
    let house = House::of(Mesh::builder().defaults(hasty(200)), Config { body_timeout_ms: Millis(200), ..Config::default() });
    let upstream = Upstream::start(|asked| if asked.target == "/quick" { ok("quick") } else { Act::Held(answer(200, &[], "late")) });
    house.register("s", "i", &upstream);
    let mut slow: Vec<Wire> = Vec::new();
    for _ in 0..6 {
        let long = request("POST", "/proxy/s/slow", &[("content-length", "200000")], b"x");
        let chunked = request("POST", "/proxy/s/slow", &[("transfer-encoding", "chunked")], b"7d0\r\nx");
        let short = request("POST", "/proxy/s/slow", &[("content-length", "2000")], b"x");
        for bytes in [long, chunked, short] {
            let mut wire = Wire::to(house.at);
            assert!(wire.send(bytes));
            slow.push(wire);
        }
    }
    for wire in &mut slow {
        let answer = wire.answer();
        assert_eq!((answer.status, answer.header("connection")), (408, Some("close")), "{}", answer.text());
        wire.answers();
    }
    assert_eq!(counted(&house, "bodyTimeouts"), 18);
    nobody_blames(&house, "s");
}

#[test]
fn who_reads_slowly_is_cut_off_and_holds_nothing_and_the_instance_is_not_blamed() {
    let config = Config { write_timeout_ms: Millis(300), workers: 2, reserved_workers: 1, ..Config::default() };
    let house = House::of(Mesh::builder().defaults(hasty(10_000)), config);
    let upstream = Upstream::start(|asked| if asked.target == "/quick" { ok("quick") } else { ok(vec![b'x'; 8 << 20]) });
    house.register("s", "i", &upstream);
    let began = Instant::now();
    let mut slow: Vec<Wire> = Vec::new();
    for n in 0..8 {
        let mut wire = Wire::narrow(house.at);
        let bytes = if n % 2 == 0 { request("POST", "/invoke", &[], &call("s", "/")) } else { request("GET", "/proxy/s/", &[], b"") };
        assert!(wire.send(bytes));
        slow.push(wire);
    }
    eventually("all have been asked for", || (upstream.requests() == 8).then_some(()));
    house.get("/services").with_status(200);
    eventually("all are cut off", || (counted(&house, "writeTimeouts") == 8).then_some(()));
    assert!(began.elapsed() < PATIENCE / 2, "{:?}", began.elapsed());
    for wire in &mut slow {
        assert_eq!(wire.end(), Ending::Reset, "nobody takes half an answer for a whole one");
    }
    nothing_is_left(&house);
    nobody_blames(&house, "s");
}

#[test]
fn who_reads_slowly_but_steadily_is_not_taken_for_idle() {
    let house = house(Config { idle_timeout_ms: Millis(100), head_timeout_ms: Millis(100), ..Config::default() });
    let upstream = Upstream::start(|_| ok(vec![b'x'; 8 << 20]));
    house.register("s", "i", &upstream);
    let mut wire = Wire::narrow(house.at);
    assert!(wire.send(request("POST", "/invoke", &[], &call("s", "/"))));
    eventually("the answer is there", || (counted(&house, "bufferedBytes") > 1 << 20).then_some(()));
    throughout(Duration::from_millis(400), "the answer waits", || counted(&house, "bufferedBytes") > 1 << 20);
    assert_eq!(wire.answer().with_status(200).body.len(), 8 << 20);
    // And then it is idle.
    assert_eq!(wire.answers().1, Ending::Closed);
    assert_eq!((counted(&house, "writeTimeouts"), counted(&house, "idleTimeouts")), (0, 1));
}

#[test]
fn who_has_said_all_and_only_listens_is_answered() {
    let house = House::new();
    let upstream = Upstream::start(|_| Act::Held(answer(200, &[], "late")));
    house.register("s", "i", &upstream);
    let mut waiting: Vec<Wire> = Vec::new();
    let body = json!({"name": "t", "id": "i", "host": "127.0.0.1", "port": 9}).to_string();
    for bytes in [
        request("GET", "/health", &[], b""),
        request("POST", "/register", &[], body.as_bytes()),
        request("POST", "/invoke", &[], &call("s", "/")),
        request("GET", "/proxy/s/", &[], b""),
        request("POST", "/proxy/s/", &[], b"hello"),
    ] {
        let mut wire = Wire::to(house.at);
        assert!(wire.send(bytes));
        wire.finish();
        waiting.push(wire);
    }
    eventually("the calls run", || (upstream.requests() == 3).then_some(()));
    upstream.release();
    for mut wire in waiting {
        let (answers, ending) = wire.answers();
        assert_eq!((answers.len(), answers[0].status, ending), (1, 200, Ending::Closed));
    }
    nothing_is_left(&house);
}

#[test]
fn who_leaves_in_the_middle_of_a_request_leaves_nothing_behind() {
    let house = House::new();
    let upstream = Upstream::start(|_| Act::SayAnd(Vec::new(), End::Hang));
    house.register("s", "i", &upstream);
    let long = request("POST", "/proxy/s/", &[("content-length", "200000")], b"x");
    let all = half_bodies("/register").into_iter().chain(half_bodies("/invoke")).chain(half_bodies("/proxy/s/")).chain([long]);
    for bytes in all.chain([b"GET /hea".to_vec(), b"".to_vec()]) {
        for by_reset in [false, true] {
            let mut wire = Wire::to(house.at);
            assert!(wire.send(&bytes));
            if by_reset {
                wire.reset_on_drop();
            }
        }
    }
    nothing_is_left(&house);
    assert_eq!(house.metrics()["services"]["s"]["inFlight"], 0);
    house.get("/health").with_status(200);
}

#[test]
fn who_asks_for_heads_gets_no_bodies_and_the_next_answer_is_where_it_belongs() {
    let house = House::new();
    let upstream = Upstream::start(|asked| Act::Say(if asked.method == "HEAD" { answer(200, &[], "") } else { answer(200, &[], "body") }));
    house.register("s", "i", &upstream);
    for target in ["/health", "/metrics", "/services", "/nowhere", "/proxy/s/", "/proxy/nobody/"] {
        let mut wire = Wire::to(house.at);
        assert!(wire.send([request("HEAD", target, &[], b""), request("GET", "/health", &[("x-request-id", "next")], b"")].concat()));
        let head = wire.answer_to("HEAD");
        assert!(head.header("content-length").is_some(), "{target}: {:?}", head.headers);
        let next = wire.answer();
        assert_eq!((next.status, next.header("x-request-id")), (200, Some("next")), "{target}");
    }
}

#[test]
fn many_requests_at_once_are_answered_in_their_order_whoever_answers_them() {
    let house = House::new();
    let upstream = Upstream::start(|asked| ok(asked.target.clone()));
    house.register("s", "i", &upstream);
    let mut wire = Wire::to(house.at);
    let mut bytes = Vec::new();
    for n in 0..200 {
        let id = n.to_string();
        let ids = [("x-request-id", id.as_str())];
        bytes.extend(match n % 4 {
            0 => request("GET", "/health", &ids, b""),
            1 => request("GET", "/services", &ids, b""),
            2 => request("POST", "/invoke", &ids, &call("s", &format!("/{n}"))),
            _ => request("POST", &format!("/proxy/s/{n}"), &ids, b"hello"),
        });
    }
    assert!(wire.send(bytes));
    for n in 0..200 {
        let answer = wire.answer();
        assert_eq!((answer.status, answer.header("x-request-id")), (200, Some(n.to_string().as_str())));
        if n % 4 >= 2 {
            assert_eq!(answer.text(), format!("/{n}"));
        }
    }
}

#[test]
fn a_client_that_takes_us_for_its_proxy_is_answered_by_path_and_by_host() {
    let house = House::new();
    let upstream = Upstream::start(|asked| ok(asked.target.clone()));
    house.register("users", "i", &upstream);
    let mut client = house.client();
    for (target, body) in
        [("http://localhost/proxy/users/a?b=c", "/a?b=c"), ("http://users.mesh/a?b=c", "/a?b=c"), ("http://USERS.mesh:80/", "")]
    {
        let answer = client.ask("GET", target, &[], b"").expect("answered");
        if body.is_empty() {
            assert_eq!(answer.status, 503, "names of services know upper case");
        } else {
            assert_eq!(answer.with_status(200).text(), body);
        }
    }
    client.ask("GET", "http://localhost/services", &[], b"").expect("answered").with_status(200);
    let answer = client.ask("OPTIONS", "*", &[], b"").expect("answered");
    assert!(matches!(answer.status, 200 | 204 | 404 | 405), "{} {}", answer.status, answer.text());
}

#[test]
fn who_expects_word_gets_it_before_it_sends_and_not_when_it_would_be_refused() {
    let house = house(Config { max_body_bytes: 100, ..Config::default() });
    let (upstream, streamed) = (Upstream::named("users"), Instance::start());
    house.register("s", "i", &upstream);
    house.register_at("streamed", "i", streamed.at.port());
    let body = call("s", "/");
    let length = body.len().to_string();
    let expect = ("expect", "100-continue");
    for target in ["/invoke", "/proxy/s/"] {
        let mut wire = Wire::to(house.at);
        assert!(wire.send(request("POST", target, &[expect, ("content-length", &length)], b"")));
        assert_eq!(wire.answer().status, 100, "{target}");
        assert!(wire.send(&body));
        assert_eq!(wire.answer().with_status(200).text(), "users");
    }
    // So does who sends what is passed on as it comes.
    for (framing, body) in
        [(("transfer-encoding", "chunked"), b"5\r\nhello\r\n0\r\n\r\n".to_vec()), (("content-length", "100000"), vec![b'x'; 100_000])]
    {
        let mut wire = Wire::to(house.at);
        assert!(wire.send(request("PUT", "/proxy/streamed/", &[expect, framing], b"")));
        assert_eq!(wire.answer().status, 100, "{framing:?}");
        assert!(wire.send(&body));
        assert_eq!(wire.answer().with_status(200).text(), "ok", "{framing:?}");
    }
    let mut wire = Wire::to(house.at);
    assert!(wire.send(request("POST", "/invoke", &[expect, ("content-length", "101")], b"")));
    let (answers, _) = wire.answers();
    assert_eq!(answers.iter().map(|answer| answer.status).collect::<Vec<_>>(), [413]);
}

#[test]
fn a_client_of_http_1_0_gets_whole_answers_and_the_end_of_the_connection() {
    let house = House::new();
    let upstream = Upstream::start(|_| Act::Say(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n".to_vec()));
    house.register("s", "i", &upstream);
    for (bytes, body) in [("GET /ready HTTP/1.0\r\n\r\n", ""), ("GET /proxy/s/ HTTP/1.0\r\n\r\n", "hello")] {
        let mut wire = Wire::to(house.at);
        assert!(wire.send(bytes));
        let (head, rest) = wire.text_to_the_end();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && !head.contains("transfer-encoding"), "{head}");
        assert!(body.is_empty() || rest == body, "{rest}");
    }
}

/// A store that keeps whoever comes until it is opened.
#[derive(Clone, Default)]
pub(crate) struct Stuck {
    here: Arc<AtomicBool>,
    opened: Arc<(Mutex<bool>, Condvar)>,
}

impl Store for Stuck {
    fn load(&self) -> Result<Vec<(Document, Version)>, StoreError> {
        Ok(Vec::new())
    }

    fn put(&self, _: &Document, _: Version) -> Result<Version, Refused> {
        self.here.store(true, Ordering::SeqCst);
        let (opened, changed) = &*self.opened;
        drop(changed.wait_while(opened.lock().expect("no panic inside"), |opened| !*opened));
        Ok(Version::default())
    }

    fn delete(&self, _: &Key) -> Result<Version, StoreError> {
        Ok(Version::default())
    }

    fn forget(&self, _: &Key) {}
}

impl Stuck {
    pub(crate) fn open(&self) {
        *self.opened.0.lock().expect("no panic inside") = true;
        self.opened.1.notify_all();
    }
}

#[test]
fn workers_that_hang_are_replaced_and_requests_are_answered_again() {
    let stuck = Stuck::default();
    let config = Config { workers: 2, reserved_workers: 1, watchdog_ms: Millis(200), ..Config::default() };
    let house = House::of(Mesh::builder().store(stuck.clone()), config);
    let mut hanging: Vec<Client> = (0..2).map(|_| house.client()).collect();
    let body = json!({"name": "s", "id": "i", "host": "127.0.0.1", "port": 9}).to_string();
    for client in &mut hanging {
        client.send(&request("POST", "/register", &[], body.as_bytes())).expect("sent");
    }
    eventually("a worker hangs", || stuck.here.load(Ordering::SeqCst).then_some(()));
    house.get("/health").with_status(200);
    // What is asked while every worker hangs may be lost with them.
    eventually("others have taken their place", || {
        let answer = house.get("/metrics");
        (answer.status == 200 && answer.json()["doors"]["workerRestarts"].as_u64() >= Some(1)).then_some(())
    });
    for mut client in hanging {
        let answer = client.receive(false).expect("answered");
        assert_eq!((answer.status, answer.reason().as_str()), (500, "internal"));
    }
    stuck.open();
    house.register_at("t", "i", 9);
}

#[test]
fn requests_that_wait_behind_others_that_hang_are_answered_although_some_workers_are_well() {
    let stuck = Stuck::default();
    // The loop has four connections to sixteen workers, so that twelve of them are well, and answer whoever asks them how they are.
    let config = Config { loops: 1, watchdog_ms: Millis(200), ..Config::default() };
    let house = House::of(Mesh::builder().store(stuck.clone()), config);
    let body = json!({"name": "s", "id": "i", "host": "127.0.0.1", "port": 9}).to_string();
    for round in 1..=2 {
        let mut hanging: Vec<Client> = (0..4).map(|_| house.client()).collect();
        for client in &mut hanging {
            client.send(&request("POST", "/register", &[], body.as_bytes())).expect("sent");
        }
        let restarts = eventually("they are replaced", || {
            let answer = house.get("/metrics");
            (answer.status == 200).then(|| answer.json()["doors"]["workerRestarts"].as_u64().expect("a number")).filter(|n| *n >= round)
        });
        assert_eq!(restarts, round, "once for each time they hang");
        for mut client in hanging {
            assert_eq!(client.receive(false).expect("answered").status, 500);
        }
    }
    // What holds up any number of workers is not given any number: then who waits is told so.
    let mut refused = None;
    for _ in 0..4 {
        let mut hanging: Vec<Client> = (0..4).map(|_| house.client()).collect();
        for client in &mut hanging {
            client.send(&request("POST", "/register", &[], body.as_bytes())).expect("sent");
        }
        house.get("/health").with_status(200);
        let answer = house.get("/ready");
        refused = Some(answer).filter(|answer| answer.status == 503);
        if refused.is_some() {
            break;
        }
    }
    let refused = refused.expect("it is told so");
    assert_eq!((refused.reason().as_str(), refused.json()["limit"].as_str()), ("overloaded", Some("queue")));
    stuck.open();
    eventually("all is well again", || (house.get("/ready").status == 200).then_some(()));
    house.register_at("t", "i", 9);
}
