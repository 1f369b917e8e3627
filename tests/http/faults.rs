//! Every way an upstream can misbehave, and what the caller is told: always a clear answer, in time, and never a truncated 200.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use serde_json::json;
use weft::Mesh;
use weft::server::Config;

use crate::house::House;
use crate::support::PATIENCE;
use crate::support::hole::BlackHole;
use crate::support::upstream::{Act, Asked, End, Upstream, answer, ok};

/// The time of an attempt that is bound to use it up.
const SHORT: u64 = 300;

/// One attempt, and short limits where nothing comes of patience.
fn impatient(service: &str, status: u16) -> House {
    let house = House::with(json!({"timeouts": {"connectMs": 200}, "retry": {"maxRetries": 0}}));
    if status == 504 {
        house.policy(service, &json!({"timeouts": {"totalMs": 10 * SHORT, "attemptMs": SHORT}}));
    }
    house
}

fn say_and(bytes: &[u8], end: End) -> Act {
    Act::SayAnd(bytes.to_vec(), end)
}

const A_HEAD: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n";
const HALF_A_HEAD: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-le";
const HALF_A_BODY: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf of it";
const HALF_A_CHUNK: &[u8] = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n64\r\nhalf";
const NO_LAST_CHUNK: &[u8] = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n";

/// What an upstream does, and the status and reason the caller gets. `None` for the reason: the answer is passed on.
type Row = (&'static str, fn(&Asked) -> Act, u16, Option<&'static str>);

const ROWS: &[Row] = &[
    ("accepts and never answers", |_| say_and(b"", End::Hang), 504, Some("upstream_timeout")),
    ("resets before the head", |_| say_and(b"", End::Reset), 503, Some("upstream_reset")),
    ("closes before the head", |_| say_and(b"", End::Close), 503, Some("upstream_reset")),
    ("half a head, then silence", |_| say_and(HALF_A_HEAD, End::Hang), 504, Some("upstream_timeout")),
    ("half a head, then the end", |_| say_and(HALF_A_HEAD, End::Close), 503, Some("upstream_reset")),
    ("half a head, then a reset", |_| say_and(HALF_A_HEAD, End::Reset), 503, Some("upstream_reset")),
    ("half a body, then the end", |_| say_and(HALF_A_BODY, End::Close), 503, Some("upstream_reset")),
    ("half a body, then a reset", |_| say_and(HALF_A_BODY, End::Reset), 503, Some("upstream_reset")),
    ("half a body, then silence", |_| say_and(HALF_A_BODY, End::Hang), 504, Some("upstream_timeout")),
    ("half a chunk, then the end", |_| say_and(HALF_A_CHUNK, End::Close), 503, Some("upstream_reset")),
    ("half a chunk, then a reset", |_| say_and(HALF_A_CHUNK, End::Reset), 503, Some("upstream_reset")),
    ("no last chunk, then the end", |_| say_and(NO_LAST_CHUNK, End::Close), 503, Some("upstream_reset")),
    ("no last chunk, then silence", |_| say_and(NO_LAST_CHUNK, End::Hang), 504, Some("upstream_timeout")),
    ("a body that comes byte by byte", |_| Act::Trickle(A_HEAD.to_vec(), vec![b'x'; 1000], ms(20)), 504, Some("upstream_timeout")),
    (
        "a head that comes byte by byte",
        |_| Act::Trickle(Vec::new(), answer(200, &[("x", &"x".repeat(1000))], ""), ms(20)),
        504,
        Some("upstream_timeout"),
    ),
    ("an SSH banner", |_| say_and(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", End::Hang), 503, Some("upstream_protocol")),
    ("bytes that are nothing", |_| say_and(b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03\r\n\r\n", End::Hang), 503, Some("upstream_protocol")),
    ("a header field of 1 MiB", |_| Act::Say(answer(200, &[("x", &"x".repeat(1 << 20))], "")), 503, Some("upstream_protocol")),
    ("5000 header fields", |_| Act::Say(answer(200, &[("x", "y"); 5000], "")), 503, Some("upstream_protocol")),
    ("two different lengths", |_| Act::Say(answer(200, &[("content-length", "3")], "hello")), 503, Some("upstream_protocol")),
    (
        "a length that is none",
        |_| say_and(b"HTTP/1.1 200 OK\r\ncontent-length: five\r\n\r\nhello", End::Close),
        503,
        Some("upstream_protocol"),
    ),
    ("a negative length", |_| say_and(b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\nhello", End::Close), 503, Some("upstream_protocol")),
    (
        "a length beyond all numbers",
        |_| say_and(b"HTTP/1.1 200 OK\r\ncontent-length: 18446744073709551617\r\n\r\nx", End::Close),
        503,
        Some("upstream_protocol"),
    ),
    (
        "a length and chunks",
        |_| Act::Say(answer(200, &[("transfer-encoding", "chunked")], "5\r\nhello\r\n0\r\n\r\n")),
        503,
        Some("upstream_protocol"),
    ),
    (
        "a chunk size that is none",
        |_| say_and(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n", End::Hang),
        503,
        Some("upstream_protocol"),
    ),
    (
        "an unasked 101",
        |_| say_and(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n", End::Hang),
        503,
        Some("upstream_protocol"),
    ),
    ("status 999", |_| Act::Say(answer(999, &[], "")), 503, Some("upstream_protocol")),
    ("status 099", |_| say_and(b"HTTP/1.1 099 -\r\ncontent-length: 0\r\n\r\n", End::Hang), 503, Some("upstream_protocol")),
    ("a head without end", |_| Act::Pour(b"HTTP/1.1 200 OK\r\n".to_vec(), b"x-a: b\r\n".repeat(1000)), 503, Some("upstream_protocol")),
    (
        "a thousand 103 and then 200",
        |_| Act::Say([b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n".repeat(1000), answer(200, &[], "after all")].concat()),
        200,
        None,
    ),
    ("a redirect to where nobody may go", |_| Act::Say(answer(302, &[("location", "http://169.254.169.254/")], "")), 302, None),
];

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

#[test]
fn every_fault_of_an_upstream_gets_its_answer_in_time() {
    for (what, act, status, reason) in ROWS {
        let house = impatient("s", *status);
        let upstream = Upstream::start(*act);
        house.register("s", "i", &upstream);
        let start = Instant::now();
        let answer = house.call("s", "/");
        let took = start.elapsed();
        assert_eq!(answer.status, *status, "{what}: {}", answer.text());
        assert!(took < PATIENCE / 2, "{what}: bounded by the deadline, not {took:?}");
        match reason {
            Some(reason) => {
                assert_eq!(answer.reason(), *reason, "{what}: {}", answer.text());
                let body = answer.json();
                assert_eq!((&body["attempts"], &body["instance"]), (&json!(1), &json!("i")), "{what}");
                assert_eq!(answer.header("x-mesh-not-sent"), None, "{what}: it may have been processed");
                let breaker = &house.metrics()["circuitBreakers"]["s"];
                assert_eq!(breaker["failureCount"], 1, "{what}");
            }
            None => assert_eq!(answer.header("x-mesh-instance"), Some("i"), "{what}"),
        }
        assert_eq!(house.metrics()["services"]["s"]["inFlight"], 0, "{what}: everything is given back");
    }
}

#[test]
fn a_body_without_end_is_refused_at_what_is_collected_and_nobody_is_to_blame() {
    let house = impatient("s", 503);
    let upstream = Upstream::start(|_| Act::Pour(b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), vec![b'x'; 1 << 16]));
    house.register("s", "i", &upstream);
    let answer = house.call("s", "/").with_status(503);
    assert_eq!(answer.reason(), "upstream_protocol");
    assert!(answer.text().contains("longer than 10485760 bytes"), "{}", answer.text());
    assert_eq!(answer.header("x-mesh-not-sent"), None, "it may have been processed");
    let metrics = house.metrics();
    // Whoever can ask for something long must not be able to break the service off for others.
    assert_eq!((&metrics["circuitBreakers"]["s"]["failureCount"], &metrics["services"]["s"]["inFlight"]), (&json!(0), &json!(0)));
}

#[test]
fn a_broken_answer_to_a_get_is_made_good_by_another_instance() {
    for (what, act, status, reason) in ROWS {
        if !matches!(reason, Some("upstream_reset" | "upstream_timeout")) {
            continue;
        }
        let house = impatient("s", *status);
        house.policy("s", &json!({"retry": {"maxRetries": 3, "baseDelayMs": 1}}));
        let (bad, good) = (Upstream::start(*act), Upstream::named("whole"));
        house.register("s", "bad", &bad);
        house.register("s", "good", &good);
        let answer = house.call("s", "/").with_status(200);
        assert_eq!((answer.text().as_str(), answer.header("x-mesh-attempts")), ("whole", Some("2")), "{what}");
        assert_eq!((bad.requests(), good.requests()), (1, 1), "{what}");
    }
}

#[test]
fn a_truncated_body_is_never_a_200_even_when_it_is_all_there_is() {
    let house = House::with(json!({"retry": {"baseDelayMs": 1, "maxRetries": 1}}));
    for (n, cut) in [HALF_A_BODY, HALF_A_CHUNK, NO_LAST_CHUNK].into_iter().enumerate() {
        for (m, post) in [false, true].into_iter().enumerate() {
            let service = format!("s{n}{m}");
            let upstream = Upstream::start(move |_| say_and(cut, End::Close));
            house.register(&service, "i", &upstream);
            let method = if post { "POST" } else { "GET" };
            let answer = house.invoke(&json!({"serviceName": service, "endpoint": "/", "method": method})).with_status(503);
            assert_eq!(answer.reason(), "upstream_reset");
            assert!(!answer.text().contains("half") && !answer.text().contains("hello"), "no piece of it: {}", answer.text());
            assert_eq!(upstream.requests(), if post { 1 } else { 2 });
        }
    }
}

/// A port where nobody listens.
fn nobodys_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("an address").port()
}

#[test]
fn a_refused_connection_is_said_to_be_one_and_moves_on_at_once() {
    let house = House::with(json!({"retry": {"baseDelayMs": 60_000, "maxDelayMs": 60_000}}));
    house.register_at("s", "gone", nobodys_port());
    let only = house.invoke(&json!({"serviceName": "s", "endpoint": "/", "maxRetries": 0, "method": "POST"})).with_status(503);
    assert_eq!((only.reason().as_str(), only.header("x-mesh-not-sent")), ("upstream_connect", Some("true")));
    let good = Upstream::named("good");
    house.register("s", "good", &good);
    let start = Instant::now();
    for _ in 0..4 {
        let answer = house.invoke(&json!({"serviceName": "s", "endpoint": "/", "method": "POST", "body": "x"})).with_status(200);
        assert_eq!(answer.text(), "good", "safe for every method");
    }
    assert!(start.elapsed() < PATIENCE, "without the wait of the schedule");
    assert_eq!(good.requests(), 4);
}

#[test]
fn a_host_that_swallows_connections_costs_the_connect_limit_and_no_more() {
    let house = impatient("s", 503);
    let hole = BlackHole::new();
    house.register_at("s", "hole", hole.at.port());
    let start = Instant::now();
    let answer = house.call("s", "/").with_status(503);
    assert!(start.elapsed() >= ms(150), "it was waited for");
    assert_eq!(answer.reason(), "upstream_connect", "{}", answer.text());
    assert_eq!(answer.json()["error"], "Failed to call s after 1 attempt: no connection in time");
    assert_eq!(answer.header("x-mesh-not-sent"), Some("true"));
    let good = Upstream::named("good");
    house.register("s", "good", &good);
    house.policy("s", &json!({"retry": {"maxRetries": 1}}));
    for _ in 0..2 {
        let answer = house.invoke(&json!({"serviceName": "s", "endpoint": "/", "method": "POST"})).with_status(200);
        assert_eq!(answer.text(), "good");
    }
}

#[test]
fn the_whole_call_ends_at_its_deadline_whatever_the_schedule_says() {
    let house = House::with(json!({
        "timeouts": {"totalMs": 400, "attemptMs": 150}, "retry": {"maxRetries": 100, "baseDelayMs": 1, "maxDelayMs": 1}
    }));
    let upstream = Upstream::start(|_| say_and(b"", End::Hang));
    house.register("s", "i", &upstream);
    let start = Instant::now();
    let answer = house.call("s", "/").with_status(504);
    assert_eq!(answer.reason(), "deadline_exceeded");
    assert!(start.elapsed() < ms(3_000), "{:?}", start.elapsed());
    assert!((2..=4).contains(&upstream.requests()), "{}", upstream.requests());
}

#[test]
fn an_instance_of_several_that_keeps_failing_is_left_alone_for_a_while() {
    let house = House::with(json!({"retry": {"baseDelayMs": 1}, "outlier": {"consecutiveFailures": 3}}));
    let (bad, good) = (Upstream::start(|_| say_and(b"", End::Reset)), Upstream::named("good"));
    house.register("s", "bad", &bad);
    house.register("s", "good", &good);
    for _ in 0..20 {
        house.call("s", "/").with_status(200);
    }
    assert_eq!(bad.requests(), 3);
    assert_eq!(house.instance("s", "bad")["ejected"], true);
    let metrics = house.metrics();
    assert_eq!(metrics["circuitBreakers"]["s"]["failureCount"], 0, "the calls succeeded");
    assert_eq!(metrics["services"]["s"]["ejections"], 1);
}

#[test]
fn nothing_of_a_bad_answer_leaks_into_metrics_services_or_errors() {
    let house = House::of(Mesh::builder().defaults(json!({"retry": {"maxRetries": 0}})), Config::default());
    let upstream = Upstream::start(|asked| match &*asked.target {
        "/secret" => Act::Say(answer(500, &[("x-secret", "hunter2")], "hunter2")),
        "/banner" => say_and(b"hunter2 hunter2\r\n", End::Hang),
        _ => ok(""),
    });
    house.register("s", "i", &upstream);
    for endpoint in ["/secret", "/banner"] {
        let answer = house.call("s", endpoint).with_status(503);
        assert!(!format!("{:?}{}", answer.headers, answer.text()).contains("hunter2"), "{endpoint}");
    }
    for target in ["/metrics", "/services", "/events", "/services/s/explain", "/config"] {
        assert!(!house.get(target).text().contains("hunter2"), "{target}");
    }
}
