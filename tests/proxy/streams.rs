//! Bodies that stream, in both directions: what comes goes on at once, as fast as it is taken and no faster, and what breaks is seen to break.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::house::House;
use crate::support::upstream::{Act, Upstream, answer};
use crate::support::{PATIENCE, eventually};
use crate::wire::{Ended, Stage, Wire, head};

/// More than the system holds between two ends of a connection, however it is tuned.
const ENOUGH: usize = 64 << 20;

/// Nothing is under way any more.
#[track_caller]
fn all_is_given_back(house: &House) {
    eventually("the slots are given back", || {
        let service = house.metrics()["services"]["s"].clone();
        (service["inFlight"] == 0 && service["instances"]["i"]["inFlight"] == 0).then_some(())
    });
}

#[test]
fn each_event_arrives_before_the_next_one_is_sent() {
    for chunked in [true, false] {
        let house = House::new();
        let stage = Stage::of(&house);
        let mut client = Wire::to(&house);
        client.send(head("GET /proxy/s/events", &["Accept: text/event-stream"]));
        let mut instance = stage.accept();
        instance.head();
        let coding = if chunked { "Transfer-Encoding: chunked\r\n" } else { "" };
        instance.send(format!("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n{coding}\r\n"));
        let begun = client.head();
        assert_eq!((begun.status(), begun.one("transfer-encoding")), (200, chunked.then_some("chunked")));
        for n in 0..20 {
            let event = format!("data: {n}\n\n");
            if chunked {
                instance.send(format!("{:x}\r\n{event}\r\n", event.len()));
                assert_eq!(client.chunk(), event);
            } else {
                instance.send(&event);
                client.expect(&event);
            }
        }
        if chunked {
            instance.send("0\r\n\r\n");
            assert_eq!(client.chunk(), "");
        }
        drop(instance);
        all_is_given_back(&house);
    }
}

#[test]
fn an_upload_is_passed_on_while_it_is_being_sent() {
    for chunked in [true, false] {
        let house = House::new();
        let stage = Stage::of(&house);
        let mut client = Wire::to(&house);
        let part = "x".repeat(10_000);
        let framing = if chunked { "Transfer-Encoding: chunked".to_owned() } else { format!("Content-Length: {}", 10 * part.len()) };
        client.send(head("POST /proxy/s/up", &[&framing]));
        let mut instance = None;
        for _ in 0..10 {
            client.send(if chunked { format!("{:x}\r\n{part}\r\n", part.len()) } else { part.clone() });
            let instance = instance.get_or_insert_with(|| {
                let mut instance = stage.accept();
                assert_eq!(instance.head().first, "POST /up HTTP/1.1");
                instance
            });
            let arrived = if chunked { instance.chunk() } else { String::from_utf8(instance.take(part.len())).expect("text") };
            assert!(arrived == part);
        }
        let mut instance = instance.expect("a connection");
        if chunked {
            client.send("0\r\n\r\n");
            assert_eq!(instance.chunk(), "");
        }
        instance.send(answer(201, &[], "stored"));
        assert_eq!(client.answer().with_status(201).text(), "stored");
        all_is_given_back(&house);
    }
}

#[test]
fn an_instance_may_answer_while_it_is_still_being_told() {
    let house = House::new();
    let stage = Stage::of(&house);
    let mut client = Wire::to(&house);
    client.send(head("POST /proxy/s/echo", &["Transfer-Encoding: chunked"]));
    let mut instance = stage.accept();
    instance.head();
    instance.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    assert_eq!(client.head().status(), 200);
    for word in ["there", "and", "back"] {
        let chunk = format!("{:x}\r\n{word}\r\n", word.len());
        client.send(&chunk);
        assert_eq!(instance.chunk(), word);
        instance.send(&chunk);
        assert_eq!(client.chunk(), word);
    }
    client.send("0\r\n\r\n");
    assert_eq!(instance.chunk(), "");
    instance.send("0\r\n\r\n");
    assert_eq!(client.chunk(), "");
}

#[test]
fn a_client_that_waits_to_be_told_to_go_on_is_told() {
    for (fields, body) in [
        (["Expect: 100-continue", "Content-Length: 5"], "hello".to_owned()),
        (["Expect: 100-continue", "Content-Length: 100000"], "x".repeat(100_000)),
        (["Expect: 100-continue", "Transfer-Encoding: chunked"], "5\r\nhello\r\n0\r\n\r\n".to_owned()),
    ] {
        let house = House::new();
        let upstream = Upstream::named("thanks");
        house.register("s", "i", &upstream);
        let mut client = Wire::to(&house);
        client.send(head("POST /proxy/s/", &fields));
        assert_eq!(client.head().first, "HTTP/1.1 100 Continue", "{fields:?}");
        client.send(body);
        assert_eq!(client.answer().with_status(200).text(), "thanks");
        assert_eq!(upstream.asked_once().header("expect"), None);
    }
}

#[test]
fn a_client_that_waits_to_be_told_is_not_told_when_there_is_nobody_to_take_it() {
    let house = House::new();
    let mut client = Wire::to(&house);
    client.send(head("POST /proxy/nobody/", &["Expect: 100-continue", "Content-Length: 100000"]));
    assert_eq!(client.answer().with_status(503).reason(), "unknown_service");
}

#[test]
fn an_early_answer_arrives_although_much_is_still_to_be_sent() {
    for keeps_reading in [true, false] {
        let house = House::new();
        let stage = Stage::of(&house);
        let mut client = Wire::to(&house);
        client.send(head("POST /proxy/s/up", &[&format!("Content-Length: {ENOUGH}")]));
        client.send(vec![b'x'; 200_000]);
        let mut instance = stage.accept();
        instance.head();
        instance.take(1000);
        instance.send(answer(413, &[("Connection", "close")], "too much"));
        if keeps_reading {
            instance.finish();
        } else {
            // With unread bytes: the system resets the connection.
            drop(instance);
        }
        // Goes on sending, as a client does that reads only when it has sent everything, until nobody takes it any more.
        let piece = vec![b'x'; 1 << 20];
        let mut sent = 0;
        while sent < ENOUGH && client.try_send(&piece).is_ok() {
            sent += piece.len();
        }
        let answer = client.answer();
        assert_eq!((answer.status(), answer.text().as_str()), (413, "too much"), "keeps reading: {keeps_reading}");
        all_is_given_back(&house);
    }
}

#[test]
fn a_client_that_goes_away_ends_the_connection_to_the_instance() {
    let house = House::new();
    let upstream = Upstream::start(|_| Act::Pour(b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), vec![b'x'; 1 << 16]));
    house.register("s", "i", &upstream);
    let mut client = Wire::to(&house);
    client.send(head("GET /proxy/s/", &[]));
    assert_eq!(client.head().status(), 200);
    client.take(1 << 20);
    drop(client);
    upstream.hung_up();
    all_is_given_back(&house);
}

#[test]
fn a_client_that_goes_away_while_nothing_comes_is_noticed() {
    for (begun, by_reset) in [(true, true), (false, true)] {
        let house = House::new();
        let stage = Stage::of(&house);
        let mut client = Wire::to(&house);
        client.send(head("GET /proxy/s/", &[]));
        let mut instance = stage.accept();
        instance.head();
        if begun {
            instance.send("HTTP/1.1 200 OK\r\n\r\nx");
            client.head();
        }
        if by_reset {
            client.reset();
        } else {
            drop(client);
        }
        instance.end();
        all_is_given_back(&house);
    }
}

#[test]
fn a_client_that_goes_away_in_the_middle_of_its_body_leaves_no_request_behind() {
    let house = House::new();
    let stage = Stage::of(&house);
    let mut client = Wire::to(&house);
    client.send(head("POST /proxy/s/", &["Content-Length: 100000"]) + "half of it");
    let mut instance = stage.accept();
    instance.head();
    instance.expect("half of it");
    drop(client);
    assert_eq!(instance.end(), (Ended::Reset, 0), "not an end that could be taken for the end of the body");
    all_is_given_back(&house);
    let metrics = house.metrics();
    assert_eq!(metrics["circuitBreakers"]["s"]["failureCount"], 0, "not the instance's fault");
}

#[test]
fn an_instance_is_held_up_by_a_client_that_does_not_read() {
    let house = House::new();
    let stage = Stage::of(&house);
    let mut client = Wire::to(&house);
    client.send(head("GET /proxy/s/", &[]));
    let mut instance = stage.accept();
    instance.head();
    instance.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {ENOUGH}\r\n\r\n"));
    let sent = until_it_blocks(&mut instance);
    assert!(sent < ENOUGH / 2, "{sent} bytes were taken in for nobody");
    let metrics = house.metrics();
    assert_eq!(metrics["services"]["s"]["inFlight"], 1, "it goes on");
    // The client reads after all, and everything arrives.
    client.head();
    std::thread::scope(|scope| {
        scope.spawn(|| instance.pour(sent, ENOUGH));
        client.drain(ENOUGH);
    });
    all_is_given_back(&house);
}

#[test]
fn a_client_is_held_up_by_an_instance_that_does_not_read() {
    let house = House::new();
    let stage = Stage::of(&house);
    let mut client = Wire::to(&house);
    client.send(head("POST /proxy/s/", &[&format!("Content-Length: {ENOUGH}")]));
    let mut instance = stage.accept();
    instance.head();
    let sent = until_it_blocks(&mut client);
    assert!(sent < ENOUGH / 2, "{sent} bytes were taken in for nobody");
    std::thread::scope(|scope| {
        scope.spawn(|| client.pour(sent, ENOUGH));
        instance.drain(ENOUGH);
        instance.send(answer(200, &[], "whole"));
    });
    assert_eq!(client.answer().with_status(200).text(), "whole");
}

/// Sends until nothing has been taken for a while, at most half of enough; says how much was.
fn until_it_blocks(wire: &mut Wire) -> usize {
    let (mut sent, mut last) = (0, Instant::now());
    while last.elapsed() < Duration::from_millis(150) && sent < ENOUGH / 2 {
        match wire.pour_what_fits(sent) {
            0 => std::thread::park_timeout(Duration::from_millis(2)),
            more => (sent, last) = (sent + more, Instant::now()),
        }
    }
    sent
}

#[test]
fn a_stalled_stream_is_cut_by_a_reset_so_that_nobody_takes_it_for_whole() {
    for (framing, begun) in [("Content-Length: 100", "half"), ("Transfer-Encoding: chunked", "4\r\nhalf\r\n"), ("X-Until: close", "half")] {
        let house = House::with(json!({"timeouts": {"idleBodyMs": 200}}));
        let stage = Stage::of(&house);
        let mut client = Wire::to(&house);
        client.send(head("GET /proxy/s/", &[]));
        let mut instance = stage.accept();
        instance.head();
        instance.send(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n{begun}"));
        client.head();
        let start = Instant::now();
        client.expect(begun);
        assert_eq!(client.end(), (Ended::Reset, 0), "{framing}");
        assert!((Duration::from_millis(150)..PATIENCE / 2).contains(&start.elapsed()), "{framing}: {:?}", start.elapsed());
        instance.end();
        all_is_given_back(&house);
        assert_eq!(house.metrics()["circuitBreakers"]["s"]["failureCount"], 1);
    }
}

#[test]
fn a_stream_that_breaks_off_is_cut_by_a_reset() {
    for (framing, begun) in [("Content-Length: 100", "half"), ("Transfer-Encoding: chunked", "4\r\nhalf\r\n")] {
        for by_reset in [true, false] {
            let house = House::new();
            let stage = Stage::of(&house);
            let mut client = Wire::to(&house);
            client.send(head("GET /proxy/s/", &[]));
            let mut instance = stage.accept();
            instance.head();
            instance.send(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n{begun}"));
            client.head();
            client.expect(begun);
            if by_reset {
                instance.reset();
            } else {
                drop(instance);
            }
            assert_eq!(client.end(), (Ended::Reset, 0), "{framing}");
            all_is_given_back(&house);
        }
    }
}

#[test]
fn a_slow_stream_that_never_stalls_is_left_alone() {
    let house = House::with(json!({"timeouts": {"idleBodyMs": 300, "attemptMs": 300, "totalMs": 300}}));
    let body = "slowly".repeat(8);
    let head_first = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    let text = body.clone();
    let upstream = Upstream::start(move |_| Act::Trickle(head_first.clone().into(), text.clone().into(), Duration::from_millis(15)));
    house.register("s", "i", &upstream);
    let start = Instant::now();
    assert_eq!(house.get("/proxy/s/").with_status(200).text(), body);
    assert!(start.elapsed() > Duration::from_millis(500), "longer than any of the limits: {:?}", start.elapsed());
}

#[test]
fn an_upload_may_take_longer_than_an_attempt_as_long_as_it_goes_on() {
    let house = House::with(json!({"timeouts": {"attemptMs": 300, "totalMs": 400, "idleBodyMs": 2000}}));
    let stage = Stage::of(&house);
    let mut client = Wire::to(&house);
    let start = Instant::now();
    client.send(head("POST /proxy/s/up", &["Transfer-Encoding: chunked"]));
    let mut instance = stage.accept();
    instance.head();
    while start.elapsed() < Duration::from_millis(800) {
        client.send("1\r\nx\r\n");
        assert_eq!(instance.chunk(), "x");
        std::thread::park_timeout(Duration::from_millis(5));
    }
    client.send("0\r\n\r\n");
    assert_eq!(instance.chunk(), "");
    instance.send(answer(201, &[], "stored"));
    assert_eq!(client.answer().with_status(201).text(), "stored");
}

#[test]
fn an_upload_that_its_caller_limited_ends_at_that_limit() {
    let house = House::new();
    let stage = Stage::of(&house);
    let mut client = Wire::to(&house);
    let start = Instant::now();
    client.send(head("POST /proxy/s/up", &["Transfer-Encoding: chunked", "X-Request-Timeout-Ms: 300"]));
    let mut instance = stage.accept();
    instance.head();
    while client.is_silent() && start.elapsed() < PATIENCE {
        client.send("1\r\nx\r\n");
        std::thread::park_timeout(Duration::from_millis(5));
    }
    assert!(start.elapsed() < PATIENCE / 2, "{:?}", start.elapsed());
    client.answer().with_status(408);
    instance.end();
}

#[test]
fn an_instance_that_does_not_answer_an_upload_has_the_time_of_an_attempt_from_its_end() {
    let house = House::with(json!({"timeouts": {"attemptMs": 300}, "retry": {"maxRetries": 0}}));
    let stage = Stage::of(&house);
    let mut client = Wire::to(&house);
    client.send(head("POST /proxy/s/up", &["Transfer-Encoding: chunked"]) + "1\r\nx\r\n0\r\n\r\n");
    let mut instance = stage.accept();
    instance.head();
    let start = Instant::now();
    assert_eq!(client.answer().with_status(504).reason(), "upstream_timeout");
    assert!(start.elapsed() < PATIENCE / 2, "{:?}", start.elapsed());
}
