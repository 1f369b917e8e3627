//! The pool of workers: what it survives, who gets a place in it, and what is said when there is none.

use std::collections::HashSet;
use std::io::Cursor;
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use weft::mesh::call::{Attempt, Connection};
use weft::mesh::ports::{Incoming, Outgoing, Probe, Transport};
use weft::model::{Failure, Headers};
use weft::policy::health::CheckResult;
use weft::server::{Address, Config, InvokeOn};
use weft::{Mesh, Server};

use crate::house::{House, call};
use crate::support::client::{Client, request};
use crate::support::upstream::{Act, Upstream, answer, ok};
use crate::support::{PATIENCE, eventually};

/// Panics when it is told to, as a mistake in the mesh would.
struct Panicking {
    probes: Arc<AtomicUsize>,
}

/// A panic that prints nothing.
fn silent_panic() -> ! {
    resume_unwind(Box::new("a secret at src/secret.rs:7".to_owned()))
}

impl Transport for Panicking {
    fn send(&self, _: &Attempt, request: &Outgoing<'_>) -> Result<Incoming, Failure> {
        if request.call.endpoint.as_str() == "/panic" {
            silent_panic();
        }
        Ok(Incoming {
            status: 200,
            headers: Headers::new(),
            connection: Connection::Unknown,
            body: Box::new(Cursor::new(b"fine".to_vec())),
        })
    }

    fn probe(&self, _: &Probe) -> CheckResult {
        match self.probes.fetch_add(1, Ordering::SeqCst) {
            // More than there may be probe threads.
            0..100 => silent_panic(),
            _ => CheckResult::Passed,
        }
    }
}

fn panicking(probes: &Arc<AtomicUsize>, policy: Value, config: Config) -> House {
    House::of(Mesh::builder().transport(Panicking { probes: Arc::clone(probes) }).defaults(policy), config)
}

#[test]
fn a_panic_is_answered_and_takes_no_worker_no_seat_and_no_slot_with_it() {
    let config = Config { invoke_on: InvokeOn::Workers, workers: 2, reserved_workers: 1, ..Config::default() };
    let house = panicking(&Arc::default(), json!({"limits": {"maxInFlight": 1, "instanceMaxInFlight": 1}}), config);
    house.register_at("s", "i", 9);
    let mut client = house.client();
    for _ in 0..10 {
        let answer = client.ask("POST", "/invoke", &[], &call("s", "/panic")).expect("answered").with_status(500);
        assert_eq!(answer.reason(), "internal");
        assert!(!answer.text().contains("secret"), "{}", answer.text());
        let fine = client.ask("POST", "/invoke", &[], &call("s", "/")).expect("answered").with_status(200);
        assert_eq!(fine.text(), "fine");
    }
    let metrics = house.metrics();
    assert_eq!((&metrics["services"]["s"]["inFlight"], &metrics["services"]["s"]["instances"]["i"]["inFlight"]), (&json!(0), &json!(0)));
    assert_eq!(metrics["circuitBreakers"]["s"], json!({"status": "CLOSED", "failureCount": 0, "successCount": 0}));
}

#[test]
fn a_panic_in_a_health_check_does_not_end_the_checks() {
    let probes = Arc::new(AtomicUsize::new(0));
    let policy = json!({"healthCheck": {"intervalMs": 10, "fastIntervalMs": 1}});
    let house = panicking(&probes, policy, Config::default());
    let registration = json!({"name": "s", "id": "i", "host": "127.0.0.1", "port": 9, "healthCheckUrl": "http://127.0.0.1:9/"});
    house.post("/register", &registration).with_status(200);
    eventually("checks go on", || (probes.load(Ordering::SeqCst) > 110).then_some(()));
    assert_eq!(house.instance("s", "i")["healthy"], true);
}

/// Two seats, one for each service.
fn two_seats(queue: usize) -> Config {
    Config { invoke_on: InvokeOn::Workers, workers: 4, reserved_workers: 2, queue, ..Config::default() }
}

/// Holds every call to `/slow`.
fn holding() -> Upstream {
    Upstream::start(|asked| if asked.target == "/slow" { Act::Held(answer(200, &[], "slow")) } else { ok("quick") })
}

/// Sends a call without waiting for its answer, on a connection that is certain to be served.
fn begin(client: &mut Client, service: &str) {
    client.send(&request("POST", "/invoke", &[], &call(service, "/slow"))).expect("sent");
}

#[test]
fn control_requests_are_answered_while_every_seat_is_taken() {
    let house = House::of(Mesh::builder(), two_seats(100));
    let upstream = holding();
    let mut clients: Vec<Client> = (0..6).map(|_| house.client()).collect();
    for service in ["a", "b"] {
        house.register(service, "i", &upstream);
        house.policy(service, &json!({"limits": {"queueTimeoutMs": 60_000}}));
    }
    // Two run, four wait for a worker.
    for (n, client) in clients.iter_mut().enumerate() {
        begin(client, if n % 2 == 0 { "a" } else { "b" });
    }
    eventually("both seats are taken", || (upstream.requests() == 2).then_some(()));
    for target in ["/health", "/metrics", "/services", "/ready", "/events", "/services/a/explain"] {
        house.get(target).with_status(200);
    }
    house.register("c", "i", &upstream);
    house.put("/services/a/i/weight", &json!({"weight": 2})).with_status(200);
    assert_eq!(upstream.requests(), 2);
    upstream.release();
    for mut client in clients {
        assert_eq!(client.receive(false).expect("answered").with_status(200).text(), "slow", "who waited gets a turn");
    }
}

#[test]
fn one_slow_service_cannot_take_every_seat() {
    let house = House::of(Mesh::builder(), Config { invoke_on: InvokeOn::Workers, workers: 6, reserved_workers: 2, ..Config::default() });
    let (slow, fast) = (holding(), Upstream::named("fast"));
    house.register("slow", "i", &slow);
    house.register("fast", "i", &fast);
    house.policy("slow", &json!({"limits": {"queueTimeoutMs": 60_000}}));
    let mut clients: Vec<Client> = (0..5).map(|_| house.client()).collect();
    let mut other = house.client();
    for client in &mut clients {
        begin(client, "slow");
    }
    eventually("the slow service has its share", || (slow.requests() == 2).then_some(()));
    for _ in 0..10 {
        let answer = other.ask("POST", "/invoke", &[], &call("fast", "/")).expect("answered").with_status(200);
        assert_eq!(answer.text(), "fast");
    }
    assert_eq!(slow.requests(), 2, "half of the seats");
    slow.release();
    for mut client in clients {
        client.receive(false).expect("answered").with_status(200);
    }
}

#[test]
fn a_full_line_refuses_at_once_and_says_when_to_come_back() {
    let house = House::of(Mesh::builder(), two_seats(0));
    let upstream = holding();
    house.register("s", "i", &upstream);
    let (mut running, mut refused) = (house.client(), house.client());
    begin(&mut running, "s");
    eventually("the seat is taken", || (upstream.requests() == 1).then_some(()));
    let answer = refused.ask("POST", "/invoke", &[], &call("s", "/slow")).expect("answered").with_status(503);
    assert_eq!((answer.reason().as_str(), answer.header("retry-after")), ("overloaded", Some("1")));
    assert_eq!(answer.header("x-mesh-not-sent"), Some("true"));
    assert_eq!(answer.json()["error"], "s is overloaded: the limit queue is reached", "it says which limit");
    let metrics = house.metrics();
    assert_eq!((&metrics["failedRequests"], &metrics["services"]["s"]["refused"]["overloaded"]), (&json!(1), &json!(1)));
    upstream.release();
    running.receive(false).expect("answered").with_status(200);
    refused.ask("POST", "/invoke", &[], &call("s", "/")).expect("answered").with_status(200);
}

#[test]
fn who_waits_too_long_for_a_worker_is_told_so() {
    let house = House::of(Mesh::builder().defaults(json!({"limits": {"queueTimeoutMs": 50}})), two_seats(100));
    let upstream = holding();
    house.register("s", "i", &upstream);
    let (mut running, mut waiting) = (house.client(), house.client());
    begin(&mut running, "s");
    eventually("the seat is taken", || (upstream.requests() == 1).then_some(()));
    let answer = waiting.ask("POST", "/invoke", &[], &call("s", "/slow")).expect("answered").with_status(503);
    assert_eq!((answer.reason().as_str(), answer.header("retry-after")), ("overloaded", Some("1")));
    assert_eq!(answer.json()["error"], "s is overloaded: the limit queueTimeoutMs is reached");
    assert_eq!(upstream.requests(), 1);
    upstream.release();
    running.receive(false).expect("answered").with_status(200);
}

#[test]
fn the_wait_for_a_worker_counts_towards_the_deadline_of_the_call() {
    let house = House::of(Mesh::builder().defaults(json!({"limits": {"queueTimeoutMs": 60_000}})), two_seats(100));
    let upstream = holding();
    house.register("s", "i", &upstream);
    let (mut running, mut waiting) = (house.client(), house.client());
    begin(&mut running, "s");
    eventually("the seat is taken", || (upstream.requests() == 1).then_some(()));
    let start = Instant::now();
    let hurried = json!({"serviceName": "s", "endpoint": "/", "timeoutMs": 100}).to_string();
    let answer = waiting.ask("POST", "/invoke", &[], hurried.as_bytes()).expect("answered").with_status(504);
    assert_eq!((answer.reason().as_str(), answer.header("x-mesh-not-sent")), ("deadline_exceeded", Some("true")));
    assert!(start.elapsed() < PATIENCE / 2, "{:?}", start.elapsed());
    upstream.release();
    running.receive(false).expect("answered").with_status(200);
}

#[test]
fn a_service_has_its_own_limit_and_queue() {
    let house = House::with(json!({"limits": {"maxInFlight": 1, "maxQueue": 1, "queueTimeoutMs": 60_000}}));
    let upstream = holding();
    house.register("s", "i", &upstream);
    let mut clients: Vec<Client> = (0..3).map(|_| house.client()).collect();
    begin(&mut clients[0], "s");
    eventually("the first call runs", || (upstream.requests() == 1).then_some(()));
    begin(&mut clients[1], "s");
    eventually("the second waits", || (house.metrics()["services"]["s"]["queued"] == 1).then_some(()));
    let refused = clients[2].ask("POST", "/invoke", &[], &call("s", "/slow")).expect("answered").with_status(503);
    assert_eq!((refused.reason().as_str(), refused.header("retry-after")), ("overloaded", Some("1")));
    assert_eq!(refused.json()["error"], "s is overloaded: the limit maxQueue is reached");
    upstream.release();
    for client in &mut clients[..2] {
        client.receive(false).expect("answered").with_status(200);
    }
    assert_eq!(upstream.requests(), 2);
}

#[test]
fn who_waits_too_long_for_a_service_is_told_so() {
    let house = House::with(json!({"limits": {"maxInFlight": 1, "queueTimeoutMs": 50}}));
    let upstream = holding();
    house.register("s", "i", &upstream);
    let (mut running, mut waiting) = (house.client(), house.client());
    begin(&mut running, "s");
    eventually("the first call runs", || (upstream.requests() == 1).then_some(()));
    let answer = waiting.ask("POST", "/invoke", &[], &call("s", "/slow")).expect("answered").with_status(503);
    assert_eq!(answer.json()["error"], "s is overloaded: the limit queueTimeoutMs is reached");
    upstream.release();
    running.receive(false).expect("answered").with_status(200);
}

#[test]
fn an_instance_at_its_own_limit_is_passed_over() {
    let house = House::new();
    let (one, two) = (holding(), Upstream::named("two"));
    let limited = json!({"name": "s", "id": "one", "host": "127.0.0.1", "port": one.port(), "maxInFlight": 1});
    house.post("/register", &limited).with_status(200);
    let (mut running, mut other) = (house.client(), house.client());
    begin(&mut running, "s");
    eventually("the first call runs", || (one.requests() == 1).then_some(()));
    house.register("s", "two", &two);
    for _ in 0..4 {
        let answer = other.ask("POST", "/invoke", &[], &call("s", "/")).expect("answered").with_status(200);
        assert_eq!(answer.text(), "two");
    }
    one.release();
    running.receive(false).expect("answered").with_status(200);
}

#[test]
fn a_client_that_goes_away_leaves_nothing_behind() {
    let house = House::of(Mesh::builder(), two_seats(100));
    let upstream = holding();
    house.register("s", "i", &upstream);
    let mut client = house.client();
    begin(&mut client, "s");
    eventually("the call runs", || (upstream.requests() == 1).then_some(()));
    drop(client);
    upstream.release();
    eventually("the seat and the slot are free", || (house.metrics()["services"]["s"]["inFlight"] == 0).then_some(()));
    house.call("s", "/").with_status(200);
}

#[test]
fn many_clients_at_once_are_all_answered_and_all_counted() {
    let house = House::new();
    let upstreams = [Upstream::named("a"), Upstream::named("b")];
    house.register("s", "a", &upstreams[0]);
    house.register("s", "b", &upstreams[1]);
    let clients: Vec<Client> = (0..8).map(|_| house.client()).collect();
    thread::scope(|scope| {
        for mut client in clients {
            scope.spawn(move || {
                for _ in 0..50 {
                    client.ask("POST", "/invoke", &[], &call("s", "/")).expect("answered").with_status(200);
                }
            });
        }
    });
    assert_eq!((upstreams[0].requests(), upstreams[1].requests()), (200, 200), "exactly in turns");
    let metrics = house.metrics();
    assert_eq!((&metrics["totalRequests"], &metrics["successRate"]), (&json!(400), &json!("100.00%")));
    let service = &metrics["services"]["s"];
    assert_eq!((&service["inFlight"], &service["instances"]["a"]["sharePercent"]), (&json!(0), &json!(50.0)));
}

#[test]
fn a_client_that_asks_before_it_sends_its_body_is_told_to_go_on() {
    let house = House::new();
    let mut client = house.client();
    let body = call("nobody", "/");
    let length = body.len().to_string();
    client.send(&request("POST", "/invoke", &[("expect", "100-continue"), ("content-length", &length)], b"")).expect("sent");
    client.receive(true).expect("answered").with_status(100);
    client.send(&body).expect("sent");
    assert_eq!(client.receive(false).expect("answered").with_status(503).reason(), "unknown_service");
}

#[test]
fn a_client_of_http_1_0_is_answered_and_its_connection_closed_unless_it_asks_otherwise() {
    let house = House::new();
    let mut client = house.client();
    for _ in 0..2 {
        client.send(b"GET /health HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").expect("sent");
        let answer = client.receive(false).expect("answered").with_status(200);
        assert_eq!(answer.header("connection"), Some("keep-alive"));
    }
    client.send(b"GET /health HTTP/1.0\r\n\r\n").expect("sent");
    client.receive(false).expect("answered").with_status(200);
    assert!(client.is_at_end());
}

#[test]
fn several_requests_on_one_connection_are_answered_in_order() {
    let house = House::new();
    let mut client = house.client();
    let ids = ["first", "second", "third"];
    let all: Vec<u8> = ids.iter().flat_map(|id| request("GET", "/health", &[("x-request-id", id)], b"")).collect();
    client.send(&all).expect("sent");
    for id in ids {
        assert_eq!(client.receive(false).expect("answered").header("x-request-id"), Some(id));
    }
}

/// A place for a socket, gone at the end of the test.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("weft-{name}-{}.sock", std::process::id())))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn a_unix_socket_serves_the_same() {
    let place = Place::new("same");
    let path = &place.0;
    let mesh = Mesh::builder().build().expect("a mesh");
    let config = Config { listen: format!("unix:{}", path.display()), ..Config::default() };
    let server = Server::start(&mesh, &config, json!({})).expect("a server");
    assert_eq!(server.addresses(), [Address::Unix(path.clone())]);
    let upstream = Upstream::named("x");
    let mut client = Client::connect_unix(path).expect("a connection");
    let registration = json!({"name": "s", "id": "i", "host": "127.0.0.1", "port": upstream.port()}).to_string();
    client.ask("POST", "/register", &[], registration.as_bytes()).expect("answered").with_status(200);
    assert_eq!(client.ask("POST", "/invoke", &[], &call("s", "/")).expect("answered").with_status(200).text(), "x");
    client.ask("GET", "/health", &[], b"").expect("answered").with_status(200);
    assert!(server.drain(Duration::ZERO, PATIENCE));
    drop(server);
}

#[test]
fn a_socket_left_behind_by_a_dead_mesh_is_taken_over_and_a_live_one_or_another_file_is_not() {
    let place = Place::new("left");
    let path = &place.0;
    // Closing a listener leaves its file.
    drop(std::os::unix::net::UnixListener::bind(path).expect("a socket"));
    let mesh = Mesh::builder().build().expect("a mesh");
    let config = Config { listen: format!("unix:{}", path.display()), ..Config::default() };
    let server = Server::start(&mesh, &config, json!({})).expect("a server");
    Client::connect_unix(path).and_then(|mut client| client.ask("GET", "/health", &[], b"")).expect("answered").with_status(200);
    let second = Server::start(&mesh, &config, json!({})).err().expect("taken").to_string();
    assert!(second.ends_with("another program listens there already"), "{second}");
    drop(server);
    std::fs::remove_file(path).and_then(|()| std::fs::write(path, "precious")).expect("a file");
    let third = Server::start(&mesh, &config, json!({})).err().expect("no socket").to_string();
    assert!(third.ends_with("a file is there that is no socket"), "{third}");
    assert_eq!(std::fs::read_to_string(path).expect("it is still there"), "precious");
}

#[test]
fn localhost_is_both_loopback_addresses_on_one_port() {
    let mesh = Mesh::builder().build().expect("a mesh");
    let server = Server::start(&mesh, &Config { listen: "localhost:0".to_owned(), ..Config::default() }, json!({})).expect("a server");
    let addresses = server.addresses();
    let mut ports = HashSet::new();
    for address in &addresses {
        let Address::Tcp(at) = address else { panic!("{address}") };
        assert!(at.ip().is_loopback());
        ports.insert(at.port());
        let mut client = Client::connect(*at).expect("a connection");
        client.ask("GET", "/health", &[], b"").expect("answered").with_status(200);
    }
    assert_eq!(ports.len(), 1, "{addresses:?}");
}

#[test]
fn what_cannot_be_listened_on_is_said_in_plain_words() {
    let mesh = Mesh::builder().build().expect("a mesh");
    let start = |config: Config| Server::start(&mesh, &config, json!({})).err().map(|error| error.to_string()).expect("refused");
    let listen = |listen: &str| Config { listen: listen.to_owned(), ..Config::default() };
    let house = House::new();
    let taken = start(listen(&house.at.to_string()));
    assert_eq!(taken, format!("cannot listen on http://{}: another program listens there already", house.at));
    let open = start(listen("0.0.0.0:0"));
    assert!(open.contains("listen: 0.0.0.0:0 is not loopback") && open.contains("--insecure"), "{open}");
    for (text, why) in [
        ("localhost", "has no port"),
        ("localhost:http", "has a bad port"),
        ("localhost:65536", "has a bad port"),
        ("unix:", "has no path"),
    ] {
        assert!(start(listen(text)).contains(why), "{text}");
    }
    let few = start(Config { workers: 3, reserved_workers: 3, ..listen("127.0.0.1:0") });
    assert!(few.starts_with("reservedWorkers: "), "{few}");
}
