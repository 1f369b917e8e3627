//! Routes over real sockets: what is sent, where copies go, what is answered.

use serde_json::{Value, json};

use crate::house::House;
use crate::support::eventually;
use crate::support::upstream::{Asked, Upstream, ok, status};

fn house_with(routes: &Value, upstream: &Upstream) -> House {
    let house = House::new();
    house.register("users", "users-1", upstream);
    house.policy("users", &json!({ "routes": routes }));
    house
}

#[test]
fn a_call_is_copied_to_another_service_and_nobody_waits_for_it() {
    let (upstream, shadow) = (Upstream::named("real"), Upstream::start(|_| status(500)));
    let house = house_with(&json!([{"match": {"pathPrefix": "/api"}, "rewritePrefix": "/v2", "mirror": {"service": "shadow"}}]), &upstream);
    house.register("shadow", "shadow-1", &shadow);
    let call = json!({"serviceName": "users", "endpoint": "/api/x", "method": "POST", "body": {"a": 1.50}});
    let answer = house.invoke(&call).with_status(200);
    assert_eq!(answer.text(), "real");
    let copy: Asked = eventually("the copy", || shadow.asked().first().cloned());
    assert_eq!((copy.method.as_str(), copy.target.as_str(), copy.body.as_slice()), ("POST", "/v2/x", &br#"{"a":1.5}"#[..]));
    assert_eq!((copy.header("x-mesh-mirror"), copy.header("x-mesh-hops")), (Some("true"), Some("2")));
    assert_eq!(upstream.asked_once().header("x-mesh-mirror"), None);
    eventually("the copy is counted", || (house.metrics()["services"]["shadow"]["failures"] == 1).then_some(()));
    assert_eq!(shadow.requests(), 1, "it is not retried");
    assert_eq!(house.metrics()["services"]["users"]["routes"]["mirrored"], 1);
}

#[test]
fn a_copy_to_a_service_that_hangs_delays_nobody_and_too_many_are_dropped() {
    let (upstream, shadow) = (
        Upstream::named("real"),
        Upstream::start(|_| crate::support::upstream::Act::SayAnd(Vec::new(), crate::support::upstream::End::Hang)),
    );
    let house = house_with(&json!([{"mirror": {"service": "shadow"}}]), &upstream);
    house.register("shadow", "shadow-1", &shadow);
    for _ in 0..300 {
        house.call("users", "/").with_status(200);
    }
    let routes = house.metrics()["services"]["users"]["routes"].clone();
    let (mirrored, dropped) = (routes["mirrored"].as_u64().expect("a number"), routes["mirrorsDropped"].as_u64().expect("a number"));
    assert!(mirrored + dropped == 300 && (256..300).contains(&mirrored), "{routes}");
}

#[test]
fn a_fault_is_answered_with_the_status_of_the_route_and_says_so() {
    let upstream = Upstream::named("real");
    let house = house_with(&json!([{"match": {"headers": {"x-chaos": "1"}}, "fault": {"abortStatus": 418}}]), &upstream);
    let call = |headers: Value| house.invoke(&json!({"serviceName": "users", "endpoint": "/", "headers": headers}));
    let answer = call(json!({"x-chaos": "1"})).with_status(418);
    assert_eq!((answer.reason().as_str(), answer.header("x-mesh-reason")), ("fault_injected", Some("fault_injected")));
    assert_eq!(answer.header("x-mesh-not-sent"), Some("true"));
    call(json!({})).with_status(200);
    assert_eq!(upstream.requests(), 1);
}

#[test]
fn a_fallback_is_answered_as_it_is_and_its_header_fields_tell_why() {
    let upstream = Upstream::start(|_| status(500));
    let house = house_with(
        &json!([{"retry": {"maxRetries": 0}, "fallback": {"status": 203, "headers": {"cache-control": "no-store"}, "body": {"name": "somebody"}}}]),
        &upstream,
    );
    let answer = house.call("users", "/").with_status(203);
    assert_eq!(answer.json(), json!({"name": "somebody"}));
    assert_eq!((answer.header("content-type"), answer.header("cache-control")), (Some("application/json"), Some("no-store")));
    assert_eq!((answer.header("x-mesh-fallback"), answer.header("x-mesh-reason")), (Some("true"), Some("upstream_status")));
    assert_eq!(answer.header("x-mesh-attempts"), Some("1"));
    let metrics = house.metrics();
    assert_eq!((&metrics["failedRequests"], &metrics["services"]["users"]["routes"]["fallbacks"]), (&json!(1), &json!(1)));
}

#[test]
fn what_is_written_is_shown_and_a_bad_route_is_named_and_changes_nothing() {
    let upstream = Upstream::start(|asked| ok(asked.header("x-new").unwrap_or("none")));
    let routes = json!([{"name": "all", "setHeaders": {"x-new": "yes"}}]);
    let house = house_with(&routes, &upstream);
    assert_eq!(house.get("/services/users/policy").json()["routes"], routes);
    let refused = house.put("/services/users/policy", &json!({"routes": [{"splitt": []}]})).with_status(400).json();
    assert_eq!(refused["field"], "routes[0].splitt");
    assert_eq!(refused["error"], "routes[0].splitt: \"splitt\" is not a setting; did you mean split?");
    assert_eq!(house.call("users", "/").text(), "yes");
    house.send("DELETE", "/services/users/policy", &json!({})).with_status(200);
    assert_eq!(house.call("users", "/").text(), "none");
}
