//! Services beyond their instances: long polls, settings, explanations, events, the circuit, and whether the mesh is ready.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use weft::Mesh;
use weft::server::Config;

use crate::house::House;
use crate::support::eventually;
use crate::support::upstream::{Upstream, ok, status};

#[test]
fn a_long_poll_answers_when_something_changes_and_when_its_wait_is_over() {
    let house = House::new();
    house.register_at("s", "a", 9);
    let first = house.get("/services/s").with_status(200);
    let index = first.header("x-mesh-index").expect("an index").to_owned();
    assert_eq!(first.json()["name"], "s");
    let at_once = house.get(&format!("/services/s?index={index}&wait=0s")).with_status(200);
    assert_eq!(at_once.header("x-mesh-index"), Some(&*index), "nothing has changed");
    house.get(&format!("/services/s?index={index}&wait=50ms")).with_status(200);
    house.get("/services/s?index=0&wait=60s").with_status(200);

    thread::scope(|scope| {
        let poll = scope.spawn(|| house.get(&format!("/services/s?index={index}&wait=60s")));
        // Whether the poll is there before or after the change, it sees it.
        house.register_at("s", "b", 9);
        let seen = poll.join().expect("answered").with_status(200);
        assert_ne!(seen.header("x-mesh-index"), Some(&*index));
        assert_eq!(seen.json()["instances"].as_array().map(Vec::len), Some(2));
    });
    for (query, field) in [("?index=x", "index"), ("?index=1&wait=soon", "wait"), ("?index=-1", "index")] {
        assert_eq!(house.get(&format!("/services/s{query}")).with_status(400).json()["field"], field);
    }
    assert_eq!(house.get("/services/nobody?index=1&wait=60s").with_status(404).reason(), "not_found");
    assert_eq!(house.get("/services/nobody").with_status(404).reason(), "not_found");
}

#[test]
fn only_so_many_long_polls_may_wait_and_they_end_with_their_service() {
    let house = House::of(Mesh::builder(), Config { max_watchers: 1, ..Config::default() });
    house.register_at("s", "a", 9);
    let index = house.get("/services/s").header("x-mesh-index").expect("an index").to_owned();
    let target = format!("/services/s?index={index}&wait=60s");
    thread::scope(|scope| {
        // Until it is let in, since a short one may be there at that moment.
        let first =
            scope.spawn(|| eventually("the first long poll is let in", || Some(house.get(&target)).filter(|poll| poll.status != 503)));
        let refused = eventually("the second long poll is refused", || {
            let short = house.get(&format!("/services/s?index={index}&wait=1ms"));
            (short.status == 503).then_some(short)
        });
        assert_eq!((refused.reason().as_str(), refused.json()["limit"].as_str()), ("overloaded", Some("maxWatchers")));
        assert_eq!(refused.header("retry-after"), Some("1"));
        assert_eq!(refused.header("x-mesh-not-sent"), Some("true"));
        house.get("/services/s").with_status(200);
        house.ask("DELETE", "/services/s/a", &[], b"").with_status(200);
        assert_eq!(first.join().expect("answered").with_status(404).reason(), "not_found");
    });
    house.register_at("s", "a", 9);
    house.get("/services/s?index=0&wait=1s").with_status(200);
}

#[test]
fn settings_are_merged_shown_and_taken_back() {
    let house = House::with(json!({"retry": {"maxRetries": 2}}));
    let get = || house.get("/services/s/policy").with_status(200).json();
    let configured = get();
    assert_eq!((&configured["retry"]["maxRetries"], &configured["circuitBreaker"]["failureThreshold"]), (&json!(2), &json!(5)));

    let changed = house.put("/services/s/policy", &json!({"retry": {"maxRetries": 1}, "timeouts": {"totalMs": 20_000}})).with_status(200);
    assert_eq!(changed.json(), get(), "the answer is what is in force");
    assert_eq!((&get()["retry"]["maxRetries"], &get()["timeouts"]["totalMs"]), (&json!(1), &json!(20_000)));
    house.policy("s", &json!({"retry": {"baseDelayMs": 3}}));
    assert_eq!((&get()["retry"]["maxRetries"], &get()["retry"]["baseDelayMs"]), (&json!(1), &json!(3)), "merged, not replaced");
    house.policy("s", &json!({"retry": {"maxRetries": null}}));
    assert_eq!((&get()["retry"]["maxRetries"], &get()["retry"]["baseDelayMs"]), (&json!(2), &json!(3)), "null takes back one key");
    assert_eq!(house.get("/services/other/policy").json(), configured, "one service's settings are its own");

    house.ask("DELETE", "/services/s/policy", &[], b"").with_status(200);
    assert_eq!(get(), configured);
}

#[test]
fn a_bad_setting_is_named_and_changes_nothing() {
    let house = House::new();
    let before = house.get("/services/s/policy").json();
    for (patch, field) in [
        (json!({"retry": {"maxRetires": 1}}), "retry.maxRetires"),
        (json!({"retyr": {}}), "retyr"),
        (json!({"retry": {"maxRetries": -1}}), "retry.maxRetries"),
        (json!({"retry": {"maxRetries": 101}}), "retry.maxRetries"),
        (json!({"retry": {"jitter": 2}}), "retry.jitter"),
        (json!({"retry": 5}), "retry"),
        (json!({"timeouts": {"totalMs": "5s"}}), "timeouts.totalMs"),
        (json!({"timeouts": {"attemptMs": 40_000}}), "timeouts.attemptMs"),
        (json!({"loadBalancing": {"strategy": "magic"}}), "loadBalancing.strategy"),
        (json!({"circuitBreaker": {"failureThreshold": 0}}), "circuitBreaker.failureThreshold"),
    ] {
        let refused = house.put("/services/s/policy", &patch).with_status(400);
        assert_eq!((refused.reason().as_str(), refused.json()["field"].as_str()), ("bad_request", Some(field)), "{patch}");
    }
    let typo = house.put("/services/s/policy", &json!({"retry": {"maxRetires": 1}})).json();
    assert!(typo["error"].as_str().is_some_and(|sentence| sentence.contains("did you mean maxRetries?")), "{typo}");
    for body in ["", "[]", "null", "5", "{"] {
        house.ask("PUT", "/services/s/policy", &[], body.as_bytes()).with_status(400);
    }
    assert_eq!(house.get("/services/s/policy").json(), before);
    assert_eq!(house.get("/services/a%20b/policy").with_status(404).reason(), "not_found");
}

#[test]
fn settings_apply_to_the_next_call() {
    let house = House::new();
    let upstream = Upstream::start(|_| status(500));
    house.register("s", "i", &upstream);
    house.policy("s", &json!({"retry": {"maxRetries": 0}}));
    house.call("s", "/").with_status(503);
    assert_eq!(upstream.requests(), 1);
    house.policy("s", &json!({"retry": {"maxRetries": 2, "baseDelayMs": 1}}));
    house.call("s", "/").with_status(503);
    assert_eq!(upstream.requests(), 1 + 3);
}

#[test]
fn it_is_explained_why_each_instance_can_or_cannot_be_picked() {
    let house = House::new();
    let upstream = Upstream::named("x");
    house.register("s", "fine", &upstream);
    house.register("s", "drained", &upstream);
    house.register("s", "weightless", &upstream);
    let ill = json!({"name": "s", "id": "ill", "host": "127.0.0.1", "port": 9, "healthy": false});
    house.post("/register", &ill).with_status(200);
    house.put("/services/s/drained/state", &json!({"state": "drain"})).with_status(200);
    house.put("/services/s/weightless/weight", &json!({"weight": 0})).with_status(200);
    let explained = house.get("/services/s/explain").with_status(200).json();
    assert_eq!(explained["nextPick"], "fine");
    assert_eq!(explained["circuitBreaker"]["status"], "CLOSED");
    let instances = explained["instances"].as_array().expect("instances");
    let why: Vec<(&Value, &Value, &Value)> = instances.iter().map(|i| (&i["id"], &i["available"], &i["why"])).collect();
    for (id, available, sentence) in [
        ("drained", false, "state is drain"),
        ("fine", true, "available"),
        ("ill", false, "unhealthy: registered so"),
        ("weightless", false, "weight is 0"),
    ] {
        assert!(why.contains(&(&json!(id), &json!(available), &json!(sentence))), "{id}: {why:?}");
    }
    assert_eq!(house.get("/services/nobody/explain").with_status(404).reason(), "not_found");
}

#[test]
fn a_serving_mesh_says_that_it_is_ready_in_each_clients_way() {
    let house = House::new();
    assert_eq!(house.get("/ready").with_status(200).json(), json!({"status": "ready"}));
    for target in ["/v1.0/healthz", "/v1.0/healthz/outbound"] {
        let answer = house.get(target).with_status(204);
        assert_eq!((answer.body.len(), answer.header("content-length")), (0, None));
    }
}

#[test]
fn the_effective_configuration_is_shown() {
    let house = House::new();
    assert_eq!(house.get("/config").with_status(200).json(), json!({"listen": "127.0.0.1:0"}));
    house.server.set_effective(json!({"changed": true}));
    assert_eq!(house.get("/config").json(), json!({"changed": true}));
}

#[test]
fn events_tell_what_changed_since_a_point() {
    let house = House::new();
    house.register_at("s", "a", 9);
    let first = house.get("/events").with_status(200).json();
    assert_eq!(first["missed"], 0);
    let next = first["next"].as_u64().expect("a number");
    let event = &first["events"][0];
    assert_eq!((&event["kind"], &event["service"], &event["instance"]), (&json!("registered"), &json!("s"), &json!("a")));
    assert!(event["at"].as_u64().is_some_and(|at| at > 1_600_000_000_000), "{event}");

    house.put("/services/s/a/state", &json!({"state": "drain", "reason": "x"})).with_status(200);
    house.put("/services/s/a/state", &json!({"state": "drain", "reason": "x"})).with_status(200);
    house.put("/services/s/a/weight", &json!({"weight": 2})).with_status(200);
    house.policy("s", &json!({"retry": {"maxRetries": 0}}));
    house.ask("DELETE", "/services/s/a", &[], b"").with_status(200);
    let later = house.get(&format!("/events?since={next}")).json();
    let kinds: Vec<&Value> = later["events"].as_array().expect("events").iter().map(|event| &event["kind"]).collect();
    assert_eq!(kinds, ["state", "weight", "policy", "deregistered"], "what is no news is no event");
    assert_eq!(house.get("/events?since=x").with_status(400).json()["field"], "since");
    assert_eq!(house.get("/events?since=99999999").json()["events"], json!([]));
}

#[test]
fn a_circuit_closes_again_after_two_good_calls() {
    let house = House::with(json!({"retry": {"maxRetries": 0}, "circuitBreaker": {"failureThreshold": 2, "timeoutMs": 500}}));
    let upstream = Upstream::start(|asked| if asked.target == "/bad" { status(500) } else { ok("") });
    house.register("s", "i", &upstream);
    let before = Instant::now();
    house.call("s", "/bad").with_status(503);
    house.call("s", "/bad").with_status(503);
    assert_eq!(house.call("s", "/").with_status(503).reason(), "circuit_open");
    eventually("the circuit lets a trial through", || (house.call("s", "/").status == 200).then_some(()));
    assert!(before.elapsed() >= Duration::from_millis(500), "not at once");
    assert_eq!(house.metrics()["circuitBreakers"]["s"]["status"], "HALF_OPEN");
    house.call("s", "/").with_status(200);
    assert_eq!(house.metrics()["circuitBreakers"]["s"], json!({"status": "CLOSED", "failureCount": 0, "successCount": 0}));
}
