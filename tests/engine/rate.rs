//! Rate limits, of a service and of each caller; settings that make no sense together.

use std::net::IpAddr;

use serde_json::json;
use weft::model::{Caller, Reason};
use weft::telemetry::events::Kind;
use weft::{Call, Mesh};

use super::world::{World, get, ok, service, together};

#[allow(clippy::needless_pass_by_value)] // It reads better where it is used.
fn limited(json: serde_json::Value) -> World {
    World::new().policy(json!({"rateLimit": json})).with("a", [ok()])
}

fn from(caller: &str) -> Call {
    let caller = match caller.parse::<IpAddr>() {
        Ok(address) => Caller { name: None, address: Some(address) },
        Err(_) => Caller { name: Some(caller.into()), address: None },
    };
    Call { caller, ..get() }
}

/// How many of so many calls are let in.
fn admitted(world: &World, call: &Call, calls: usize) -> usize {
    (0..calls).filter(|_| world.invoke(call).is_ok()).count()
}

#[test]
fn what_comes_too_often_is_refused_and_told_when_to_come_back() {
    let world = limited(json!({"ratePerSecond": 10, "burst": 5}));
    world.serves(5);
    let error = world.get().expect_err("one too many");
    assert_eq!((error.reason(), error.attempts, error.not_sent), (Reason::RateLimited, 0, true));
    assert_eq!(error.retry_after(), Some(super::world::ms(100)));
    assert_eq!(error.to_string(), "users is called too often: the limit rateLimit.ratePerSecond is reached");
    world.pass(100);
    world.serves(1);
    let refused = world.metrics().refused;
    assert_eq!((refused.rate_limited, refused.by_limit["rateLimit.ratePerSecond"], refused.overloaded), (1, 1, 0));
    assert_eq!((world.is_at_rest(), world.sent(), world.breaker()), (7, 6, weft::policy::breaker::Status::Closed));
}

#[test]
fn each_caller_has_its_own_share() {
    let world = limited(json!({"perCaller": {"ratePerSecond": 1, "burst": 3}}));
    for caller in ["anna", "bert", "10.0.0.7", "10.0.0.8", "2001:db8::1", "2001:db8:0:1::1"] {
        assert_eq!(admitted(&world, &from(caller), 10), 3, "{caller}");
    }
    assert_eq!(admitted(&world, &from("2001:db8::ffff"), 10), 0, "the same host, as far as anybody can tell");
    assert_eq!(world.metrics().refused.by_limit["rateLimit.perCaller.ratePerSecond"], 6 * 7 + 10);
}

#[test]
fn sixty_four_threads_get_exactly_the_burst() {
    let world = World::of_threads().policy(json!({"rateLimit": {"ratePerSecond": 1, "burst": 500}})).with("a", [ok()]);
    let admitted: usize = together(64, |_| admitted(&world, &get(), 20)).into_iter().sum();
    assert_eq!(admitted, 500);
    world.is_at_rest();
}

#[test]
fn calls_that_are_refused_earn_no_retries() {
    let world = limited(json!({"ratePerSecond": 1, "burst": 1}));
    world.patch(json!({"retry": {"budgetPerSecond": 0, "budgetRatio": 0.5}}));
    let before = world.explain().retry_budget_left;
    admitted(&world, &get(), 100);
    assert!(world.explain().retry_budget_left <= before + 1.0);
}

#[test]
fn settings_that_make_no_sense_together_are_accepted_with_a_warning() {
    let world = World::new().with("a", [ok()]).policy(json!({"limits": {"queueTimeoutMs": 40_000}}));
    let said: Vec<String> = world.events(Kind::Warning).into_iter().map(|event| event.detail).collect();
    let warning = "limits.queueTimeoutMs 40000 is not below timeouts.totalMs 30000; a call that waits that long has no time left";
    assert_eq!(said, [warning]);
    assert_eq!(world.mesh.policy(&service("users")).warnings(), [warning]);
    let configured = Mesh::builder().background(false).defaults(json!({"limits": {"queueTimeoutMs": 0}})).build().expect("valid");
    assert_eq!(configured.events(0).events.iter().filter(|event| event.kind == Kind::Warning).count(), 1);
}
