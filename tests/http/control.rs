//! What operators order of a service over HTTP.

use serde_json::json;

use crate::house::House;
use crate::support::upstream::Upstream;

#[test]
fn the_breaker_is_forced_open_disabled_and_reset() {
    let (house, upstream) = (House::new(), Upstream::named("x"));
    house.register("users", "users-1", &upstream);
    let order = |state: &str| house.put("/services/users/breaker", &json!({"state": state}));
    assert_eq!(order("forced_open").with_status(200).json(), json!({"success": true}));
    let refused = house.call("users", "/").with_status(503);
    assert_eq!((refused.json()["reason"].as_str(), refused.header("retry-after")), (Some("circuit_open"), Some("60")));
    assert_eq!(house.metrics()["circuitBreakers"]["users"]["status"], "OPEN");
    let explained = house.get("/services/users/explain").with_status(200).json();
    assert_eq!((&explained["breakerControl"], &explained["nextPick"]), (&json!("forced_open"), &json!(null)));
    order("disabled").with_status(200);
    house.call("users", "/").with_status(200);
    order("reset").with_status(200);
    assert_eq!(house.metrics()["services"]["users"]["breaker"]["control"], "auto");
    let events = house.get("/events").json().to_string();
    for said in ["forced open by an operator", "disabled by an operator", "reset by an operator"] {
        assert!(events.contains(said), "{said}");
    }
}

#[test]
fn an_order_that_makes_no_sense_is_refused_and_nothing_changes() {
    let (house, upstream) = (House::new(), Upstream::named("x"));
    house.register("users", "users-1", &upstream);
    for body in [json!({"state": "open"}), json!({}), json!({"state": 5}), json!([])] {
        let answer = house.put("/services/users/breaker", &body).with_status(400);
        assert_eq!(answer.json()["reason"], "bad_request", "{body}");
    }
    house.put("/services/nobody/breaker", &json!({"state": "reset"})).with_status(404);
    house.call("users", "/").with_status(200);
}

#[test]
fn what_comes_too_often_is_answered_429_with_a_time_to_come_back() {
    let (house, upstream) = (House::new(), Upstream::named("x"));
    house.register("users", "users-1", &upstream);
    house.policy("users", &json!({"rateLimit": {"perCaller": {"ratePerSecond": 0.01, "burst": 2}}}));
    house.call("users", "/").with_status(200);
    house.call("users", "/").with_status(200);
    let refused = house.call("users", "/").with_status(429);
    assert_eq!((refused.reason().as_str(), refused.header("retry-after")), ("rate_limited", Some("100")));
    assert_eq!(refused.header("x-mesh-not-sent"), Some("true"));
    assert_eq!(refused.json()["limit"], "rateLimit.perCaller.ratePerSecond");
    assert_eq!(house.metrics()["services"]["users"]["refused"]["rateLimited"], 1);
    assert_eq!(upstream.requests(), 2);
}

#[test]
fn settings_that_make_no_sense_together_are_taken_with_a_warning_in_the_answer() {
    let house = House::new();
    let put = |patch| house.put("/services/users/policy", &patch).with_status(200).json();
    let warned = put(json!({"timeouts": {"connectMs": 60_000}}));
    assert_eq!(warned["warnings"], json!(["timeouts.connectMs 60000 is above timeouts.attemptMs 10000; the attempt ends first"]));
    assert_eq!(warned["timeouts"]["connectMs"], 60_000);
    assert_eq!(put(json!({"timeouts": {"connectMs": 500}})).get("warnings"), None);
    house.put("/services/users/policy", &json!({"timeouts": {"attemptMs": 60_000}})).with_status(400);
}
