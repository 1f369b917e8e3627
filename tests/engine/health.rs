//! Health checks on demand: thresholds, what outweighs what, and what it does to calls.

use serde_json::json;
use weft::model::{AdminState, HealthTarget, Host, Reason};
use weft::policy::health::CheckResult::{self, Answered, Passed, TimedOut, Unreachable};
use weft::telemetry::events::Kind;

use super::discovery::Records;
use super::world::{World, ok};

/// A world with an instance whose checks end like this, one after the other.
fn checked(results: &[CheckResult]) -> World {
    let world = World::new().with("a", [ok()]);
    give_health_check(&world, "a", results);
    world
}

fn give_health_check(world: &World, instance: &str, results: &[CheckResult]) {
    world.register(instance, |registration| registration.health_check = HealthTarget::new("http://10.0.0.1:4001/health").ok());
    world.checks(instance, results.iter().copied());
}

fn is_healthy(world: &World) -> bool {
    world.mesh.metrics().service_health["users:a"]
}

/// The verdicts after each of `n` checks.
fn verdicts(world: &World, n: usize) -> Vec<bool> {
    let check = |_| {
        world.mesh.check_now();
        is_healthy(world)
    };
    (0..n).map(check).collect()
}

#[test]
fn the_first_result_decides_alone() {
    assert_eq!(verdicts(&checked(&[Unreachable]), 1), [false]);
    assert_eq!(verdicts(&checked(&[Answered(500)]), 1), [false]);
    assert_eq!(verdicts(&checked(&[Passed]), 1), [true]);
    let world = checked(&[Passed]);
    world.register("a", |registration| registration.healthy = Some(false));
    assert!(!is_healthy(&world), "until then what was registered counts");
    assert_eq!(verdicts(&world, 1), [true]);
}

#[test]
fn from_then_on_two_failures_take_it_out_and_one_pass_brings_it_back() {
    let world = checked(&[Passed, TimedOut, Passed, Unreachable, Answered(503), TimedOut, Passed]);
    assert_eq!(verdicts(&world, 7), [true, true, true, true, false, false, true]);
    let kinds: Vec<Kind> = world.mesh.events(0).events.into_iter().map(|event| event.kind).collect();
    assert_eq!(kinds, [Kind::Registered, Kind::Changed, Kind::Unhealthy, Kind::Healthy], "only changes are news");
}

#[test]
fn the_thresholds_can_be_set() {
    let thresholds = json!({"healthCheck": {"unhealthyThreshold": 3, "healthyThreshold": 2}});
    let world = checked(&[Passed, TimedOut, TimedOut, TimedOut, Passed, Passed]).policy(thresholds);
    assert_eq!(verdicts(&world, 6), [true, true, true, false, false, true]);
}

#[test]
fn an_unhealthy_instance_gets_no_calls_and_it_is_explained() {
    for (result, why) in [
        (Answered(503), "unhealthy: check answered 503"),
        (Unreachable, "unhealthy: check got no connection"),
        (TimedOut, "unhealthy: check timed out"),
    ] {
        let world = checked(&[result]).with("b", [ok()]);
        world.mesh.check_now();
        assert_eq!(world.why("a"), why);
        world.serves(4);
        assert_eq!(world.sent_to("a"), 0);
        let shown = world.mesh.service("users").expect("registered");
        assert_eq!(shown.instances.iter().map(|instance| instance.healthy).collect::<Vec<_>>(), [false, true]);
    }
}

#[test]
fn a_call_that_just_succeeded_outweighs_one_lost_check() {
    for lost in [Unreachable, TimedOut] {
        let world = checked(&[Passed, lost]);
        world.mesh.check_now();
        world.get().expect("an answer");
        world.pass(9_000);
        assert_eq!(verdicts(&world, 3), [true, true, false], "one per verdict: {lost:?}");
    }
}

#[test]
fn a_call_that_succeeded_long_ago_outweighs_nothing() {
    let world = checked(&[Passed, Unreachable]);
    world.mesh.check_now();
    world.get().expect("an answer");
    world.pass(10_001);
    assert_eq!(verdicts(&world, 2), [true, false]);
}

#[test]
fn what_an_instance_says_itself_outweighs_every_successful_call() {
    // A draining app finishes its calls and answers 503 to checks.
    let world = checked(&[Passed, Answered(503)]);
    world.mesh.check_now();
    let calls_and_check = |_| {
        world.serves(10);
        world.mesh.check_now();
        is_healthy(&world)
    };
    assert_eq!((0..2).map(calls_and_check).collect::<Vec<_>>(), [true, false]);
    assert_eq!(world.get().expect_err("nobody is left").reason(), Reason::NoHealthyInstance);
}

#[test]
fn only_who_wants_to_be_asked_is_asked() {
    let world = checked(&[Passed]).with("silent", [ok()]).with("maint", [ok()]);
    give_health_check(&world, "maint", &[Passed]);
    world.state("maint", AdminState::Maint);
    world.mesh.check_now();
    assert_eq!(world.network.probes(), ["a"]);
    world.state("maint", AdminState::Drain);
    world.mesh.check_now();
    assert_eq!(world.network.probes(), ["a", "a", "maint"], "who is drained is asked");
}

#[test]
fn an_instance_that_is_never_asked_stays_as_it_was_registered() {
    let world = World::new().with("a", [ok()]);
    assert_eq!(verdicts(&world, 3), [true; 3]);
    world.register("a", |registration| registration.healthy = Some(false));
    assert_eq!(verdicts(&world, 3), [false; 3]);
    world.register("a", |registration| registration.healthy = Some(true));
    assert!(is_healthy(&world));
}

#[test]
fn registering_again_as_healthy_does_not_override_a_failed_check_but_unhealthy_always_counts() {
    let world = checked(&[Unreachable, Passed]);
    world.mesh.check_now();
    world.register("a", |registration| registration.healthy = Some(true));
    assert!(!is_healthy(&world));
    world.mesh.check_now();
    assert!(is_healthy(&world));
    world.register("a", |registration| registration.healthy = Some(false));
    assert!(!is_healthy(&world));
}

#[test]
fn an_instance_that_moved_is_judged_anew() {
    let world = checked(&[Unreachable]);
    world.mesh.check_now();
    world.register("a", |registration| registration.port = std::num::NonZeroU16::new(4002).expect("a port"));
    assert!(is_healthy(&world));
}

#[test]
fn the_time_of_the_last_check_is_shown() {
    let world = checked(&[Passed]);
    let last_check = || world.mesh.service("users").expect("registered").instances[0].last_health_check;
    assert_eq!(last_check(), 0, "never");
    world.pass(1_234);
    world.mesh.check_now();
    assert_eq!(last_check(), 1_234);
}

#[test]
fn a_resolver_that_says_nothing_takes_no_instance_out() {
    let records = Records::default();
    records.are(&["10.0.0.7"]);
    let resolver = records.clone();
    let world = World::built(|builder| builder.resolver(resolver));
    world.script("a", [ok()]);
    world.register("a", |registration| {
        registration.host = Host::new("a.internal").expect("a name");
        registration.health_check = HealthTarget::new("http://a.internal:4001/health").ok();
    });
    world.checks("a", [Passed]);
    assert_eq!(verdicts(&world, 1), [true]);
    records.are(&[]);
    assert_eq!(verdicts(&world, 3), [true; 3], "it is asked where it was found last");
    assert_eq!(world.network.probes().len(), 4);
    world.serves(1);
}
