//! Balancing: who gets the next attempt, and who gets none and why.

use std::thread;

use serde_json::json;
use weft::model::{AdminState, Reason};

use super::world::{Gate, World, ok, together};

fn trio() -> World {
    World::of_threads().with("a", [ok()]).with("b", [ok()]).with("c", [ok()])
}

#[test]
fn equal_instances_get_exactly_equal_shares_over_all_threads() {
    let world = trio();
    together(8, |_| world.serves(300));
    for instance in ["a", "b", "c"] {
        assert_eq!(world.sent_to(instance), 800);
        assert_eq!((world.metrics().instances[instance].requests, world.metrics().instances[instance].share_percent), (800, 33.33));
    }
}

#[test]
fn they_take_turns_in_order_of_registration() {
    let world = World::new().with("z", [ok()]).with("a", [ok()]).with("m", [ok()]);
    for expected in ["z", "a", "m", "z", "a", "m", "z"] {
        assert_eq!(world.explain().next_pick.as_deref(), Some(expected));
        assert_eq!(world.get().expect("an answer").instance.as_str(), expected);
    }
}

#[test]
fn weights_are_kept_exactly_and_spread_evenly() {
    let world = World::new().with("a", [ok()]).with("b", [ok()]).with("c", [ok()]);
    world.weight("a", 5);
    for _ in 0..7 * 10 {
        world.get().expect("an answer");
    }
    assert_eq!(world.order()[..14], ["a", "a", "b", "a", "c", "a", "a", "a", "a", "b", "a", "c", "a", "a"]);
    assert_eq!(["a", "b", "c"].map(|instance| world.sent_to(instance)), [50, 10, 10]);
}

#[test]
fn a_registered_weight_counts_until_an_operator_sets_another() {
    let world = World::new().with("a", [ok()]).with("b", [ok()]);
    world.register("a", |registration| registration.weight = weft::model::Weight::new(3).ok());
    assert_eq!(world.explain().instances[0].weight, 3);
    world.weight("a", 0);
    world.register("a", |registration| registration.weight = weft::model::Weight::new(3).ok());
    assert_eq!(world.explain().instances[0].weight, 0, "whatever it registers");
}

#[test]
fn least_connections_goes_to_whoever_is_idle() {
    for name in ["least_connections", "least-connections", "least-conn"] {
        let gate = Gate::default();
        let world = World::of_threads().policy(json!({"loadBalancing": {"strategy": name}}));
        let world = world.with("busy", [ok().behind(&gate)]).with("idle", [ok()]);
        thread::scope(|scope| {
            scope.spawn(|| world.get().expect("the slow one"));
            gate.has_seen(1);
            for _ in 0..20 {
                assert_eq!(world.get().expect("an answer").instance.as_str(), "idle");
            }
            gate.open();
        });
        assert_eq!((world.sent_to("busy"), world.sent_to("idle")), (1, 20));
    }
}

#[test]
fn least_connections_goes_by_weight_and_takes_turns_among_equals() {
    let gate = Gate::default();
    let world = World::of_threads().policy(json!({"loadBalancing": {"strategy": "least_connections"}}));
    let world = world.with("big", [ok().behind(&gate)]).with("small", [ok().behind(&gate)]);
    world.weight("big", 3);
    thread::scope(|scope| {
        for n in 1..=8 {
            scope.spawn(|| world.get().expect("an answer"));
            gate.has_seen(n);
        }
        assert_eq!((world.sent_to("big"), world.sent_to("small")), (6, 2));
        gate.open();
    });
    let world = World::new().policy(json!({"loadBalancing": {"strategy": "least_connections"}})).with("a", [ok()]).with("b", [ok()]);
    world.serves(4);
    assert_eq!(world.order(), ["a", "b", "a", "b"]);
}

#[test]
fn a_change_of_strategy_applies_to_the_next_call() {
    let gate = Gate::default();
    let world = World::of_threads().with("a", [ok().behind(&gate)]).with("b", [ok()]);
    thread::scope(|scope| {
        scope.spawn(|| world.get().expect("the slow one"));
        gate.has_seen(1);
        world.patch(json!({"loadBalancing": {"strategy": "least_connections"}}));
        world.serves(6);
        assert_eq!(world.sent_to("b"), 6);
        gate.open();
    });
}

#[test]
fn whoever_must_not_get_calls_gets_none_and_it_is_explained() {
    type TakeOut = fn(&World);
    let out: [(&str, TakeOut, &str); 6] = [
        ("weight 0", |world| world.weight("out", 0), "weight is 0"),
        ("drain", |world| world.state("out", AdminState::Drain), "state is drain"),
        ("maint", |world| world.state("out", AdminState::Maint), "state is maint"),
        ("unhealthy", |world| world.register("out", |instance| instance.healthy = Some(false)), "unhealthy: registered so"),
        (
            "lease",
            |world| {
                world.register("out", |instance| instance.ttl = Some(super::world::ms(5_000)));
                world.pass(5_000);
            },
            "its lease is over: no heartbeat in time",
        ),
        (
            "no address",
            |world| world.register("out", |instance| instance.host = weft::model::Host::new("nowhere.invalid").expect("a name")),
            "its host name has no usable address",
        ),
    ];
    for (name, take_out, why) in out {
        let world = World::built(|builder| builder.resolver(LiteralsOnly)).with("out", [ok()]).with("in", [ok()]);
        take_out(&world);
        assert_eq!((&*world.why("out"), &*world.why("in")), (why, "available"), "{name}");
        assert_eq!(world.explain().next_pick.as_deref(), Some("in"), "{name}");
        world.serves(10);
        assert_eq!(world.sent_to("out"), 0, "{name}");

        world.state("in", AdminState::Drain);
        assert_eq!(world.get().expect_err("nobody is left").reason(), Reason::NoHealthyInstance, "{name}");
        assert_eq!(world.explain().next_pick, None, "{name}");
    }
}

#[test]
fn a_drained_instance_finishes_what_it_has_begun() {
    let gate = Gate::default();
    let world = World::of_threads().with("a", [ok().behind(&gate)]);
    thread::scope(|scope| {
        let running = scope.spawn(|| world.get());
        gate.has_seen(1);
        world.state("a", AdminState::Drain);
        assert_eq!(world.get().expect_err("no new calls").reason(), Reason::NoHealthyInstance);
        gate.open();
        running.join().expect("no panic").expect("it is finished");
    });
    world.state("a", AdminState::Ready);
    world.get().expect("back again");
}

#[test]
fn whoever_comes_back_gets_its_share_and_not_what_it_missed() {
    let world = World::new().with("a", [ok()]).with("b", [ok()]);
    world.state("a", AdminState::Maint);
    world.serves(100);
    world.state("a", AdminState::Ready);
    world.serves(100);
    assert!((49..=51).contains(&world.sent_to("a")), "{}", world.sent_to("a"));
}

#[test]
fn a_reason_given_by_an_operator_is_repeated() {
    let world = World::new().with("a", [ok()]);
    let (service, id) = (super::world::service("users"), super::world::id("a"));
    world.mesh.set_state(&service, &id, AdminState::Drain, Some("new disk")).expect("known");
    assert_eq!(world.why("a"), "state is drain (new disk)");
}

/// Resolves nothing but addresses.
struct LiteralsOnly;

impl weft::mesh::ports::Resolver for LiteralsOnly {
    fn resolve(&self, host: &weft::model::Host, _: std::time::Duration) -> Vec<std::net::IpAddr> {
        match host {
            weft::model::Host::Ip(ip) => vec![*ip],
            weft::model::Host::Name(_) => Vec::new(),
        }
    }
}
