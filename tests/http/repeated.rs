//! What is sent again and what is not: safety, callers' wishes, budgets, deadlines, circles.

use std::time::Duration;

use serde_json::json;
use weft::Mesh;
use weft::server::Config;

use crate::house::House;
use crate::support::upstream::{Act, End, Upstream, answer, ok, status};

#[test]
fn a_429_is_retried_and_the_last_one_passed_on() {
    let house = House::with(json!({"retry": {"baseDelayMs": 1, "maxRetries": 2}}));
    let upstream = Upstream::start(|_| Act::Say(answer(429, &[("x-limit", "7")], "slow down")));
    house.register("s", "i", &upstream);
    let answer = house.call("s", "/").with_status(429);
    assert_eq!((answer.text().as_str(), answer.header("x-limit"), answer.header("x-mesh-attempts")), ("slow down", Some("7"), Some("3")));
    assert_eq!(house.metrics()["circuitBreakers"]["s"]["failureCount"], 0);
}

#[test]
fn a_post_that_may_have_been_processed_is_not_repeated_and_the_answer_says_so() {
    for act in ["reset", "close", "500", "hang"] {
        let house = House::with(json!({"retry": {"baseDelayMs": 1}, "timeouts": {"attemptMs": 200}}));
        let upstream = Upstream::start(move |_| match act {
            "reset" => Act::SayAnd(Vec::new(), End::Reset),
            "close" => Act::SayAnd(Vec::new(), End::Close),
            "500" => status(500),
            _ => Act::SayAnd(Vec::new(), End::Hang),
        });
        house.register("s", "i", &upstream);
        let post = json!({"serviceName": "s", "endpoint": "/", "method": "POST", "body": {"amount": 1}});
        let answer = house.invoke(&post);
        assert_eq!(upstream.requests(), 1, "{act}: exactly one delivery");
        let skipped = "POST may have been processed; send idempotent:true or an Idempotency-Key to allow retries";
        assert_eq!(answer.json()["retrySkipped"], skipped, "{act}");
        assert_eq!(answer.header("x-mesh-not-sent"), None, "{act}");
    }
}

#[test]
fn a_post_is_repeated_when_that_is_safe_or_allowed() {
    let post = json!({"serviceName": "s", "endpoint": "/", "method": "POST", "body": {"amount": 1}});
    let (mut idempotent, mut keyed) = (post.clone(), post.clone());
    idempotent["idempotent"] = json!(true);
    keyed["headers"] = json!({"Idempotency-Key": "k"});
    // A 503 or 429 says "not now" to any method; a 500 may come after the deed.
    for (failing, call, key, attempts) in [
        (503, &post, None, "2"),
        (429, &post, None, "2"),
        (500, &idempotent, None, "2"),
        (500, &keyed, None, "2"),
        (500, &post, Some(("idempotency-key", "k")), "2"),
    ] {
        let house = House::with(json!({"retry": {"baseDelayMs": 1}}));
        let upstream = Upstream::start(move |asked| if asked.nth == 1 { status(failing) } else { ok("x") });
        house.register("s", "i", &upstream);
        let answer = house.ask("POST", "/invoke", key.as_slice(), call.to_string().as_bytes()).with_status(200);
        assert_eq!((answer.header("x-mesh-attempts"), upstream.requests()), (Some(attempts), 2), "{failing} {call}");
    }
}

#[test]
fn a_503_of_another_mesh_is_repeated_for_a_post_only_when_nothing_was_sent() {
    for (not_sent, requests) in [(false, 1), (true, 2)] {
        let house = House::with(json!({"retry": {"baseDelayMs": 1, "maxRetries": 1}}));
        let upstream = Upstream::start(move |_| {
            let fields: &[(&str, &str)] = &[("x-mesh-reason", "upstream_reset"), ("x-mesh-not-sent", "true")];
            Act::Say(answer(503, if not_sent { fields } else { &fields[..1] }, ""))
        });
        house.register("s", "i", &upstream);
        house.invoke(&json!({"serviceName": "s", "endpoint": "/", "method": "POST"})).with_status(503);
        assert_eq!(upstream.requests(), requests, "not sent: {not_sent}");
    }
}

#[test]
fn callers_can_ask_for_fewer_retries_but_never_for_more() {
    let house =
        House::with(json!({"retry": {"baseDelayMs": 1, "maxRetries": 2, "retryOn": [500, "connect"]}, "timeouts": {"totalMs": 20_000}}));
    let upstream = Upstream::start(|_| status(500));
    house.register("s", "i", &upstream);
    for (asked, attempts) in [(0, 1), (1, 2), (9, 3)] {
        house.policy("s", &json!({"circuitBreaker": {"failureThreshold": 1000}}));
        let answer = house.invoke(&json!({"serviceName": "s", "endpoint": "/", "maxRetries": asked})).with_status(503);
        assert_eq!(answer.json()["attempts"], attempts, "{asked}");
    }
}

#[test]
fn a_retry_of_another_mesh_gets_one_attempt_only() {
    let house = House::with(json!({"retry": {"baseDelayMs": 1}}));
    let upstream = Upstream::start(|_| status(503));
    house.register("s", "i", &upstream);
    let call = br#"{"serviceName":"s","endpoint":"/"}"#;
    house.ask("POST", "/invoke", &[("x-mesh-attempt", "2")], call).with_status(503);
    assert_eq!(upstream.requests(), 1);
    house.ask("POST", "/invoke", &[("x-mesh-attempt", "1")], call).with_status(503);
    assert_eq!(upstream.requests(), 1 + 4);
}

#[test]
fn a_call_that_has_passed_through_eight_meshes_has_gone_in_a_circle() {
    let house = House::new();
    let upstream = Upstream::named("x");
    house.register("s", "i", &upstream);
    let call = br#"{"serviceName":"s","endpoint":"/"}"#;
    house.ask("POST", "/invoke", &[("x-mesh-hops", "7")], call).with_status(200);
    assert_eq!(upstream.asked_once().header("x-mesh-hops"), Some("8"));
    for hops in ["8", "9", "4000000000"] {
        let looped = house.ask("POST", "/invoke", &[("x-mesh-hops", hops)], call).with_status(508);
        assert_eq!(looped.reason(), "loop_detected", "{hops}");
    }
    assert_eq!(upstream.requests(), 1);
}

#[test]
fn a_mesh_that_calls_itself_stops_after_eight_rounds() {
    // One worker per round, and no more than half of them for one service.
    let house = House::of(Mesh::builder().defaults(json!({"retry": {"maxRetries": 0}})), Config { workers: 48, ..Config::default() });
    house.register_at("self", "i", house.at.port());
    let mut call = json!({"serviceName": "self", "endpoint": "/health"});
    for _ in 0..20 {
        call = json!({"serviceName": "self", "endpoint": "/invoke", "method": "POST", "body": call});
    }
    let answer = house.invoke(&call).with_status(503);
    assert_eq!(answer.reason(), "upstream_status");
    assert_eq!(house.metrics()["services"]["self"]["requests"], 9, "eight rounds and the one that was refused");
}

#[test]
fn the_callers_deadline_bounds_all_attempts_and_waits() {
    let house = House::with(json!({"retry": {"baseDelayMs": 20}, "timeouts": {"attemptMs": 5_000}}));
    let upstream = Upstream::start(|_| Act::Trickle(Vec::new(), answer(200, &[], "slow"), Duration::from_millis(50)));
    house.register("s", "i", &upstream);
    let answer = house.invoke(&json!({"serviceName": "s", "endpoint": "/", "timeoutMs": 150})).with_status(504);
    assert_eq!(answer.reason(), "deadline_exceeded");
    let metrics = house.metrics();
    assert_eq!(metrics["circuitBreakers"]["s"]["failureCount"], 0, "the caller's impatience is not the service's fault");
    assert_eq!(metrics["failedRequests"], 1);
    assert_eq!(house.invoke(&json!({"serviceName": "s", "endpoint": "/", "timeoutMs": 0})).with_status(504).reason(), "deadline_exceeded");
    assert_eq!(upstream.requests(), 1, "no time, no attempt");
}

#[test]
fn a_budget_bounds_the_retries_of_a_service_and_the_answer_says_when_it_is_spent() {
    // One retry to begin with, and the next one in ten seconds.
    let retry = json!({"baseDelayMs": 1, "budgetRatio": 0, "budgetPerSecond": 0.1});
    let house = House::with(json!({"retry": retry, "circuitBreaker": {"failureThreshold": 1000}}));
    let upstream = Upstream::start(|_| status(500));
    house.register("s", "i", &upstream);
    for attempts in [2, 1, 1] {
        let answer = house.call("s", "/").with_status(503);
        let body = answer.json();
        assert_eq!((answer.reason().as_str(), &body["attempts"]), ("upstream_status", &json!(attempts)), "the last cause stands");
        assert_eq!(body["budgetExhausted"], true);
    }
    assert_eq!(upstream.requests(), 4);
    let service = &house.metrics()["services"]["s"];
    assert_eq!((&service["retries"], &service["refused"]["retriesOverBudget"]), (&json!(1), &json!(3)));
}

#[test]
fn an_instance_that_says_when_to_come_back_is_believed_when_there_is_time() {
    let house = House::with(json!({"retry": {"baseDelayMs": 20_000, "maxDelayMs": 20_000}}));
    let upstream = Upstream::start(|asked| match (&*asked.target, asked.nth) {
        ("/soon", 1) => Act::Say(answer(503, &[("retry-after", "0")], "")),
        ("/soon", _) => ok("back"),
        _ => Act::Say(answer(503, &[("retry-after", "3600")], "")),
    });
    house.register("s", "i", &upstream);
    assert_eq!(house.call("s", "/soon").with_status(200).text(), "back", "before the wait of the schedule");
    let late = house.call("s", "/late").with_status(503);
    assert_eq!((late.reason().as_str(), &late.json()["attempts"]), ("upstream_status", &json!(1)));
}
