//! Traffic that is shaped: routes and limits do the same whichever way a call comes in, and wherever it runs.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::house::House;
use crate::support::client::Answer;
use crate::support::eventually;
use crate::support::upstream::{Upstream, ok, status};

/// The same GET by each way there is: as JSON, and passed on as it is.
fn by_each_way(house: &House, path: &str, headers: &[(&str, &str)]) -> Vec<(&'static str, Answer)> {
    let fields: Value = headers.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect::<serde_json::Map<_, _>>().into();
    let invoked = house.invoke(&json!({"serviceName": "s", "endpoint": path, "headers": fields}));
    let passed_on = house.ask("GET", &format!("/proxy/s{path}"), headers, b"");
    vec![("/invoke", invoked), ("/proxy", passed_on)]
}

/// Instances "one" and "two" of versions 1 and 2, each saying who it is and what it was asked for.
fn two_versions(policy: &Value) -> (House, Upstream, Upstream) {
    let house = House::new();
    let [one, two] = ["one", "two"].map(|name| Upstream::start(move |asked| ok(format!("{name} {}", asked.target))));
    for (id, upstream, version) in [("one", &one, "1"), ("two", &two, "2")] {
        let instance = json!({"name": "s", "id": id, "host": "127.0.0.1", "port": upstream.port(), "metadata": {"version": version}});
        house.post("/register", &instance).with_status(200);
    }
    house.policy("s", policy);
    (house, one, two)
}

#[test]
fn a_split_sends_calls_to_its_subsets_and_who_is_matched_first_stays_out() {
    let (house, one, two) = two_versions(&json!({"routes": [
        {"match": {"headers": {"x-tester": {"present": true}}}, "split": [{"subset": {"version": "2"}}]},
        {"split": [{"weight": 100, "subset": {"version": "1"}}, {"weight": 0, "subset": {"version": "2"}}]},
    ]}));
    for _ in 0..4 {
        for (way, answer) in by_each_way(&house, "/a", &[("x-tester", "1")]) {
            assert_eq!(answer.with_status(200).text(), "two /a", "{way}");
        }
        for (way, answer) in by_each_way(&house, "/b", &[]) {
            assert_eq!(answer.with_status(200).text(), "one /b", "{way}");
        }
    }
    assert_eq!((one.requests(), two.requests()), (8, 8));
}

#[test]
fn a_rewritten_path_and_changed_fields_are_what_the_instance_gets() {
    let (house, one, two) = two_versions(&json!({"routes": [{
        "match": {"pathPrefix": "/old"}, "rewritePrefix": "/new", "setHeaders": {"x-set": "by the route"}, "removeHeaders": ["x-secret"],
    }]}));
    for (way, answer) in by_each_way(&house, "/old/x?y=1", &[("x-secret", "s"), ("x-set", "by the caller"), ("x-kept", "k")]) {
        assert!(answer.with_status(200).text().ends_with("/new/x?y=1"), "{way}");
    }
    let asked = [one.asked(), two.asked()].concat();
    assert_eq!(asked.len(), 2);
    for asked in &asked {
        let said = (asked.header("x-set"), asked.header("x-secret"), asked.header("x-kept"));
        assert_eq!(said, (Some("by the route"), None, Some("k")));
    }
}

#[test]
fn what_a_route_sets_or_removes_no_caller_says_in_a_spelling_that_instances_take_for_the_same() {
    let (house, one, two) = two_versions(&json!({"routes": [{"setHeaders": {"X-Tenant": "ours"}, "removeHeaders": ["x-secret"]}]}));
    for (way, answer) in by_each_way(&house, "/", &[("x_tenant", "theirs"), ("X_Secret", "s"), ("x_kept", "k")]) {
        answer.with_status(200);
        let asked = [one.asked(), two.asked()].concat().pop().expect("a request");
        let names = ["x-tenant", "x_tenant", "x_secret", "x_kept"].map(|name| asked.header(name));
        assert_eq!(names, [Some("ours"), None, None, Some("k")], "{way}");
    }
}

#[test]
fn a_fault_holds_calls_up_and_fails_them_as_the_route_says() {
    let (house, one, two) = two_versions(&json!({"routes": [
        {"match": {"pathExact": "/slow"}, "fault": {"delayMs": 60}},
        {"match": {"pathExact": "/broken"}, "fault": {"abortStatus": 418}},
    ]}));
    let start = Instant::now();
    for (way, answer) in by_each_way(&house, "/slow", &[]) {
        answer.with_status(200);
        assert!(start.elapsed() >= Duration::from_millis(60), "{way}");
    }
    assert!(start.elapsed() >= Duration::from_millis(120), "each was held up");
    for (way, answer) in by_each_way(&house, "/broken", &[]) {
        assert_eq!(answer.with_status(418).reason(), "fault_injected", "{way}");
    }
    assert_eq!(one.requests() + two.requests(), 2, "what is broken on purpose reaches nobody");
}

#[test]
fn a_failed_call_gets_the_answer_that_the_route_has_ready() {
    let house = House::new();
    let upstream = Upstream::start(|_| status(500));
    house.register("s", "i", &upstream);
    house.policy("s", &json!({"routes": [{"retry": {"maxRetries": 0}, "fallback": {"status": 203, "body": {"name": "somebody"}}}]}));
    for (way, answer) in by_each_way(&house, "/", &[]) {
        let answer = answer.with_status(203);
        assert_eq!((answer.json()["name"].as_str(), answer.header("x-mesh-fallback")), (Some("somebody"), Some("true")), "{way}");
        assert_eq!(answer.header("x-mesh-reason"), Some("upstream_status"), "{way}");
    }
}

#[test]
fn a_copy_of_each_call_goes_to_the_mirror_and_nobody_waits_for_it() {
    let (house, one, two) = two_versions(&json!({"routes": [{"mirror": {"service": "shadow", "percent": 100}}]}));
    let shadow = Upstream::start(|_| status(500));
    house.register("shadow", "i", &shadow);
    for (way, answer) in by_each_way(&house, "/copied?x=1", &[("x-kept", "k")]) {
        answer.with_status(200);
        assert!(!way.is_empty());
    }
    eventually("both copies arrive", || (shadow.requests() == 2).then_some(()));
    for copy in shadow.asked() {
        let said = (copy.target.as_str(), copy.header("x-mesh-mirror"), copy.header("x-kept"));
        assert_eq!(said, ("/copied?x=1", Some("true"), Some("k")));
    }
    assert_eq!(one.requests() + two.requests(), 2);
    assert_eq!(house.metrics()["services"]["s"]["routes"]["mirrored"], 2);
}

#[test]
fn times_and_retries_of_a_route_stand_in_place_of_the_services() {
    let house = House::with(json!({"retry": {"baseDelayMs": 1}}));
    let upstream = Upstream::start(|_| status(503));
    house.register("s", "i", &upstream);
    house.policy(
        "s",
        &json!({"routes": [{"match": {"pathExact": "/once"}, "retry": {"maxRetries": 0}}], "outlier": {"consecutiveFailures": 1000}}),
    );
    for (path, attempts) in [("/once", "1"), ("/often", "4")] {
        for (way, answer) in by_each_way(&house, path, &[]) {
            assert_eq!(answer.with_status(503).header("x-mesh-attempts"), Some(attempts), "{way} {path}");
        }
    }
}

#[test]
fn a_service_takes_so_many_calls_a_second_by_all_ways_together() {
    let (house, one, two) = two_versions(&json!({"rateLimit": {"ratePerSecond": 0.01, "burst": 2}}));
    for (way, answer) in by_each_way(&house, "/", &[]) {
        assert_eq!(answer.status, 200, "{way}");
    }
    for (way, answer) in by_each_way(&house, "/", &[]) {
        let answer = answer.with_status(429);
        assert_eq!(answer.reason(), "rate_limited", "{way}");
        assert!(answer.header("retry-after").is_some() && answer.header("x-mesh-not-sent") == Some("true"), "{way}");
    }
    assert_eq!(one.requests() + two.requests(), 2);
}

#[test]
fn the_same_key_goes_to_the_same_instance_whichever_way_it_comes() {
    let (house, _one, _two) = two_versions(&json!({"loadBalancing": {"strategy": "consistent_hash", "hashHeader": "x-user"}}));
    for user in ["ann", "bob", "eve", "joe"] {
        let mut answers: Vec<String> = Vec::new();
        for _ in 0..3 {
            answers.extend(by_each_way(&house, "/", &[("x-user", user)]).into_iter().map(|(_, answer)| answer.with_status(200).text()));
        }
        answers.dedup();
        assert_eq!(answers.len(), 1, "{user}: {answers:?}");
    }
}

#[test]
fn an_open_circuit_refuses_by_every_way() {
    let (house, one, two) = two_versions(&json!({}));
    house.put("/services/s/breaker", &json!({"state": "forced_open"})).with_status(200);
    for (way, answer) in by_each_way(&house, "/", &[]) {
        assert_eq!(answer.with_status(503).reason(), "circuit_open", "{way}");
    }
    house.put("/services/s/breaker", &json!({"state": "reset"})).with_status(200);
    for (way, answer) in by_each_way(&house, "/", &[]) {
        assert_eq!(answer.status, 200, "{way}");
    }
    assert_eq!(one.requests() + two.requests(), 2);
}
