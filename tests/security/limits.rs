//! What one caller may take, so that others find something left.

use std::thread;

use serde_json::{Value, json};
use weft::Mesh;
use weft::server::{Config, InvokeOn};

use crate::callers::{Guarded, at, line};
use crate::support::eventually;
use crate::support::upstream::{Act, Upstream, answer};

const ALL: &str = "read,register,invoke,admin";

#[test]
fn one_caller_cannot_fill_the_registry() {
    let mesh = Guarded::new(&[line("a", "register,read", json!({"maxInstances": 3})), line("b", "register", json!({}))]);
    let register = |name: &str, service: &str, id: &str| mesh.ask(name, "POST", "/register", &at(service, id, 9));
    for (service, id) in [("s", "1"), ("s", "2"), ("t", "1"), ("s", "1")] {
        register("a", service, id).with_status(200);
    }
    let refused = register("a", "u", "1").with_status(503);
    assert_eq!((refused.reason().as_str(), refused.json()["limit"].clone()), ("overloaded", json!("maxInstances of the token")));
    assert_eq!(refused.header("retry-after"), Some("1"));
    register("b", "u", "1").with_status(200);
    // What is somebody else's would become one's own.
    register("a", "u", "1").with_status(503);
    mesh.ask("a", "POST", "/deregister", &json!({"name": "t", "id": "1"})).with_status(200);
    register("a", "u", "1").with_status(200);
    let metrics = mesh.get("a", "/metrics").json();
    assert_eq!(metrics["refused"]["maxInstances of the token"], 2);
    assert_eq!(mesh.get("a", "/services/u").json()["instances"][0]["registeredBy"], "a");
}

#[test]
fn who_has_registered_what_outlives_a_restart() {
    let folder = crate::weft::Folder::new();
    std::fs::create_dir(folder.path("state")).expect("a directory");
    let lines = [line("a", "register,read", json!({"maxInstances": 1}))];
    let disk = || weft::outbound::store::Disk::open(std::path::Path::new(&folder.path("state"))).expect("a store");
    for (id, status) in [("1", 200), ("2", 503)] {
        let mesh = Guarded::of(&lines, Mesh::builder().store(disk()), Config::default());
        mesh.ask("a", "POST", "/register", &at("s", id, 9)).with_status(status);
    }
}

#[test]
fn one_caller_has_only_so_many_calls_of_a_service_under_way() {
    for invoke_on in [InvokeOn::Edge, InvokeOn::Workers] {
        let upstream = Upstream::start(|_| Act::Held(answer(200, &[], "late")));
        let mesh = Guarded::on(&[line("a", ALL, json!({})), line("b", ALL, json!({}))], invoke_on);
        mesh.ask("a", "POST", "/register", &at("s", "i", upstream.port())).with_status(200);
        mesh.ask("a", "PUT", "/services/s/policy", &json!({"limits": {"maxInFlightPerCaller": 2}})).with_status(200);
        let call = json!({"serviceName": "s", "endpoint": "/"});
        thread::scope(|scope| {
            let under_way: Vec<_> = (0..2).map(|_| scope.spawn(|| mesh.ask("a", "POST", "/invoke", &call))).collect();
            eventually("both are under way", || (upstream.requests() == 2).then_some(()));
            for refused in [mesh.ask("a", "POST", "/invoke", &call), mesh.get("a", "/proxy/s/")] {
                let refused = refused.with_status(503);
                assert_eq!(
                    (refused.reason().as_str(), refused.json()["limit"].clone()),
                    ("overloaded", json!("limits.maxInFlightPerCaller"))
                );
            }
            let other = scope.spawn(|| mesh.get("b", "/proxy/s/"));
            eventually("another caller's call is under way", || (upstream.requests() == 3).then_some(()));
            upstream.release();
            under_way.into_iter().chain([other]).for_each(|call| drop(call.join().expect("answered").with_status(200)));
        });
        upstream.release();
        mesh.ask("a", "POST", "/invoke", &call).with_status(200);
        let refused = mesh.get("a", "/metrics").json()["services"]["s"]["refused"].clone();
        assert_eq!((&refused["byLimit"]["limits.maxInFlightPerCaller"], &refused["overloaded"]), (&json!(2), &json!(2)));
    }
}

#[test]
fn callers_are_told_apart_by_their_names_where_a_rate_is_limited() {
    let upstream = Upstream::named("hello");
    let mesh = Guarded::new(&[line("a", ALL, json!({})), line("b", ALL, json!({}))]);
    mesh.ask("a", "POST", "/register", &at("s", "i", upstream.port())).with_status(200);
    let policy = json!({"rateLimit": {"perCaller": {"ratePerSecond": 0.001, "burst": 2}}});
    mesh.ask("a", "PUT", "/services/s/policy", &policy).with_status(200);
    let statuses = |name: &str| [0; 3].map(|_| mesh.ask(name, "GET", "/proxy/s/", &Value::Null).status);
    assert_eq!((statuses("a"), statuses("b")), ([200, 200, 429], [200, 200, 429]));
}
