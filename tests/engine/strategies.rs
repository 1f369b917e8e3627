//! The strategies and their options, on the engine as a whole.

use std::collections::BTreeMap;

use serde_json::json;
use weft::Call;
use weft::model::Weight;
use weft::policy::health::CheckResult;
use weft::telemetry::events::Kind;

use super::world::{Act, World, answer, get, ok, refuse};

/// So many instances `i0`, `i1`, … that all act the same.
fn many(world: World, instances: usize, act: &Act) -> World {
    (0..instances).fold(world, |world, n| world.with(&format!("i{n}"), [act.clone()]))
}

fn strategy(name: &str) -> World {
    World::new().policy(json!({"loadBalancing": {"strategy": name}, "circuitBreaker": {"failureThreshold": 1_000_000}}))
}

fn shares(world: &World) -> BTreeMap<String, f64> {
    world.metrics().instances.into_iter().map(|(id, instance)| (id, instance.share_percent)).collect()
}

#[test]
fn peak_ewma_leaves_a_slow_instance_alone() {
    let world = many(strategy("peak_ewma"), 4, &ok().after(10)).with("slow", [ok().after(100)]);
    world.serves(1_000);
    assert!(shares(&world)["slow"] <= 1.0, "{:?}", shares(&world));
    let expected: Vec<Option<f64>> = world.explain().instances.iter().map(|instance| instance.expected_ms).collect();
    assert!(expected.iter().flatten().count() == 5 && expected[4] > expected[0].map(|ms| 2.0 * ms), "{expected:?}");
}

#[test]
fn an_instance_that_fails_fast_attracts_nothing() {
    for act in [answer(500), answer(429), refuse()] {
        // Ejection stays out of it.
        let world = many(strategy("peak_ewma"), 4, &ok().after(10)).with("bad", [act.clone()]);
        world.patch(json!({"outlier": {"consecutiveFailures": 1_000_000}}));
        world.serves(1_000);
        assert!(shares(&world)["bad"] <= 1.0, "{act:?}: {:?}", shares(&world));
    }
}

#[test]
fn an_instance_that_asks_to_be_spared_for_a_while_is() {
    let world = strategy("peak_ewma").with("a", [ok().after(500)]).with("busy", [answer(429).header("retry-after", "30"), ok().after(500)]);
    while world.sent_to("busy") == 0 {
        world.serves(1);
    }
    let before = world.elapsed();
    while world.sent_to("busy") == 1 {
        world.serves(1);
    }
    assert!(world.elapsed() - before > 30_000, "{}", world.elapsed() - before);
}

#[test]
fn random_spreads_evenly_and_weighted_random_by_weight() {
    for (name, heavy) in [("random", 25.0), ("weighted_random", 62.5)] {
        let world = many(strategy(name), 4, &ok());
        world.weight("i0", 5);
        world.serves(4_000);
        let share = shares(&world)["i0"];
        assert!((share - heavy).abs() < 3.2, "{name}: {share}");
        assert_eq!(world.explain().next_pick, None, "only chance will tell");
    }
}

#[test]
fn the_same_key_goes_to_the_same_instance_by_hash_key_or_header() {
    let world = many(strategy("consistent_hash"), 5, &ok());
    world.patch(json!({"loadBalancing": {"hashHeader": "x-user"}}));
    let to = |call: &Call| world.invoke(call).expect("an answer").instance.to_string();
    let by_key = |key: &str| Call { hash_key: Some(key.to_owned()), ..get() };
    let by_header = |key: &str| get().header("X-User", key).expect("a header");
    for user in 0..50 {
        let user = format!("user-{user}");
        let first = to(&by_key(&user));
        assert_eq!([to(&by_key(&user)), to(&by_header(&user))], [first.clone(), first.clone()], "{user}");
        let key_wins = by_header("somebody else");
        assert_eq!(to(&Call { hash_key: Some(user.clone()), ..key_wins }), first);
    }
    let used = world.metrics().instances.values().filter(|instance| instance.requests > 0).count();
    assert_eq!(used, 5);
}

#[test]
fn a_key_moves_on_when_its_instance_goes_and_comes_back_with_it() {
    let world = many(strategy("consistent_hash"), 5, &ok());
    let call = Call { hash_key: Some("user-1".to_owned()), ..get() };
    let home = world.invoke(&call).expect("an answer").instance;
    world.state(home.as_str(), weft::model::AdminState::Drain);
    assert_ne!(world.invoke(&call).expect("another one").instance, home);
    world.state(home.as_str(), weft::model::AdminState::Ready);
    assert_eq!(world.invoke(&call).expect("home again").instance, home);
}

fn in_zone(world: World, instance: &str, zone: &str, act: Act) -> World {
    world.script(instance, [act]);
    world.register(instance, |registration| registration.zone = Some(zone.to_owned()));
    world
}

#[test]
fn the_own_zone_is_preferred_and_spills_over_only_when_none_of_it_is_available() {
    let world = World::new().policy(json!({"loadBalancing": {"zone": "east"}}));
    let world = in_zone(in_zone(in_zone(world, "e1", "east", ok()), "e2", "east", ok()), "w1", "west", ok());
    world.serves(100);
    assert_eq!([world.sent_to("e1"), world.sent_to("e2"), world.sent_to("w1")], [50, 50, 0]);
    world.state("e1", weft::model::AdminState::Drain);
    world.serves(10);
    assert_eq!(world.sent_to("w1"), 0, "there is still one");
    world.state("e2", weft::model::AdminState::Drain);
    world.serves(10);
    assert_eq!(world.sent_to("w1"), 10);
    assert_eq!(world.explain().zone.as_deref(), Some("east"));
}

#[test]
fn a_retry_prefers_another_zone_to_an_instance_that_failed() {
    let world = World::new().policy(json!({"loadBalancing": {"zone": "east"}}));
    let world = in_zone(in_zone(world, "e1", "east", answer(500)), "w1", "west", ok());
    assert_eq!(world.get().expect("the other zone answers").instance.as_str(), "w1");
}

#[test]
fn a_new_instance_gets_its_share_little_by_little() {
    let world = World::new().policy(json!({"loadBalancing": {"slowStartMs": 10_000}})).with("old", [ok()]);
    world.pass(10_000);
    let world = world.with("new", [ok()]);
    let share_of_new = |calls| {
        let before = world.sent();
        world.serves(calls);
        world.deliveries_after(before).iter().filter(|delivery| delivery.instance == "new").count()
    };
    assert_eq!(share_of_new(110), 10, "a tenth of the weight");
    assert_eq!(world.why("new"), "available, warming up: 10 % of its weight");
    world.pass(5_000);
    assert!((49..=51).contains(&share_of_new(150)));
    world.pass(5_000);
    assert!((49..=51).contains(&share_of_new(100)));
    assert_eq!(world.why("new"), "available");
}

#[test]
fn one_that_recovers_warms_up_again() {
    let world = World::new().policy(json!({"loadBalancing": {"slowStartMs": 10_000}})).with("a", [ok()]).with("b", [ok()]);
    world.pass(10_000);
    world.register("a", |registration| registration.health_check = weft::model::HealthTarget::new("http://10.0.0.1/health").ok());
    world.checks("a", [CheckResult::Answered(503), CheckResult::Passed]);
    world.mesh.check_now();
    assert_eq!(world.why("a"), "unhealthy: check answered 503");
    world.mesh.check_now();
    assert_eq!(world.why("a"), "available, warming up: 10 % of its weight");
    world.pass(10_000);
    world.state("b", weft::model::AdminState::Maint);
    world.serves(1);
    world.state("b", weft::model::AdminState::Ready);
    assert_eq!(world.why("b"), "available, warming up: 10 % of its weight");
}

#[test]
fn one_whose_ejection_is_over_warms_up_and_is_said_to_be_back() {
    let world = World::new().policy(json!({"loadBalancing": {"slowStartMs": 10_000}}));
    let world = world.with("a", [refuse(), refuse(), refuse(), refuse(), refuse(), ok()]).with("b", [ok()]);
    world.pass(10_000);
    while world.ejected().is_empty() {
        world.serves(1);
    }
    world.pass(30_000);
    world.serves(1);
    let back = world.events(Kind::Returned);
    assert_eq!(back.iter().map(|event| event.detail.as_str()).collect::<Vec<_>>(), ["ejection is over"]);
    assert_eq!(world.why("a"), "available, warming up: 10 % of its weight");
    world.serves(100);
    assert_eq!(world.events(Kind::Returned).len(), 1, "said once");
}

#[test]
fn in_a_panic_health_is_ignored_and_everybody_can_see_it() {
    let world = World::new().policy(json!({"loadBalancing": {"panicThresholdPercent": 50}}));
    let world = many(world, 4, &ok());
    let healthy = |instance: &str, healthy| world.register(instance, |registration| registration.healthy = Some(healthy));
    healthy("i0", false);
    healthy("i1", false);
    world.serves(8);
    assert_eq!((world.sent_to("i0"), world.explain().panic, world.metrics().panic), (0, false, false), "half are healthy");
    healthy("i2", false);
    world.serves(8);
    assert!(["i0", "i1", "i2", "i3"].iter().all(|instance| world.sent_to(instance) >= 2));
    assert!(world.explain().panic && world.metrics().panic);
    assert_eq!(world.why("i0"), "available only because too few others are healthy; unhealthy: registered so");
    assert!(world.explain().instances[0].available);
    healthy("i2", true);
    world.serves(1);
    let details: Vec<String> = world.events(Kind::Panic).into_iter().map(|event| event.detail).collect();
    assert_eq!(
        details,
        [
            "fewer than 50 % of the instances are healthy: health and ejection are ignored",
            "enough instances are healthy: health and ejection count again",
        ]
    );
}

#[test]
fn without_a_threshold_there_is_no_panic() {
    let world = many(World::new(), 2, &ok());
    for instance in ["i0", "i1"] {
        world.register(instance, |registration| registration.healthy = Some(false));
    }
    world.get().expect_err("nobody is healthy");
    assert!(!world.explain().panic && world.events(Kind::Panic).is_empty());
}

#[test]
fn weights_divide_what_peak_ewma_compares() {
    let world = strategy("peak_ewma").with("a", [ok().after(10)]).with("b", [ok().after(20)]);
    world.register("b", |registration| registration.weight = Weight::new(4).ok());
    world.serves(200);
    assert!(world.sent_to("b") > 150, "{}", world.sent_to("b"));
}
