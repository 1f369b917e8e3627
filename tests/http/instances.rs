//! Instances beyond their registration: leases, removal, operators' words, shares of the traffic, limits.

use std::thread;
use std::time::Duration;

use serde_json::json;
use weft::Mesh;
use weft::server::Config;

use crate::house::House;
use crate::support::upstream::{Act, Upstream, answer, ok};
use crate::support::{eventually, throughout};

/// Who answered a call.
fn instance_of(house: &House, service: &str) -> String {
    let answer = house.call(service, "/").with_status(200);
    answer.header("x-mesh-instance").expect("an instance").to_owned()
}

#[test]
fn an_instance_is_removed_by_path_or_by_body_and_only_once() {
    let house = House::new();
    for id in ["a", "b", "c"] {
        house.register_at("s", id, 9);
    }
    assert_eq!(house.ask("DELETE", "/services/s/a", &[], b"").with_status(200).text(), r#"{"success":true}"#);
    assert_eq!(house.post("/deregister", &json!({"name": "s", "id": "b"})).with_status(200).text(), r#"{"success":true}"#);
    for gone in [
        house.ask("DELETE", "/services/s/a", &[], b""),
        house.ask("DELETE", "/services/nobody/a", &[], b""),
        house.ask("DELETE", "/services/s/%20", &[], b""),
        house.post("/deregister", &json!({"name": "s", "id": "b"})),
    ] {
        assert_eq!(gone.with_status(404).reason(), "not_found");
    }
    let unnamed = house.post("/deregister", &json!({"name": "s"})).with_status(400);
    assert_eq!(unnamed.json()["field"], "id");
    house.ask("DELETE", "/services/s/c", &[], b"").with_status(200);
    assert_eq!(house.get("/services").json(), json!([]), "the service goes with its last instance");
    assert_eq!(house.metrics()["circuitBreakers"], json!({}), "and so do its series");
    assert_eq!(house.call("s", "/").with_status(503).reason(), "unknown_service");
}

#[test]
fn a_lease_lives_as_long_as_it_is_renewed_and_then_register_again_is_the_answer() {
    let house = House::new();
    let lease = json!({"name": "s", "id": "i", "host": "127.0.0.1", "port": 9, "ttlSeconds": 1});
    house.post("/register", &lease).with_status(200);
    house.register_at("s", "without-a-lease", 9);
    assert!(house.instance("s", "i")["expiresInSeconds"].as_u64().is_some_and(|seconds| seconds <= 1));
    assert!(house.instance("s", "without-a-lease")["expiresInSeconds"].is_null());
    let beat = || house.ask("PUT", "/services/s/i/heartbeat", &[], b"");
    throughout(Duration::from_millis(1500), "a heartbeat renews the lease", || beat().status == 200);
    eventually("the lease ends", || (house.get("/services/s").json()["instances"].as_array()?.len() == 1).then_some(()));
    assert_eq!(beat().with_status(404).reason(), "not_found");
    assert_eq!(house.ask("PUT", "/services/nobody/i/heartbeat", &[], b"").with_status(404).reason(), "not_found");
    assert!(house.get("/events").json()["events"].as_array().expect("events").iter().any(|event| event["kind"] == "expired"));
    house.post("/register", &lease).with_status(200);
    beat().with_status(200);
}

#[test]
fn an_operator_takes_an_instance_out_and_brings_it_back() {
    let house = House::new();
    let (a, b) = (Upstream::named("a"), Upstream::named("b"));
    house.register("s", "a", &a);
    house.register("s", "b", &b);
    for state in ["drain", "maint"] {
        house.put("/services/s/a/state", &json!({"state": state, "reason": "deploy 7"})).with_status(200);
        for _ in 0..4 {
            assert_eq!(instance_of(&house, "s"), "b", "{state}");
        }
        let seen = house.instance("s", "a");
        assert_eq!((&seen["state"], &seen["stateReason"]), (&json!(state), &json!("deploy 7")));
        let explained = house.get("/services/s/explain").json();
        let why = &explained["instances"][0];
        assert_eq!(why["available"], false);
        assert_eq!(why["why"], format!("state is {state} (deploy 7)"));
        house.register("s", "a", &a);
        assert_eq!(house.instance("s", "a")["state"], state, "registering again does not override an operator");
    }
    house.put("/services/s/b/state", &json!({"state": "drain"})).with_status(200);
    assert_eq!(house.call("s", "/").with_status(503).reason(), "no_healthy_instance");
    house.put("/services/s/a/state", &json!({"state": "ready"})).with_status(200);
    assert_eq!(instance_of(&house, "s"), "a");
    assert!(house.instance("s", "a")["stateReason"].is_null());
    assert_eq!(house.put("/services/s/a/state", &json!({"state": "gone"})).with_status(400).json()["field"], "state");
    assert_eq!(house.put("/services/s/a/state", &json!({})).with_status(400).json()["field"], "state");
    house.put("/services/s/nobody/state", &json!({"state": "ready"})).with_status(404);
}

#[test]
fn a_running_call_finishes_while_its_instance_is_drained() {
    let house = House::new();
    let upstream = Upstream::start(|_| Act::Held(answer(200, &[], "done")));
    house.register("s", "i", &upstream);
    thread::scope(|scope| {
        let call = scope.spawn(|| house.call("s", "/slow"));
        eventually("the call is under way", || (upstream.requests() == 1).then_some(()));
        house.put("/services/s/i/state", &json!({"state": "drain"})).with_status(200);
        assert_eq!(house.call("s", "/").with_status(503).reason(), "no_healthy_instance");
        upstream.release();
        assert_eq!(call.join().expect("answered").with_status(200).text(), "done");
    });
}

#[test]
fn a_weight_is_a_share_and_nothing_goes_to_weight_0() {
    let house = House::new();
    let upstreams = [Upstream::named("a"), Upstream::named("b")];
    house.register("s", "a", &upstreams[0]);
    house.register("s", "b", &upstreams[1]);
    house.put("/services/s/a/weight", &json!({"weight": 7})).with_status(200);
    for _ in 0..16 {
        house.call("s", "/").with_status(200);
    }
    assert_eq!((upstreams[0].requests(), upstreams[1].requests()), (14, 2), "7 : 1, exactly");
    house.put("/services/s/b/weight", &json!({"weight": 0})).with_status(200);
    for _ in 0..4 {
        assert_eq!(instance_of(&house, "s"), "a");
    }
    assert_eq!(house.instance("s", "b")["weight"], 0);
    house.register("s", "b", &upstreams[1]);
    assert_eq!(house.instance("s", "b")["weight"], 0, "registering again does not override an operator");
    for (weight, field) in [(json!(1001), "weight"), (json!(-1), "weight"), (json!("7"), "weight"), (json!(null), "weight")] {
        assert_eq!(house.put("/services/s/a/weight", &json!({"weight": weight})).with_status(400).json()["field"], field, "{weight}");
    }
    house.put("/services/s/nobody/weight", &json!({"weight": 1})).with_status(404);
}

#[test]
fn calls_take_turns_in_the_order_of_registration() {
    let house = House::new();
    let upstream = Upstream::named("x");
    for id in ["c", "a", "b"] {
        house.register("s", id, &upstream);
    }
    let turns: Vec<String> = (0..6).map(|_| instance_of(&house, "s")).collect();
    assert_eq!(turns, ["c", "a", "b", "c", "a", "b"]);
}

#[test]
fn least_connections_passes_over_the_instance_that_is_busy() {
    let house = House::new();
    let busy = Upstream::start(|asked| if asked.target == "/slow" { Act::Held(answer(200, &[], "")) } else { ok("busy") });
    let idle = Upstream::named("idle");
    // All spellings of the documentation.
    for strategy in ["least-conn", "least-connections", "least_connections"] {
        house.policy("s", &json!({"loadBalancing": {"strategy": strategy}}));
    }
    house.register("s", "busy", &busy);
    thread::scope(|scope| {
        let call = scope.spawn(|| house.call("s", "/slow"));
        eventually("the call is under way", || (busy.requests() == 1).then_some(()));
        house.register("s", "idle", &idle);
        for _ in 0..6 {
            assert_eq!(instance_of(&house, "s"), "idle");
        }
        busy.release();
        call.join().expect("answered").with_status(200);
    });
}

#[test]
fn registering_again_changes_what_it_names_and_keeps_the_rest() {
    let house = House::new();
    let (old, new) = (Upstream::named("old"), Upstream::named("new"));
    let full = json!({"name": "s", "id": "i", "host": "127.0.0.1", "port": old.port(), "weight": 5, "zone": "z1", "metadata": {"a": "1"},
        "maxInFlight": 9});
    house.post("/register", &full).with_status(200);
    house.call("s", "/").with_status(200);
    house.register("s", "i", &old);
    let kept = house.instance("s", "i");
    for (key, value) in [("requestCount", json!(1)), ("weight", json!(5)), ("zone", json!("z1")), ("metadata", json!({"a": "1"}))] {
        assert_eq!(kept[key], value, "{key}");
    }
    house.register("s", "i", &new);
    let moved = house.instance("s", "i");
    assert_eq!((&moved["requestCount"], &moved["weight"]), (&json!(0), &json!(5)), "another place begins anew");
    assert_eq!(house.call("s", "/").text(), "new");
    house.post("/register", &json!({"name": "s", "id": "i", "host": "127.0.0.1", "port": new.port(), "healthy": false})).with_status(200);
    assert_eq!(house.call("s", "/").with_status(503).reason(), "no_healthy_instance");
}

#[test]
fn the_same_id_in_two_services_is_two_instances() {
    let house = House::new();
    let (a, b) = (Upstream::named("a"), Upstream::named("b"));
    house.register("one", "i", &a);
    house.register("two", "i", &b);
    assert_eq!((house.call("one", "/").text(), house.call("two", "/").text()), ("a".to_owned(), "b".to_owned()));
    house.ask("DELETE", "/services/one/i", &[], b"").with_status(200);
    assert_eq!(house.call("two", "/").with_status(200).text(), "b");
}

#[test]
fn bodies_may_be_written_in_snake_case_and_strange_fields_are_ignored() {
    let house = House::new();
    let upstream = Upstream::named("x");
    let registration = json!({"name": "s", "id": "i", "host": "127.0.0.1", "port": upstream.port(), "max_in_flight": 3, "colour": [1]});
    house.post("/register", &registration).with_status(200);
    assert_eq!(house.instance("s", "i")["maxInFlight"], 3);
    house.invoke(&json!({"service_name": "s", "endpoint": "/", "timeout_ms": 5_000, "colour": {"a": 1}})).with_status(200);
    let twice = house.ask("POST", "/invoke", &[], br#"{"serviceName":"s","service_name":"s","endpoint":"/"}"#);
    assert_eq!(twice.with_status(400).reason(), "bad_request");
}

#[test]
fn the_registry_is_bounded_and_says_which_limit_is_full() {
    let house = House::of(Mesh::builder().limits(2, 2), Config::default());
    let register = |name: &str, id: &str| house.post("/register", &json!({"name": name, "id": id, "host": "127.0.0.1", "port": 9}));
    for (name, id) in [("a", "1"), ("a", "2"), ("b", "1"), ("a", "1")] {
        register(name, id).with_status(200);
    }
    for (name, id, limit) in [("c", "1", "maxServices"), ("a", "3", "maxInstancesPerService")] {
        let refused = register(name, id).with_status(503);
        assert_eq!((refused.reason().as_str(), refused.json()["limit"].as_str()), ("overloaded", Some(limit)));
        assert_eq!(refused.header("retry-after"), Some("1"));
        assert_eq!(refused.header("x-mesh-not-sent"), Some("true"));
    }
    house.ask("DELETE", "/services/b/1", &[], b"").with_status(200);
    register("c", "1").with_status(200);
    for n in 0..2 {
        house.policy(&format!("p{n}"), &json!({"retry": {"maxRetries": 0}}));
    }
    let refused = house.put("/services/p9/policy", &json!({"retry": {"maxRetries": 0}})).with_status(503);
    assert_eq!(refused.json()["limit"], "maxServices", "settings of services nobody registered are bounded too");
    let counted = house.metrics()["refused"].clone();
    assert_eq!((&counted["maxServices"], &counted["maxInstancesPerService"]), (&json!(2), &json!(1)), "{counted}");
}
