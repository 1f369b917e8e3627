//! `GET /traces`: which calls are kept, and what is shown of them.

use std::time::Duration;

use serde_json::{Value, json};
use weft::Mesh;
use weft::model::settings::Millis;
use weft::server::Config;
use weft::telemetry::onlookers;

use crate::house::{House, keys};
use crate::support::eventually;
use crate::support::upstream::{Act, End, Upstream, answer, ok, status};

fn traces(house: &House, query: &str) -> Vec<Value> {
    let page = house.get(&format!("/traces{query}")).with_status(200).json();
    page["traces"].as_array().expect("traces").clone()
}

#[test]
fn a_call_that_failed_is_kept_with_its_attempts_and_a_plain_one_is_not() {
    let house = House::with(json!({"retry": {"maxRetries": 1, "baseDelayMs": 20}}));
    let good = Upstream::start(|_| ok("fine"));
    house.register("good", "a", &good);
    house.call("good", "/").with_status(200);
    let empty = house.get("/traces").with_status(200).json();
    assert_eq!(empty, json!({"kept": 0, "dropped": 0, "traces": []}));

    let bad = Upstream::start(|_| status(500));
    house.register("bad", "b", &bad);
    let call = json!({"serviceName": "bad", "endpoint": "/x/y?token=secret", "method": "GET"});
    house.ask("POST", "/invoke", &[("x-request-id", "mine-1")], call.to_string().as_bytes()).with_status(503);
    let all = traces(&house, "");
    assert_eq!(all.len(), 1, "{all:?}");
    let trace = &all[0];
    for (key, value) in [
        ("requestId", json!("mine-1")),
        ("service", json!("bad")),
        ("method", json!("GET")),
        ("path", json!("/x/y")),
        ("status", json!(503)),
        ("reason", json!("upstream_status")),
        ("sampled", json!(false)),
    ] {
        assert_eq!(trace[key], value, "{key}: {trace}");
    }
    assert!(!trace.to_string().contains("secret"));
    let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("not a number: {value}"));
    assert!(trace["startedAt"].as_u64().is_some_and(|at| at > 1_600_000_000_000), "{trace}");
    assert!(number(&trace["queueMs"]) <= number(&trace["durationMs"]));
    let attempts = trace["attempts"].as_array().expect("attempts");
    assert_eq!(attempts.len(), 2);
    for (attempt, n) in attempts.iter().zip(1..) {
        assert_eq!((&attempt["attempt"], &attempt["instance"], &attempt["status"]), (&json!(n), &json!("b"), &json!(500)));
        assert_eq!((&attempt["failure"], &attempt["reused"]), (&json!("upstream_status"), &json!(n == 2)), "{trace}");
        assert!(number(&attempt["firstByteMs"]) <= number(&attempt["durationMs"]));
        assert_eq!(attempt["connectMs"].is_number(), n == 1, "{trace}");
    }
    let (first, second) = (&attempts[0], &attempts[1]);
    assert!(number(&second["waitMs"]) >= 20.0, "the wait before the second: {trace}");
    let sum = number(&first["offsetMs"]) + number(&first["durationMs"]) + number(&second["waitMs"]);
    assert!((number(&second["offsetMs"]) - sum).abs() < 0.1, "they follow one another: {trace}");
    let end = number(&second["offsetMs"]) + number(&second["durationMs"]);
    assert!(end <= number(&trace["durationMs"]) + 0.1, "{trace}");
}

#[test]
fn refusals_are_kept_too_and_what_is_asked_for_is_shown() {
    let house = House::with(json!({"retry": {"maxRetries": 0}}));
    house.call("nobody", "/").with_status(503);
    house.register_at("dead", "a", 9);
    house.put("/services/dead/a/state", &json!({"state": "maint"})).with_status(200);
    house.call("dead", "/").with_status(503);
    house.put("/services/dead/a/state", &json!({"state": "ready"})).with_status(200);
    house.call("dead", "/").with_status(503);
    let reasons = |query: &str| traces(&house, query).iter().map(|trace| trace["reason"].clone()).collect::<Vec<_>>();
    assert_eq!(reasons(""), ["upstream_connect", "no_healthy_instance", "unknown_service"], "the newest first");
    assert_eq!(reasons("?service=nobody"), ["unknown_service"]);
    assert_eq!(reasons("?failed=true&limit=2"), ["upstream_connect", "no_healthy_instance"]);
    assert_eq!(reasons("?slowerThanMs=3600000"), [Value::Null; 0]);
    let dead = &traces(&house, "?limit=1")[0];
    assert_eq!(keys(&dead["attempts"][0]), ["attempt", "durationMs", "failure", "instance", "offsetMs", "reused", "waitMs"]);
    assert_eq!(dead["attempts"][0]["failure"], "upstream_connect");
    for (query, field) in [("?limit=x", "limit"), ("?failed=maybe", "failed"), ("?slowerThanMs=-1", "slowerThanMs")] {
        assert_eq!(house.get(&format!("/traces{query}")).with_status(400).json()["field"], field);
    }
}

#[test]
fn a_slow_call_is_kept_and_a_stream_is_slow_only_by_its_head() {
    let slow = onlookers::Config { slow_ms: Millis(50), ..onlookers::Config::default() };
    let house = House::of(Mesh::builder().telemetry(slow), Config::default());
    let upstream = Upstream::start(|asked| match asked.target.as_str() {
        "/late" => Act::Trickle(Vec::new(), answer(200, &[], ""), Duration::from_millis(5)),
        _ => ok("fine"),
    });
    house.register("s", "a", &upstream);
    house.call("s", "/early").with_status(200);
    house.call("s", "/late").with_status(200);
    house.get("/proxy/s/late").with_status(200);
    let all = traces(&house, "?slowerThanMs=50");
    let slow: Vec<_> = all.iter().map(|trace| (trace["path"].as_str(), trace["status"].as_u64(), trace.get("reason").is_some())).collect();
    assert_eq!(slow, [(Some("/late"), Some(200), false), (Some("/late"), Some(200), false)]);
    let early = Upstream::start(|_| {
        let mut whole = answer(200, &[], "0123456789");
        let rest = whole.split_off(whole.len() - 10);
        Act::Trickle(whole, rest, Duration::from_millis(8))
    });
    house.register("stream", "a", &early);
    house.get("/proxy/stream/").with_status(200);
    assert_eq!(traces(&house, "?service=stream"), [Value::Null; 0], "its head was there at once");
}

#[test]
fn what_an_instance_answers_through_the_proxy_is_shown_as_it_was_told() {
    let house = House::with(json!({"retry": {"maxRetries": 0}}));
    let upstream = Upstream::start(|asked| match asked.target.as_str() {
        "/broken" => Act::SayAnd(b"HTTP/1.1 what\r\n\r\n".to_vec(), End::Close),
        _ => status(500),
    });
    house.register("s", "a", &upstream);
    house.get("/proxy/s/answered").with_status(500);
    house.get("/proxy/s/broken").with_status(502);
    let all = traces(&house, "?failed=true");
    let told: Vec<_> = all.iter().map(|trace| (trace["status"].as_u64(), trace["reason"].as_str())).collect();
    assert_eq!(told, [(Some(502), Some("upstream_protocol")), (Some(500), None)]);
    assert_eq!(all[1]["attempts"][0]["failure"], "upstream_status");
}

#[test]
fn a_call_whose_caller_has_gone_is_kept_as_that() {
    let house = House::new();
    let upstream = Upstream::start(|_| Act::Held(answer(200, &[], "")));
    house.register("s", "a", &upstream);
    let mut caller = house.client();
    // An answer that is not read makes of the end of the connection a reset: somebody who only has nothing more to say may still listen.
    caller.send(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\nGET /proxy/s/wait HTTP/1.1\r\nhost: localhost\r\n\r\n").expect("sent");
    eventually("the instance is asked", || (!upstream.asked().is_empty()).then_some(()));
    drop(caller);
    let gone = eventually("the caller's going is noticed", || traces(&house, "?service=s").pop());
    assert_eq!((&gone["status"], &gone["reason"], &gone["attempts"][0]["attempt"]), (&json!(0), &json!("caller_gone"), &json!(1)));
}
