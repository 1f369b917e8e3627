//! Settings: merged, checked as a whole, applied to the next call.

use serde_json::{Value, json};
use weft::mesh::{RegistryError, Settings};
use weft::model::Limit;
use weft::telemetry::events::Kind;

use super::world::{SERVICE, World, answer, at_port, ok, service, together};

fn fault(world: &World, patch: &Value) -> String {
    match world.mesh.patch_policy(&service(SERVICE), patch) {
        Err(RegistryError::Invalid(fault)) => fault.to_string(),
        other => panic!("{patch}: {other:?}"),
    }
}

#[test]
fn a_patch_changes_what_it_names_and_applies_to_the_next_call() {
    let world = World::new().with("a", [answer(500)]);
    assert_eq!(world.get().expect_err("it fails").attempts, 4);
    let world = world.policy(json!({"retry": {"maxRetries": 2}})).policy(json!({"retry": {"baseDelayMs": 7}}));
    assert_eq!(world.get().expect_err("it fails").attempts, 3);
    assert_eq!(world.times()[4..], [700, 707, 721], "both patches are in force");
    let policy = world.mesh.policy(&service(SERVICE));
    assert_eq!((policy.retry.max_retries, policy.retry.max_delay_ms.0, policy.circuit_breaker.failure_threshold), (2, 10_000, 5));
    assert_eq!(world.events(Kind::Policy).len(), 2);
}

#[test]
fn a_call_under_way_keeps_the_settings_it_began_with() {
    let world = World::new();
    let changer = world.clone();
    let changes = move || changer.patch(json!({"retry": {"maxRetries": 0}}));
    let world = world.with("a", [answer(500).meanwhile(changes), answer(500)]);
    assert_eq!(world.get().expect_err("it fails").attempts, 4);
    assert_eq!(world.get().expect_err("it fails").attempts, 1);
}

#[test]
fn null_takes_a_setting_back() {
    let world = World::built(|builder| builder.service(service(SERVICE), json!({"retry": {"maxRetries": 7}})));
    let retries = || world.mesh.policy(&service(SERVICE)).retry.max_retries;
    let patch = |json: Value| world.mesh.patch_policy(&service(SERVICE), &json).expect("valid");
    assert_eq!(retries(), 7);
    patch(json!({"retry": {"maxRetries": 1}}));
    assert_eq!(retries(), 1);
    patch(json!({"retry": {"maxRetries": null}}));
    assert_eq!(retries(), 7, "the configured one is in force again");
    patch(json!({"retry": null, "limits": {"maxQueue": 1}}));
    assert_eq!((retries(), world.mesh.policy(&service(SERVICE)).limits.max_queue), (7, 1));
}

#[test]
fn what_is_put_for_one_service_does_not_grow_without_end() {
    let world = World::new();
    let patch = |n: usize| json!({"healthCheck": {"headers": {format!("h{n}"): "x".repeat(20_000)}}});
    for n in 0..3 {
        world.mesh.patch_policy(&service(SERVICE), &patch(n)).expect("together less than 64 KiB");
    }
    assert!(fault(&world, &patch(3)).starts_with("policy: comes to 80"));
    assert_eq!(world.mesh.policy(&service(SERVICE)).health_check.headers.len(), 3);
    world.patch(json!({"healthCheck": {"headers": {"h0": null, "h3": "y"}}}));
}

#[test]
fn who_fills_the_places_of_services_that_are_not_there_takes_none_from_those_that_are() {
    let world = World::built(|builder| builder.limits(3, 3)).with("a", [ok()]);
    let put = |name: &str| world.mesh.patch_policy(&service(name), &json!({"limits": {"maxQueue": 1}}));
    for name in ["x-1", "x-2", "x-3"] {
        put(name).expect("room");
    }
    assert_eq!(put("x-4"), Err(RegistryError::Full(Limit::Services)));
    put(SERVICE).expect("a place of its own");
    assert_eq!(put("x-4"), Err(RegistryError::Full(Limit::Services)));
    put("x-3").expect("it has one");
}

#[test]
fn resetting_brings_back_the_configuration() {
    let world = World::built(|builder| {
        builder.defaults(json!({"limits": {"maxQueue": 5}})).service(service(SERVICE), json!({"limits": {"maxInFlight": 6}}))
    });
    let limits = || world.mesh.policy(&service(SERVICE)).limits;
    world.mesh.patch_policy(&service(SERVICE), &json!({"limits": {"maxQueue": 50, "maxInFlight": 60}})).expect("valid");
    assert_eq!((limits().max_queue, limits().max_in_flight), (50, 60));
    world.mesh.reset_policy(&service(SERVICE)).expect("kept");
    assert_eq!((limits().max_queue, limits().max_in_flight), (5, 6));
    let events = world.mesh.events(0).next;
    world.mesh.reset_policy(&service(SERVICE)).expect("nothing to do");
    assert_eq!(world.mesh.events(0).next, events, "which is no news");
}

#[test]
fn a_bad_key_is_named_and_nothing_has_changed() {
    let world = World::new().with("a", [ok()]).policy(json!({"retry": {"maxRetries": 1}}));
    let before = (world.mesh.policy(&service(SERVICE)), world.mesh.events(0));
    for (patch, named) in [
        (json!({"retry": {"maxRetires": 1}}), "retry.maxRetires: \"maxRetires\" is not a setting; did you mean maxRetries?"),
        (json!({"retrys": {}}), "retrys: "),
        (json!({"retry": {"maxRetries": "two"}}), "retry.maxRetries: "),
        (json!({"retry": {"maxRetries": -1}}), "retry.maxRetries: "),
        (json!({"retry": {"jitter": 1.5}}), "retry.jitter: 1.5 is out of range; use 0 to 1"),
        (json!({"retry": {"retryOn": ["always"]}}), "retry.retryOn: "),
        (json!({"retry": 5}), "retry: "),
        (json!({"loadBalancing": {"strategy": "luck"}}), "loadBalancing.strategy: "),
        (json!({"circuitBreaker": {"failureThreshold": 0}}), "circuitBreaker.failureThreshold: 0 is out of range"),
        (json!({"timeouts": {"totalMs": 500}}), "timeouts.attemptMs: 10000 is above timeouts.totalMs 500"),
        // The good half of a patch does not count either.
        (json!({"limits": {"maxQueue": 1}, "retry": {"maxRetries": 1000}}), "retry.maxRetries: 1000 is out of range"),
    ] {
        let fault = fault(&world, &patch);
        assert!(fault.starts_with(named), "{patch}: {fault}");
        assert_eq!((world.mesh.policy(&service(SERVICE)), world.mesh.events(0)), before, "{patch}");
    }
}

#[test]
fn a_patch_that_is_no_object_is_refused_and_nothing_has_changed() {
    let world = World::new().with("a", [ok()]).policy(json!({"retry": {"maxRetries": 1}}));
    for patch in [json!(5), json!("none"), json!([]), json!(true)] {
        fault(&world, &patch);
        assert_eq!(world.mesh.policy(&service(SERVICE)).retry.max_retries, 1, "{patch}");
    }
}

#[test]
fn settings_can_be_there_before_the_service_and_outlive_it() {
    let world = World::new().policy(json!({"limits": {"maxInFlight": 7}})).with("a", [ok()]);
    assert_eq!(world.explain().max_in_flight, 7);
    world.mesh.deregister(&service(SERVICE), &super::world::id("a")).expect("known");
    world.register("a", |_| ());
    assert_eq!(world.explain().max_in_flight, 7);
}

#[test]
fn a_bad_configuration_is_refused_when_the_mesh_is_built_or_reloaded() {
    for builder in [
        weft::Mesh::builder().defaults(json!({"retry": {"maxRetires": 1}})),
        weft::Mesh::builder().service(service(SERVICE), json!({"retry": {"jitter": 2}})),
    ] {
        assert!(builder.background(false).build().is_err());
    }
    let world = World::new().with("a", [ok()]).policy(json!({"timeouts": {"attemptMs": 9_000}}));
    let before = world.mesh.policy(&service(SERVICE));
    let too_short = Settings { defaults: json!({"timeouts": {"totalMs": 500, "attemptMs": 500}}), ..Settings::default() };
    let fault = world.mesh.reconfigure(too_short).expect_err("it contradicts the patch").to_string();
    assert!(fault.starts_with("services.users.timeouts.attemptMs: "), "{fault}");
    assert_eq!(world.mesh.policy(&service(SERVICE)), before);
}

#[test]
fn a_reloaded_configuration_applies_at_once_below_what_was_patched() {
    let world = World::new().with("a", [ok()]).policy(json!({"limits": {"maxQueue": 3}}));
    let settings = Settings { defaults: json!({"limits": {"maxQueue": 30, "maxInFlight": 40}}), ..Settings::default() };
    world.mesh.reconfigure(settings).expect("valid");
    assert_eq!((world.explain().max_queue, world.explain().max_in_flight), (3, 40));
    assert_eq!(world.events(Kind::Config).len(), 1);
}

#[test]
fn patches_of_different_services_and_keys_at_once_all_survive() {
    for _ in 0..20 {
        let world = World::new();
        together(8, |n| {
            world.mesh.patch_policy(&service(&format!("s{n}")), &json!({"retry": {"maxRetries": n}})).expect("valid");
            let key = ["maxRetries", "baseDelayMs", "maxDelayMs", "budgetPerSecond"][n % 4];
            world.mesh.patch_policy(&service("shared"), &json!({"retry": {key: 42}})).expect("valid");
        });
        for n in 0..8 {
            assert_eq!(world.mesh.policy(&service(&format!("s{n}"))).retry.max_retries, n);
        }
        let shared = world.mesh.policy(&service("shared")).retry;
        assert_eq!((shared.max_retries, shared.base_delay_ms.0, shared.max_delay_ms.0, shared.budget_per_second), (42, 42, 42, 42.0));
    }
}

#[test]
fn a_service_that_is_registered_while_its_settings_change_has_the_new_ones() {
    for _ in 0..300 {
        let world = World::new();
        together(2, |n| match n {
            0 => world.mesh.register(at_port("a", 4001)).expect("registered"),
            _ => world.mesh.patch_policy(&service(SERVICE), &json!({"limits": {"maxInFlight": 7}})).expect("valid"),
        });
        assert_eq!(world.explain().max_in_flight, 7);
    }
}

#[test]
fn settings_change_under_load_without_disturbing_it() {
    let world = World::of_threads().with("a", [ok()]).with("b", [ok()]);
    together(4, |n| match n {
        0 => (1..=50).for_each(|limit| world.patch(json!({"limits": {"instanceMaxInFlight": 3 + limit}}))),
        _ => world.serves(100),
    });
    assert_eq!(world.explain().in_flight, 0);
    world.is_at_rest();
}
