//! Every way an instance can misbehave, on all three ways through the mesh: a clear answer in time, and never a part that looks whole.

use std::io;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::house::House;
use crate::support::eventually;
use crate::support::hole::BlackHole;
use crate::support::upstream::{Act, Asked, End, Upstream, answer, ok, status};
use crate::ways::Way;
use crate::wire::Stage;

/// The time of an attempt, and of a silence in a body, in ms.
const SHORT: u64 = 300;
/// How much longer anything may take on a busy machine; the limits that are not shortened are longer.
const SLACK: Duration = Duration::from_secs(5);

const HALF_A_HEAD: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-le";
const HALF_A_BODY: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf of it";
const HALF_A_CHUNK: &[u8] = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n64\r\nhalf";
const NO_LAST_CHUNK: &[u8] = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n";
const NO_SIZE: &[u8] = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n";
const NO_END: &[u8] = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhelloXX0\r\n\r\n";
const SWITCH: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n";
const LENGTH_AND_CHUNKS: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";

/// What the caller sees.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Seen {
    /// It failed, for this reason.
    Fails(&'static str),
    /// It succeeds, with this status.
    Passes(u16),
    /// Collected, it fails for this reason; passed on as it comes, it breaks off by a reset.
    Breaks(&'static str),
    /// Collected, it fails for this reason; passed on as it comes, there is nothing wrong with it.
    FailsCollected(&'static str),
}

use Seen::{Breaks, Fails, FailsCollected, Passes};

type Row = (&'static str, fn(&Asked) -> Act, Seen);

fn say_and(bytes: &[u8], end: End) -> Act {
    Act::SayAnd(bytes.to_vec(), end)
}

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

const ROWS: &[Row] = &[
    ("accepts and never answers", |_| say_and(b"", End::Hang), Fails("upstream_timeout")),
    ("resets before the head", |_| say_and(b"", End::Reset), Fails("upstream_reset")),
    ("closes before the head", |_| say_and(b"", End::Close), Fails("upstream_reset")),
    ("half a head, then silence", |_| say_and(HALF_A_HEAD, End::Hang), Fails("upstream_timeout")),
    ("half a head, then the end", |_| say_and(HALF_A_HEAD, End::Close), Fails("upstream_reset")),
    ("half a head, then a reset", |_| say_and(HALF_A_HEAD, End::Reset), Fails("upstream_reset")),
    ("half a body, then the end", |_| say_and(HALF_A_BODY, End::Close), Breaks("upstream_reset")),
    ("half a body, then a reset", |_| say_and(HALF_A_BODY, End::Reset), Breaks("upstream_reset")),
    ("half a body, then silence", |_| say_and(HALF_A_BODY, End::Hang), Breaks("upstream_timeout")),
    ("half a chunk, then the end", |_| say_and(HALF_A_CHUNK, End::Close), Breaks("upstream_reset")),
    ("half a chunk, then a reset", |_| say_and(HALF_A_CHUNK, End::Reset), Breaks("upstream_reset")),
    ("no last chunk, then the end", |_| say_and(NO_LAST_CHUNK, End::Close), Breaks("upstream_reset")),
    ("no last chunk, then silence", |_| say_and(NO_LAST_CHUNK, End::Hang), Breaks("upstream_timeout")),
    ("a chunk size that is none", |_| say_and(NO_SIZE, End::Hang), Breaks("upstream_protocol")),
    ("a chunk without an end", |_| say_and(NO_END, End::Hang), Breaks("upstream_protocol")),
    (
        "a body that comes byte by byte",
        |_| Act::Trickle(b"HTTP/1.1 200 OK\r\ncontent-length: 60\r\n\r\n".to_vec(), vec![b'x'; 60], ms(10)),
        FailsCollected("upstream_timeout"),
    ),
    (
        "a head that comes byte by byte",
        |_| Act::Trickle(Vec::new(), answer(200, &[("x", &"x".repeat(1000))], ""), ms(20)),
        Fails("upstream_timeout"),
    ),
    ("an SSH banner", |_| say_and(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", End::Hang), Fails("upstream_protocol")),
    ("bytes that are nothing", |_| say_and(b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03\r\n\r\n", End::Hang), Fails("upstream_protocol")),
    ("HTTP/0.9", |_| say_and(b"<p>hello</p>\r\n\r\n", End::Close), Fails("upstream_protocol")),
    ("HTTP/2.0", |_| say_and(b"HTTP/2.0 200 OK\r\ncontent-length: 0\r\n\r\n", End::Hang), Fails("upstream_protocol")),
    ("a header field of 1 MiB", |_| Act::Say(answer(200, &[("x", &"x".repeat(1 << 20))], "")), Fails("upstream_protocol")),
    ("5000 header fields", |_| Act::Say(answer(200, &[("x", "y"); 5000], "")), Fails("upstream_protocol")),
    ("a head without end", |_| Act::Pour(b"HTTP/1.1 200 OK\r\n".to_vec(), b"x-a: b\r\n".repeat(1000)), Fails("upstream_protocol")),
    ("two different lengths", |_| Act::Say(answer(200, &[("content-length", "3")], "hello")), Fails("upstream_protocol")),
    ("a length that is none", |_| Act::Say(b"HTTP/1.1 200 OK\r\ncontent-length: five\r\n\r\nhello".to_vec()), Fails("upstream_protocol")),
    ("a negative length", |_| Act::Say(b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\nhello".to_vec()), Fails("upstream_protocol")),
    (
        "a length beyond all numbers",
        |_| Act::Say(b"HTTP/1.1 200 OK\r\ncontent-length: 18446744073709551617\r\n\r\nx".to_vec()),
        Fails("upstream_protocol"),
    ),
    ("a length and chunks", |_| Act::Say(LENGTH_AND_CHUNKS.to_vec()), Fails("upstream_protocol")),
    ("an unasked 101", |_| say_and(SWITCH, End::Hang), Fails("upstream_protocol")),
    ("status 999", |_| Act::Say(answer(999, &[], "")), Fails("upstream_protocol")),
    ("status 099", |_| say_and(b"HTTP/1.1 099 -\r\ncontent-length: 0\r\n\r\n", End::Hang), Fails("upstream_protocol")),
    (
        "a thousand 103 and then 200",
        |_| Act::Say([b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n".repeat(1000), answer(200, &[], "after all")].concat()),
        Passes(200),
    ),
    ("a redirect to where nobody may go", |_| Act::Say(answer(302, &[("location", "http://169.254.169.254/")], "")), Passes(302)),
    ("a status nobody has heard of", |_| Act::Say(answer(299, &[], "fine")), Passes(299)),
    ("501, which no retry helps", |_| status(501), Passes(501)),
];

/// The last of the answers on a connection, or how it broke off.
fn outcome(way: Way, house: &House, service: &str) -> io::Result<crate::wire::Whole> {
    let mut wire = way.begin(house, "GET", service, "/");
    loop {
        let answer = wire.try_answer(false)?;
        if answer.status() >= 200 {
            return Ok(answer);
        }
    }
}

fn every_fault_gets_its_answer(way: Way) {
    let house = way.house(json!({
        "timeouts": {"connectMs": 200, "attemptMs": SHORT, "totalMs": 10 * SHORT, "idleBodyMs": SHORT}, "retry": {"maxRetries": 0}
    }));
    for (n, (what, act, seen)) in ROWS.iter().enumerate() {
        let service = format!("s{n}");
        let upstream = Upstream::start(*act);
        house.register(&service, "i", &upstream);
        let start = Instant::now();
        let outcome = outcome(way, &house, &service);
        let took = start.elapsed();
        let what = format!("{way:?}: {what}: {outcome:?}");
        assert!(took < ms(SHORT) + SLACK, "{what}: {took:?}");
        let failed = match (*seen, way, outcome) {
            (Passes(status), _, Ok(answer)) => {
                assert_eq!((answer.status(), answer.header("x-mesh-instance")), (status, Some("i")), "{what}");
                0
            }
            (FailsCollected(_), Way::Proxy, Ok(answer)) => {
                assert_eq!((answer.status(), answer.body.len()), (200, 60), "{what}");
                0
            }
            (Breaks(_), Way::Proxy, Err(error)) => {
                assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{what}");
                1
            }
            (Fails(reason) | Breaks(reason) | FailsCollected(reason), _, Ok(answer)) => {
                assert_eq!((answer.status(), answer.reason()), (way.status(reason), reason), "{what}");
                assert_eq!(answer.header("x-mesh-not-sent"), None, "{what}: it may have been processed");
                let body: Value = serde_json::from_slice(&answer.body).expect("JSON");
                assert_eq!((&body["attempts"], &body["instance"], &body["service"]), (&json!(1), &json!("i"), &json!(service)), "{what}");
                1
            }
            _ => panic!("{what}"),
        };
        let metrics = eventually("everything is given back", || {
            Some(house.metrics()).filter(|metrics| metrics["services"][&service]["inFlight"] == 0)
        });
        assert_eq!(metrics["circuitBreakers"][&service]["failureCount"], failed, "{what}");
    }
}

#[test]
fn every_fault_of_an_instance_gets_its_answer_through_proxy() {
    every_fault_gets_its_answer(Way::Proxy);
}

#[test]
fn every_fault_of_an_instance_gets_its_answer_through_invoke() {
    every_fault_gets_its_answer(Way::Invoke);
}

#[test]
fn every_fault_of_an_instance_gets_its_answer_through_invoke_on_workers() {
    every_fault_gets_its_answer(Way::Workers);
}

/// A port where nobody listens.
fn nobodys_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("an address").port()
}

#[test]
fn what_never_reached_an_instance_is_said_to_be_so() {
    for way in Way::ALL {
        let house = way.house(json!({"timeouts": {"connectMs": 200}, "retry": {"maxRetries": 0}}));
        house.register_at("refuses", "i", nobodys_port());
        let hole = BlackHole::new();
        house.register_at("swallows", "i", hole.at.port());
        let nowhere = json!({"name": "nowhere", "id": "i", "host": "x.invalid", "port": 80});
        house.post("/register", &nowhere).with_status(200);
        for (service, reason, least) in [
            ("refuses", "upstream_connect", 0),
            ("swallows", "upstream_connect", 150),
            ("nowhere", "no_healthy_instance", 0),
            ("nobody", "unknown_service", 0),
        ] {
            let start = Instant::now();
            let answer = way.fails(&house, "POST", service, reason);
            assert_eq!(answer.header("x-mesh-not-sent"), Some("true"), "{way:?}: {service}");
            assert!((ms(least)..ms(200) + SLACK).contains(&start.elapsed()), "{way:?}: {service}: {:?}", start.elapsed());
        }
    }
}

#[test]
fn when_all_instances_are_down_that_is_said_at_once() {
    for way in Way::ALL {
        let house = way.house(json!({"circuitBreaker": {"failureThreshold": 1}, "retry": {"maxRetries": 3, "baseDelayMs": 1}}));
        for id in ["a", "b"] {
            house.register_at("refuse", id, nobodys_port());
            let ill = json!({"name": "ill", "id": id, "host": "127.0.0.1", "port": nobodys_port(), "healthy": false});
            house.post("/register", &ill).with_status(200);
        }
        way.fails(&house, "POST", "refuse", "upstream_connect");
        for (service, reason) in [("refuse", "circuit_open"), ("ill", "no_healthy_instance")] {
            let quickest = (0..5).map(|_| {
                let start = Instant::now();
                let answer = way.fails(&house, "GET", service, reason);
                assert_eq!(answer.header("retry-after").is_some(), reason == "circuit_open");
                start.elapsed()
            });
            let quickest = quickest.min().expect("five times");
            assert!(quickest < ms(50), "{way:?}: {service}: {quickest:?}");
        }
    }
}

#[test]
fn a_full_service_refuses_at_once_and_says_when_to_come_again() {
    for way in Way::ALL {
        let house = way.house(json!({"limits": {"maxInFlight": 1, "maxQueue": 0}}));
        let stage = Stage::of(&house);
        let mut first = way.begin(&house, "GET", "s", "/");
        let mut instance = stage.accept();
        instance.head();
        let quickest = (0..5).map(|_| {
            let start = Instant::now();
            let answer = way.fails(&house, "GET", "s", "overloaded");
            assert_eq!((answer.header("retry-after"), answer.header("x-mesh-not-sent")), (Some("1"), Some("true")));
            start.elapsed()
        });
        let quickest = quickest.min().expect("five times");
        assert!(quickest < ms(50), "{way:?}: {quickest:?}");
        instance.send(answer(200, &[], "x"));
        assert_eq!(first.answer().with_status(200).text(), "x", "who was first is served");
    }
}

#[test]
fn a_post_that_was_read_is_delivered_once_whatever_becomes_of_it() {
    for way in Way::ALL {
        let house = way.house(json!({"retry": {"baseDelayMs": 1}}));
        for (n, act) in
            [|_: &Asked| say_and(b"", End::Reset), |_: &Asked| say_and(b"", End::Close), |_: &Asked| say_and(HALF_A_HEAD, End::Reset)]
                .into_iter()
                .enumerate()
        {
            let service = format!("s{n}");
            let upstream = Upstream::start(act);
            house.register(&service, "i", &upstream);
            way.fails(&house, "POST", &service, "upstream_reset");
            assert_eq!(upstream.requests(), 1, "{way:?}: {n}");
        }
    }
}

#[test]
fn a_whole_call_ends_at_its_deadline_whatever_the_schedule_says() {
    for way in Way::ALL {
        let house = way.house(json!({
            "timeouts": {"totalMs": 400, "attemptMs": 150}, "retry": {"maxRetries": 100, "baseDelayMs": 1, "maxDelayMs": 1}
        }));
        let upstream = Upstream::start(|_| say_and(b"", End::Hang));
        house.register("s", "i", &upstream);
        let start = Instant::now();
        way.fails(&house, "GET", "s", "deadline_exceeded");
        assert!((ms(350)..ms(400) + SLACK).contains(&start.elapsed()), "{way:?}: {:?}", start.elapsed());
        assert!((2..=4).contains(&upstream.requests()), "{way:?}: {}", upstream.requests());
    }
}

#[test]
fn a_storm_of_retries_is_bounded_by_the_budget() {
    const CALLS: usize = 300;
    for way in Way::ALL {
        let house = way.house(json!({"retry": {"baseDelayMs": 1, "maxDelayMs": 1}, "circuitBreaker": {"failureThreshold": 100_000}}));
        let upstream = Upstream::start(|_| status(503));
        house.register("s", "i", &upstream);
        let start = Instant::now();
        for _ in 0..CALLS {
            assert_eq!(way.call(&house, "GET", "s", "/").status(), 503);
        }
        let seconds = usize::try_from(start.elapsed().as_secs()).expect("not long") + 1;
        // A fifth of the calls, ten a second, and what had been saved up.
        let most = CALLS + CALLS / 5 + 10 * seconds + 100;
        assert!(upstream.requests() <= most, "{way:?}: {} requests for {CALLS} calls", upstream.requests());
        assert!(upstream.requests() > CALLS, "{way:?}: there were some");
    }
}

#[test]
fn an_instance_that_recovers_is_found_to_have_recovered() {
    for way in Way::ALL {
        let house = way.house(json!({
            "retry": {"maxRetries": 0}, "circuitBreaker": {"failureThreshold": 2, "timeoutMs": 200, "successThreshold": 2}
        }));
        let upstream = Upstream::start(|asked| if asked.nth <= 2 { say_and(HALF_A_HEAD, End::Reset) } else { ok("well") });
        house.register("s", "i", &upstream);
        for _ in 0..2 {
            way.fails(&house, "GET", "s", "upstream_reset");
        }
        way.fails(&house, "GET", "s", "circuit_open");
        eventually("it is tried again", || (way.call(&house, "GET", "s", "/").status() == 200).then_some(()));
        way.call(&house, "GET", "s", "/").with_status(200);
        assert_eq!(house.metrics()["circuitBreakers"]["s"]["status"], "CLOSED", "{way:?}");
    }
}
