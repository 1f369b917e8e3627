//! Every limit of the doors, full: the one too many is told so at once, it is counted, and there is room again when somebody leaves.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use weft::model::settings::Millis;
use weft::server::{Address, Config};
use weft::{Mesh, Server};

use crate::clients::{Stuck, counted, nothing_is_left};
use crate::house::{House, call};
use crate::support::client::{self, Answer, Client, request};
use crate::support::eventually;
use crate::support::upstream::{Upstream, ok};
use crate::wire::{Ending, Wire};

fn house(config: Config) -> House {
    House::of(Mesh::builder(), config)
}

/// An answer that says which limit is reached and when to come back.
#[track_caller]
fn says_full(answer: &Answer, limit: &str) {
    assert_eq!((answer.status, answer.reason().as_str()), (503, "overloaded"), "{}", answer.text());
    assert_eq!(answer.json()["limit"], limit);
    assert_eq!(answer.header("retry-after"), Some("1"));
}

/// One who comes when it is full.
#[track_caller]
fn is_turned_away(at: SocketAddr, limit: &str) {
    let mut wire = Wire::to(at);
    let (answers, ending) = wire.answers();
    assert_eq!((answers.len(), ending), (1, Ending::Closed));
    says_full(&answers[0], limit);
    assert_eq!(answers[0].header("connection"), Some("close"));
}

#[test]
fn twice_the_connections_there_may_be_are_held_at_the_limit_and_there_is_room_when_some_leave() {
    let house = house(Config { max_connections: 20, ..Config::default() });
    let mut inside: Vec<Client> = (0..20).map(|_| house.client()).collect();
    for _ in 0..20 {
        is_turned_away(house.at, "maxConnections");
    }
    for client in &mut inside {
        client.ask("GET", "/health", &[], b"").expect("answered").with_status(200);
    }
    let metrics = inside[0].ask("GET", "/metrics", &[], b"").expect("answered").json();
    assert_eq!((&metrics["doors"]["openConnections"], &metrics["doors"]["refusedConnections"]), (&json!(20), &json!(20)));
    inside.truncate(10);
    let left = Instant::now();
    eventually("there is room again", || Client::connect(house.at).ok()?.ask("GET", "/health", &[], b"").ok().filter(|a| a.status == 200));
    assert!(left.elapsed() < Duration::from_secs(1), "{:?}", left.elapsed());
}

/// An address of this machine that is not loopback, if it has one.
fn other_address() -> Option<SocketAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    // Nothing is sent: this only asks from where it would be.
    socket.connect("192.0.2.1:9").ok()?;
    socket.local_addr().ok().filter(|at| !at.ip().is_loopback() && !at.ip().is_unspecified())
}

#[test]
fn one_address_has_its_share_of_connections_and_no_more() {
    let Some(at) = other_address() else { return };
    let mesh = Mesh::builder().build().expect("a mesh");
    let listen = format!("{}:0", at.ip());
    let config = Config { listen, insecure: true, max_connections_per_address: 3, max_connections: 100, ..Config::default() };
    let server = Server::start(&mesh, &config, json!({})).expect("a server");
    let Address::Tcp(at) = server.addresses()[0] else { panic!("a port") };
    let mut inside: Vec<Client> = (0..3).map(|_| Client::connect(at).expect("a connection")).collect();
    for client in &mut inside {
        client.ask("GET", "/health", &[], b"").expect("answered").with_status(200);
    }
    for _ in 0..5 {
        is_turned_away(at, "maxConnectionsPerAddress");
    }
    let metrics = inside[0].ask("GET", "/metrics", &[], b"").expect("answered").json();
    assert_eq!((&metrics["doors"]["refusedPerAddress"], &metrics["doors"]["refusedConnections"]), (&json!(5), &json!(0)));
    inside.pop();
    eventually("there is room again", || client::ask(at, "GET", "/health", &[], b"").ok().filter(|answer| answer.status == 200));
}

#[test]
fn loopback_has_no_share_of_its_own() {
    let house = house(Config { max_connections_per_address: 1, ..Config::default() });
    let clients: Vec<Client> = (0..10).map(|_| house.client()).collect();
    assert_eq!(clients.len(), 10);
}

#[test]
fn bodies_beyond_what_may_be_in_memory_are_refused() {
    let house = house(Config { max_buffered_bytes: 1 << 20, ..Config::default() });
    let mut halves: Vec<Wire> = Vec::new();
    for n in 1..=2 {
        let mut wire = Wire::to(house.at);
        assert!(wire.send(request("POST", "/register", &[("content-length", "500000")], &[b' '; 400_000])));
        halves.push(wire);
        eventually("it is in memory", || (counted(&house, "bufferedBytes") >= n * 400_000).then_some(()));
    }
    let many = [b' '; 300_000];
    for bytes in [
        request("POST", "/register", &[], &many),
        [request("POST", "/invoke", &[("transfer-encoding", "chunked")], b""), b"493e0\r\n".to_vec(), many.to_vec()].concat(),
    ] {
        let mut wire = Wire::to(house.at);
        wire.send(bytes);
        says_full(&wire.answer(), "maxBufferedBytes");
    }
    assert_eq!(counted(&house, "refusedBuffers"), 2);
    house.register_at("small", "i", 9);
    drop(halves);
    nothing_is_left(&house);
    let padded = format!("{}{}", json!({"name": "large", "id": "i", "host": "127.0.0.1", "port": 9}), " ".repeat(300_000));
    house.ask("POST", "/register", &[], padded.as_bytes()).with_status(200);
}

#[test]
fn small_requests_are_served_however_full_the_memory_is() {
    let house = house(Config { max_buffered_bytes: 1 << 20, ..Config::default() });
    let upstream = Upstream::named("hello");
    let half = request("POST", "/invoke", &[("content-length", "524288")], &[b' '; 524_287]);
    let halves: Vec<Wire> = (1..=2)
        .map(|n| {
            let mut wire = Wire::to(house.at);
            assert!(wire.send(&half));
            eventually("it is in memory", || (counted(&house, "bufferedBytes") >= n * 524_287).then_some(()));
            wire
        })
        .collect();
    house.register("s", "i", &upstream);
    assert_eq!(house.call("s", "/").with_status(200).text(), "hello");
    let padded = |length: usize| [call("s", "/"), vec![b' '; length - call("s", "/").len()]].concat();
    assert_eq!(house.ask("POST", "/invoke", &[], &padded(64 * 1024)).with_status(200).text(), "hello");
    says_full(&house.ask("POST", "/invoke", &[], &padded(64 * 1024 + 1)), "maxBufferedBytes");
    drop(halves);
    nothing_is_left(&house);
}

#[test]
fn answers_beyond_what_may_be_in_memory_are_refused_and_the_instance_is_not_blamed() {
    let most = 10 << 20;
    let house =
        House::of(Mesh::builder().defaults(json!({"retry": {"maxRetries": 3}})), Config { max_buffered_bytes: most, ..Config::default() });
    let upstream = Upstream::start(|asked| if asked.target == "/quick" { ok("quick") } else { ok(vec![b'x'; 9 << 20]) });
    house.register("s", "i", &upstream);
    let mut deaf = Wire::narrow(house.at);
    assert!(deaf.send(request("POST", "/invoke", &[], &call("s", "/"))));
    eventually("an answer is in memory", || (counted(&house, "bufferedBytes") > 2 << 20).then_some(()));
    for _ in 0..6 {
        let answer = house.call("s", "/");
        assert_eq!((answer.status, answer.reason().as_str(), answer.header("retry-after")), (503, "overloaded", Some("1")));
        assert!(answer.text().contains("maxBufferedBytes"), "{}", answer.text());
        assert_eq!(answer.header("x-mesh-not-sent"), None, "it may well have been processed");
        assert!(counted(&house, "bufferedBytes") <= most as u64);
    }
    assert_eq!((counted(&house, "refusedBuffers"), upstream.requests()), (6, 7), "once each");
    drop(deaf);
    nothing_is_left(&house);
    assert_eq!(house.call("s", "/quick").with_status(200).text(), "quick");
    house.call("s", "/").with_status(200);
}

#[test]
fn a_body_that_its_instance_does_not_take_is_held_once_and_counted() {
    let most = 8 << 20;
    let house = House::of(Mesh::builder(), Config { max_buffered_bytes: most, ..Config::default() });
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    house.register_at("s", "i", listener.local_addr().expect("an address").port());
    let body = json!({"serviceName": "s", "endpoint": "/", "method": "POST", "body": "x".repeat(1_000_000)}).to_string();
    let mut under_way: Vec<Wire> = Vec::new();
    // As it came, it is no longer there; as it is sent, it may be: twice.
    while counted(&house, "refusedBuffers") == 0 {
        let mut wire = Wire::to(house.at);
        assert!(wire.send(request("POST", "/invoke", &[], body.as_bytes())));
        under_way.push(wire);
        let before = counted(&house, "requests");
        eventually("it is under way or refused", || (counted(&house, "requests") > before + 3).then_some(()));
        assert!(counted(&house, "bufferedBytes") <= most as u64);
    }
    assert!((4..=9).contains(&under_way.len()), "{}", under_way.len());
    // Resets those that it has not accepted.
    drop((under_way, listener));
    nothing_is_left(&house);
}

#[test]
fn large_answers_that_nobody_takes_hold_few_workers_and_keep_nobody_from_being_answered() {
    let config = Config { max_buffered_bytes: 4 << 20, workers: 4, reserved_workers: 1, ..Config::default() };
    let house = house(config);
    let metadata: Value = (0..60).map(|n| (n.to_string(), json!("x".repeat(1000)))).collect::<serde_json::Map<_, _>>().into();
    for id in 0..20 {
        let large = json!({"name": "large", "id": id.to_string(), "host": "127.0.0.1", "port": 9, "metadata": metadata});
        house.post("/register", &large).with_status(200);
    }
    let mut deaf: Vec<Wire> = (0..12).map(|_| Wire::narrow(house.at)).collect();
    for wire in &mut deaf {
        // Several of them are more than the system takes off our hands.
        assert!(wire.send(request("GET", "/services", &[], b"").repeat(5)));
    }
    eventually("there is no more room", || (counted(&house, "refusedBuffers") > 0).then_some(()));
    for n in 0..20 {
        house.get("/ready").with_status(200);
        house.register_at("small", "i", 9 + n);
    }
    let answer = house.get("/services");
    if answer.status != 200 {
        says_full(&answer, "maxBufferedBytes");
        assert_eq!(answer.header("x-mesh-not-sent"), None, "it was answered");
    }
    assert_eq!(counted(&house, "workerRestarts"), 0);
    assert!(counted(&house, "bufferedBytes") < 6 << 20);
    drop(deaf);
    nothing_is_left(&house);
    house.get("/services").with_status(200);
}

#[test]
fn long_polls_beyond_their_number_are_refused() {
    let house = house(Config { max_watchers: 2, ..Config::default() });
    house.register_at("s", "i", 9);
    let index = house.get("/services/s").header("x-mesh-index").expect("an index").to_owned();
    let target = format!("/services/s?index={index}&wait=60s");
    let mut waiting: Vec<Client> = (0..2).map(|_| house.client()).collect();
    for client in &mut waiting {
        client.send(&request("GET", &target, &[], b"")).expect("sent");
    }
    let refused = eventually("a third is refused", || Some(house.get(&target)).filter(|answer| answer.status == 503));
    says_full(&refused, "maxWatchers");
    assert_eq!(counted(&house, "refusedWatchers"), 1);
    house.put("/services/s/i/weight", &json!({"weight": 2})).with_status(200);
    for client in &mut waiting {
        client.receive(false).expect("answered").with_status(200);
    }
    let mut again = house.client();
    again.send(&request("GET", &format!("/services/s?index={index}&wait=1ms"), &[], b"")).expect("sent");
    again.receive(false).expect("answered").with_status(200);
}

#[test]
fn requests_beyond_the_line_before_the_workers_are_refused_at_once() {
    let stuck = Stuck::default();
    let config = Config { loops: 1, workers: 2, reserved_workers: 1, queue: 3, watchdog_ms: Millis(60_000), ..Config::default() };
    let house = House::of(Mesh::builder().store(stuck.clone()), config);
    let body = json!({"name": "s", "id": "i", "host": "127.0.0.1", "port": 9}).to_string();
    // Two are with the workers, three wait.
    let mut waiting: Vec<Client> = (0..5).map(|_| house.client()).collect();
    for client in &mut waiting {
        client.send(&request("POST", "/register", &[], body.as_bytes())).expect("sent");
    }
    // One loop takes them in one after the other.
    house.get("/health").with_status(200);
    let began = Instant::now();
    for _ in 0..10 {
        says_full(&house.post("/register", &json!({"name": "t", "id": "i", "host": "127.0.0.1", "port": 9})), "queue");
        house.get("/health").with_status(200);
    }
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    stuck.open();
    for mut client in waiting {
        client.receive(false).expect("answered").with_status(200);
    }
    assert_eq!(counted(&house, "refusedQueue"), 10);
}

#[test]
fn what_is_refused_is_counted_by_why() {
    let house = house(Config { max_body_bytes: 100, ..Config::default() });
    let ask = |bytes: Vec<u8>| {
        let mut wire = Wire::to(house.at);
        wire.send(bytes);
        wire.answer().status
    };
    let large = request("POST", "/register", &[], &[b'x'; 101]);
    let large_in_chunks =
        request("POST", "/register", &[("transfer-encoding", "chunked")], &[b"65\r\n".as_slice(), &[b'x'; 101], b"\r\n0\r\n\r\n"].concat());
    for (bytes, status) in [
        (b"nonsense\r\n\r\n".to_vec(), 400),
        (b"GET / HTTP/3.0\r\n\r\n".to_vec(), 505),
        (b"POST /register HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n".to_vec(), 400),
        (request("GET", &format!("/{}", "x".repeat(9000)), &[], b""), 414),
        (request("GET", "/", &[("x", &"x".repeat(17_000))], b""), 431),
        (large, 413),
        (large_in_chunks, 413),
        // Its length is enough.
        (request("POST", "/register", &[("transfer-encoding", "chunked")], b"65\r\n"), 413),
    ] {
        assert_eq!(ask(bytes), status);
    }
    assert_eq!((counted(&house, "malformed"), counted(&house, "headsTooLarge"), counted(&house, "bodiesTooLarge")), (3, 2, 3));
}
