//! Kept-alive connections that the upstream has closed meanwhile: nobody's fault, and nothing may be sent twice because of one.

use serde_json::{Value, json};

use crate::house::House;
use crate::support::eventually;
use crate::support::upstream::{Act, End, Upstream, answer, ok};

/// Nothing was counted against anybody.
#[track_caller]
fn assert_no_fault(house: &House) {
    let metrics = house.metrics();
    assert_eq!(metrics["circuitBreakers"]["s"], json!({"status": "CLOSED", "failureCount": 0, "successCount": 0}));
    let instance = &metrics["services"]["s"]["instances"]["i"];
    assert_eq!((&instance["failures"], &instance["ejected"]), (&json!(0), &json!(false)));
    assert_eq!(house.instance("s", "i")["failureCount"], 0);
}

fn post() -> Value {
    json!({"serviceName": "s", "endpoint": "/", "method": "POST", "body": {"amount": 1}})
}

#[test]
fn an_upstream_that_closes_after_each_answer_and_says_so_is_an_ordinary_one() {
    let house = House::on_one_loop(json!({}));
    let upstream = Upstream::start(|_| Act::SayAnd(answer(200, &[("connection", "close")], "x"), End::Close));
    house.register("s", "i", &upstream);
    for _ in 0..20 {
        house.call("s", "/").with_status(200);
        house.invoke(&post()).with_status(200);
    }
    assert_eq!((upstream.requests(), upstream.connections()), (40, 40), "each once");
    assert_no_fault(&house);
    assert_eq!(house.metrics()["services"]["s"]["retries"], 0, "it costs no retry");
}

#[test]
fn one_that_closes_without_a_word_costs_a_get_nothing_and_a_post_nothing_once_it_has_closed() {
    let house = House::on_one_loop(json!({}));
    let upstream = Upstream::start(|_| Act::SayAnd(answer(200, &[], "x"), End::Close));
    house.register("s", "i", &upstream);
    for _ in 0..20 {
        // The end may come before, under, or after the next request.
        house.call("s", "/").with_status(200);
    }
    for _ in 0..20 {
        upstream.hung_up();
        house.invoke(&post()).with_status(200);
    }
    assert_eq!(upstream.requests(), 40, "each once");
    assert_no_fault(&house);
    assert_eq!(house.metrics()["services"]["s"]["retries"], 0, "it costs no retry");
}

#[test]
fn a_connection_closed_while_idle_is_not_used() {
    let house = House::on_one_loop(json!({}));
    let upstream = Upstream::named("x");
    house.register("s", "i", &upstream);
    for call in [json!({"serviceName": "s", "endpoint": "/"}), post()] {
        house.invoke(&call).with_status(200);
        upstream.close_connections();
        let answer = house.invoke(&call).with_status(200);
        assert_eq!(answer.header("x-mesh-attempts"), Some("1"));
    }
    assert_eq!(upstream.requests(), 4);
    assert_no_fault(&house);
}

#[test]
fn a_connection_closed_under_a_request_costs_a_get_nothing_but_a_second_try() {
    for end in ["close", "reset"] {
        let house = House::on_one_loop(json!({}));
        // Takes one request per connection and drops the next one unanswered.
        let upstream = Upstream::start(move |asked| match (asked.nth, end) {
            (2, "close") => Act::SayAnd(Vec::new(), End::Close),
            (2, _) => Act::SayAnd(Vec::new(), End::Reset),
            _ => ok("x"),
        });
        house.register("s", "i", &upstream);
        house.call("s", "/").with_status(200);
        let answer = house.call("s", "/").with_status(200);
        assert_eq!(answer.text(), "x");
        let asked: Vec<usize> = upstream.asked().iter().map(|asked| asked.connection).collect();
        assert_eq!(asked, [1, 1, 2], "{end}: the second try is on a new connection");
        assert_no_fault(&house);
    }
}

#[test]
fn a_connection_closed_under_a_post_is_said_and_nothing_is_sent_twice() {
    for end in ["close", "reset"] {
        let house = House::on_one_loop(json!({}));
        let upstream = Upstream::start(move |asked| match (asked.nth, end) {
            (1, _) => ok("x"),
            (_, "close") => Act::SayAnd(Vec::new(), End::Close),
            _ => Act::SayAnd(Vec::new(), End::Reset),
        });
        house.register("s", "i", &upstream);
        house.call("s", "/").with_status(200);
        let answer = house.invoke(&post()).with_status(503);
        assert_eq!((answer.reason().as_str(), upstream.requests()), ("upstream_reset", 2), "{end}");
        assert!(answer.json()["retrySkipped"].as_str().is_some_and(|why| why.starts_with("POST ")), "{}", answer.text());
        assert_eq!(answer.header("x-mesh-not-sent"), None, "it may have been processed");
        assert_no_fault(&house);
    }
}

#[test]
fn a_second_stale_connection_is_not_met() {
    let house = House::on_one_loop(json!({}));
    // Several idle connections, all of which will drop the next request they get.
    let upstream = Upstream::start(|asked| match &*asked.target {
        "/held" => Act::Held(answer(200, &[], "")),
        "/after" if asked.connection <= 4 => Act::SayAnd(Vec::new(), End::Close),
        _ => ok("x"),
    });
    house.register("s", "i", &upstream);
    std::thread::scope(|scope| {
        for n in 1..=4 {
            scope.spawn(|| house.call("s", "/held").with_status(200));
            eventually("the call is under way", || (upstream.requests() == n).then_some(()));
        }
        upstream.release();
    });
    assert_eq!(upstream.connections(), 4);
    for n in 1..=4 {
        house.call("s", "/after").with_status(200);
        let requests = upstream.asked().iter().filter(|asked| asked.target == "/after").count();
        assert!(requests <= 2 * n, "one stale connection per call, not all of them: {requests}");
    }
    assert_no_fault(&house);
}

#[test]
fn bytes_nobody_asked_for_make_a_connection_unfit() {
    let house = House::on_one_loop(json!({}));
    // An answer and, on its heels, one to a request that was never sent.
    let twice = [answer(200, &[], "first"), answer(200, &[], "poison")].concat();
    let upstream = Upstream::start(move |_| Act::Say(twice.clone()));
    house.register("s", "i", &upstream);
    for _ in 0..5 {
        assert_eq!(house.call("s", "/").with_status(200).text(), "first");
    }
    assert_eq!(upstream.requests(), 5);
}
