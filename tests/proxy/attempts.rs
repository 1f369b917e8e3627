//! How often a request that is passed on is sent, to whom, and what the caller is told when nothing of it helps.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use weft::Mesh;
use weft::model::settings::Millis;
use weft::server::Config;

use crate::house::House;
use crate::support::client::{Answer, request};
use crate::support::upstream::{Act, End, Upstream, answer, ok, status};
use crate::support::{PATIENCE, eventually};
use crate::wire::{Stage, Wire, head};

/// A house where waits between attempts are short.
fn quick() -> House {
    House::with(json!({"retry": {"baseDelayMs": 1, "maxDelayMs": 2}}))
}

/// A port where nobody listens.
fn nobodys_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("an address").port()
}

fn attempts(answer: &Answer) -> Option<&str> {
    answer.header("x-mesh-attempts")
}

#[test]
fn the_last_answer_of_a_failing_instance_is_passed_on_as_it_is() {
    let house = quick();
    let upstream = Upstream::start(|asked| {
        let nth = asked.nth.to_string();
        Act::Say(answer(500, &[("X-Nth", &nth), ("Content-Type", "text/plain")], format!("sorry {nth}")))
    });
    house.register("s", "i", &upstream);
    let last = house.get("/proxy/s/").with_status(500);
    assert_eq!((last.header("x-nth"), last.text().as_str(), attempts(&last)), (Some("4"), "sorry 4", Some("4")));
    assert_eq!((last.header("x-mesh-reason"), last.header("x-mesh-instance")), (None, Some("i")));
    let numbers: Vec<String> = upstream.asked().iter().filter_map(|asked| asked.header("x-mesh-attempt").map(str::to_owned)).collect();
    assert_eq!(numbers, ["1", "2", "3", "4"]);
    let ids: Vec<Option<String>> = upstream.asked().iter().map(|asked| asked.header("x-request-id").map(str::to_owned)).collect();
    assert!(ids.windows(2).all(|two| two[0] == two[1]), "{ids:?}");
    assert_eq!(house.metrics()["circuitBreakers"]["s"]["failureCount"], 1, "one call");
}

#[test]
fn a_get_is_made_good_by_another_attempt_whatever_went_wrong() {
    for wrong in [status(500), status(503), Act::SayAnd(Vec::new(), End::Reset), Act::SayAnd(b"HTTP/1.1 2".to_vec(), End::Close)] {
        let house = quick();
        let script = move |nth: usize| match (&wrong, nth) {
            (_, 2..) => ok("good"),
            (Act::Say(bytes), _) => Act::Say(bytes.clone()),
            (Act::SayAnd(bytes, End::Reset), _) => Act::SayAnd(bytes.clone(), End::Reset),
            (Act::SayAnd(bytes, _), _) => Act::SayAnd(bytes.clone(), End::Close),
            _ => status(500),
        };
        let upstream = Upstream::start(move |asked| script(asked.nth));
        house.register("s", "i", &upstream);
        let good = house.get("/proxy/s/").with_status(200);
        assert_eq!((good.text().as_str(), attempts(&good), upstream.requests()), ("good", Some("2"), 2));
    }
}

#[test]
fn a_long_failing_answer_is_thrown_away_unread_and_the_next_one_passed_on() {
    let house = quick();
    let upstream = Upstream::start(|asked| if asked.nth == 1 { Act::Say(answer(503, &[], vec![b'x'; 4 << 20])) } else { ok("good") });
    house.register("s", "i", &upstream);
    assert_eq!(house.get("/proxy/s/").with_status(200).text(), "good");
}

#[test]
fn an_instance_that_answers_before_it_has_read_the_request_gets_no_other_on_that_connection() {
    // So much takes its time on a machine that has other things to do.
    let patience = json!({"timeouts": {"totalMs": 60_000, "attemptMs": 60_000}, "retry": {"baseDelayMs": 1, "maxDelayMs": 2}});
    let config = Config { max_body_bytes: 32 << 20, body_timeout_ms: Millis(60_000), ..Config::default() };
    let house = House::of(Mesh::builder().defaults(patience), config);
    let stage = Stage::of(&house);
    let mut client = Wire::to(&house);
    // More than the system takes in for somebody who reads nothing.
    let call = json!({"serviceName": "s", "endpoint": "/", "method": "PUT", "body": "x".repeat(16 << 20)}).to_string();
    client.send(request("POST", "/invoke", &[], call.as_bytes()));
    let mut first = stage.accept();
    assert_eq!(first.head().first, "PUT / HTTP/1.1");
    first.send(answer(503, &[], "busy"));
    let mut second = stage.accept();
    let (head, body) = second.request();
    assert_eq!((head.one("x-mesh-attempt"), body.len()), (Some("2"), 16 << 20));
    second.send(answer(200, &[], "good"));
    assert_eq!(client.answer().with_status(200).text(), "good");
}

#[test]
fn an_instance_that_never_stops_announcing_its_answer_holds_up_nobody_else() {
    let house = House::on_one_loop(json!({"timeouts": {"attemptMs": 200}, "retry": {"maxRetries": 0}}));
    let stage = Stage::of(&house);
    let mut client = Wire::to(&house);
    client.send(head("GET /proxy/s/", &[]));
    let mut instance = stage.accept();
    instance.head();
    let endless = "HTTP/1.1 100 Continue\r\n\r\n".repeat(10_000);
    std::thread::scope(|scope| {
        scope.spawn(move || while instance.try_send(&endless).is_ok() {});
        house.get("/health").with_status(200);
        assert_eq!(client.answer().with_status(504).reason(), "upstream_timeout");
    });
}

#[test]
fn a_post_that_was_read_and_then_dropped_is_delivered_exactly_once() {
    for reset in [true, false] {
        let house = quick();
        let upstream = Upstream::start(move |_| Act::SayAnd(Vec::new(), if reset { End::Reset } else { End::Close }));
        house.register("s", "i", &upstream);
        let answer = house.ask("POST", "/proxy/s/pay", &[], b"42").with_status(502);
        assert_eq!((answer.reason().as_str(), upstream.requests()), ("upstream_reset", 1), "by a reset: {reset}");
        assert_eq!(upstream.asked_once().body, b"42");
        assert!(answer.json()["retrySkipped"].as_str().is_some_and(|why| why.starts_with("POST ")), "{}", answer.text());
        assert_eq!(answer.header("x-mesh-not-sent"), None, "it may have been processed");
    }
}

#[test]
fn a_post_with_an_idempotency_key_may_be_sent_again_with_its_body() {
    let house = quick();
    let upstream = Upstream::start(|asked| if asked.nth == 1 { Act::SayAnd(Vec::new(), End::Reset) } else { ok("paid") });
    house.register("s", "i", &upstream);
    let answer = house.ask("POST", "/proxy/s/pay", &[("Idempotency-Key", "k")], b"42").with_status(200);
    assert_eq!((answer.text().as_str(), attempts(&answer)), ("paid", Some("2")));
    assert!(upstream.asked().iter().all(|asked| asked.body == b"42"));
}

#[test]
fn a_body_up_to_64_kib_is_sent_again_and_a_longer_one_that_has_gone_is_not() {
    for (length, chunked, again) in [
        (1, false, true),
        (65_536, false, true),
        (65_537, false, false),
        (1 << 20, false, false),
        (60_000, true, true),
        (100_000, true, false),
    ] {
        let house = quick();
        let upstream = Upstream::start(|asked| if asked.nth == 1 { status(503) } else { ok("good") });
        house.register("s", "i", &upstream);
        let body: Vec<u8> = (0..length).map(|n| b'a' + u8::try_from(n % 26).expect("small")).collect();
        let answer = if chunked {
            let chunks: Vec<u8> =
                body.chunks(10_000).flat_map(|data| [format!("{:x}\r\n", data.len()).as_bytes(), data, b"\r\n"].concat()).collect();
            house.ask("PUT", "/proxy/s/", &[("transfer-encoding", "chunked")], &[&chunks[..], b"0\r\n\r\n"].concat())
        } else {
            house.ask("PUT", "/proxy/s/", &[], &body)
        };
        let (status, requests) = if again { (200, 2) } else { (503, 1) };
        assert_eq!((answer.status, upstream.requests()), (status, requests), "{length} bytes, chunked: {chunked}");
        for asked in upstream.asked() {
            assert!(asked.body == body, "{length}: {} bytes arrived", asked.body.len());
        }
    }
}

#[test]
fn what_has_come_of_a_body_goes_to_the_next_instance_and_then_the_rest() {
    let house = quick();
    let stage = Stage::of(&house);
    let mut client = Wire::to(&house);
    client.send(head("PUT /proxy/s/", &["Transfer-Encoding: chunked"]) + "5\r\nfirst\r\n");
    let mut instance = stage.accept();
    instance.head();
    assert_eq!(instance.chunk(), "first");
    instance.reset();
    let mut instance = stage.accept();
    let again = instance.head();
    assert_eq!((again.one("x-mesh-attempt"), instance.chunk().as_str()), (Some("2"), "first"));
    client.send("4\r\nlast\r\n0\r\n\r\n");
    assert_eq!((instance.chunk().as_str(), instance.chunk().as_str()), ("last", ""));
    instance.send(answer(200, &[], "whole"));
    assert_eq!(client.answer().with_status(200).text(), "whole");
}

#[test]
fn a_refused_connection_moves_on_to_the_other_instance_for_every_method() {
    let house = House::with(json!({"retry": {"baseDelayMs": 60_000, "maxDelayMs": 60_000}}));
    house.register_at("s", "gone", nobodys_port());
    let good = Upstream::named("good");
    house.register("s", "good", &good);
    let start = Instant::now();
    for method in ["GET", "POST", "PATCH", "PUT", "DELETE", "PROPFIND"] {
        for _ in 0..2 {
            let answer = house.ask(method, "/proxy/s/", &[], b"x").with_status(200);
            assert_eq!(answer.header("x-mesh-instance"), Some("good"), "{method}");
        }
    }
    assert!(start.elapsed() < PATIENCE, "without the wait of the schedule");
    assert!(good.asked().iter().all(|asked| asked.body == b"x"));
}

#[test]
fn a_large_body_moves_on_as_well_when_nothing_of_it_has_gone() {
    let house = quick();
    house.register_at("s", "gone", nobodys_port());
    let good = Upstream::named("good");
    house.register("s", "good", &good);
    for _ in 0..2 {
        house.ask("POST", "/proxy/s/", &[], &vec![b'x'; 1 << 20]).with_status(200);
    }
    assert!(good.asked().iter().all(|asked| asked.body.len() == 1 << 20));
}

#[test]
fn a_connection_closed_under_a_request_costs_a_get_nothing_and_a_post_is_not_sent_twice() {
    for method in ["GET", "POST"] {
        let house = House::new();
        let upstream = Upstream::start(|asked| if asked.nth == 2 { Act::SayAnd(Vec::new(), End::Close) } else { ok("x") });
        house.register("s", "i", &upstream);
        let mut client = house.client();
        client.ask("GET", "/proxy/s/", &[], b"").expect("answered").with_status(200);
        let answer = client.ask(method, "/proxy/s/", &[], b"").expect("answered");
        let expected = if method == "GET" { (200, 3) } else { (502, 2) };
        assert_eq!((answer.status, upstream.requests()), expected, "{method}: {}", answer.text());
        let metrics = house.metrics();
        assert_eq!(metrics["circuitBreakers"]["s"]["failureCount"], 0, "nobody's fault");
    }
}

#[test]
fn a_caller_that_is_itself_a_retry_gets_one_attempt() {
    let house = quick();
    let upstream = Upstream::start(|_| status(500));
    house.register("s", "i", &upstream);
    let answer = house.ask("GET", "/proxy/s/", &[("x-mesh-attempt", "2")], b"").with_status(500);
    assert_eq!((attempts(&answer), upstream.requests()), (Some("1"), 1));
}

#[test]
fn a_connection_is_kept_no_longer_than_the_instance_says() {
    let house = House::new();
    let upstream = Upstream::start(|_| Act::Say(answer(200, &[("Connection", "keep-alive"), ("Keep-Alive", "timeout=1, max=5")], "x")));
    house.register("s", "i", &upstream);
    house.get("/proxy/s/").with_status(200);
    let start = Instant::now();
    upstream.hung_up();
    assert!((Duration::from_millis(800)..Duration::from_millis(3500)).contains(&start.elapsed()), "{:?}", start.elapsed());
}

#[test]
fn a_caller_without_time_gets_no_attempt() {
    let house = House::new();
    let upstream = Upstream::named("x");
    house.register("s", "i", &upstream);
    let answer = house.ask("GET", "/proxy/s/", &[("x-request-timeout-ms", "0")], b"").with_status(504);
    assert_eq!((answer.reason().as_str(), answer.header("x-mesh-not-sent"), upstream.requests()), ("deadline_exceeded", Some("true"), 0));
}

/// Status and reason of a refusal, and that it came at once and from here.
#[track_caller]
fn refusal(house: &House, target: &str) -> (u16, String, Answer) {
    let start = Instant::now();
    let answer = house.get(target);
    assert!(start.elapsed() < Duration::from_secs(2), "at once, not after {:?}", start.elapsed());
    (answer.status, answer.reason(), answer)
}

#[test]
fn what_the_mesh_itself_refuses_says_why() {
    let house = House::with(json!({"circuitBreaker": {"failureThreshold": 1}, "retry": {"maxRetries": 0}}));
    let (status, reason, answer) = refusal(&house, "/proxy/nobody/");
    assert_eq!((status, reason.as_str(), answer.header("x-mesh-not-sent")), (503, "unknown_service", Some("true")));

    house.register_at("refuses", "i", nobodys_port());
    let (status, reason, answer) = refusal(&house, "/proxy/refuses/");
    assert_eq!((status, reason.as_str(), answer.header("x-mesh-not-sent")), (503, "upstream_connect", Some("true")));
    let (status, reason, answer) = refusal(&house, "/proxy/refuses/");
    assert_eq!((status, reason.as_str(), answer.header("x-mesh-not-sent")), (503, "circuit_open", Some("true")));
    assert!(answer.header("retry-after").and_then(|seconds| seconds.parse().ok()).is_some_and(|seconds: u64| (1..=60).contains(&seconds)));

    let registration = json!({"name": "ill", "id": "i", "host": "127.0.0.1", "port": nobodys_port(), "healthy": false});
    house.post("/register", &registration).with_status(200);
    let (status, reason, answer) = refusal(&house, "/proxy/ill/");
    assert_eq!((status, reason.as_str(), answer.header("x-mesh-not-sent")), (503, "no_healthy_instance", Some("true")));
    assert_eq!(answer.json()["service"], "ill");
}

/// Calls of a service that are under way.
fn under_way(house: &House, field: &str) -> Value {
    house.metrics()["services"]["s"][field].clone()
}

#[test]
fn a_full_service_queues_and_then_refuses_at_once() {
    let house = House::with(json!({"limits": {"maxInFlight": 1, "maxQueue": 1, "queueTimeoutMs": 10_000}}));
    let stage = Stage::of(&house);
    let mut clients: Vec<Wire> = (0..2).map(|_| Wire::to(&house)).collect();
    clients[0].send(head("GET /proxy/s/first", &[]));
    let mut instance = stage.accept();
    assert_eq!(instance.head().first, "GET /first HTTP/1.1");
    clients[1].send(head("GET /proxy/s/second", &[]));
    eventually("the second one waits", || (under_way(&house, "queued") == 1).then_some(()));
    let (status, reason, answer) = refusal(&house, "/proxy/s/third");
    assert_eq!((status, reason.as_str(), answer.header("retry-after")), (503, "overloaded", Some("1")));
    instance.send(answer_of("1"));
    assert_eq!(clients[0].answer().text(), "1");
    // On a connection of its own when the two clients live in different loops.
    let mut instance = next(&stage, instance);
    assert_eq!(instance.head().first, "GET /second HTTP/1.1");
    instance.send(answer_of("2"));
    assert_eq!(clients[1].answer().text(), "2");
}

fn answer_of(text: &str) -> Vec<u8> {
    answer(200, &[], text)
}

/// The connection the next request comes on: this one, or a new one.
fn next(stage: &Stage, mut instance: Wire) -> Wire {
    eventually("the next request comes", || {
        if !instance.is_silent() {
            return Some(None);
        }
        stage.try_accept().map(Some)
    })
    .unwrap_or(instance)
}
