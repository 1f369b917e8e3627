//! Ejection: an instance whose attempts keep failing is left out before any caller notices.

use serde_json::json;
use weft::policy::health::CheckResult;
use weft::telemetry::events::Kind;

use super::world::{Act, Gate, World, answer, get, hang, ok, refuse, reset, together};

#[test]
fn a_dead_instance_of_two_is_noticed_by_nobody_under_sixty_four_threads() {
    for dead in [refuse(), reset(), answer(500), ok().cut_off(), answer(503)] {
        // No time passes by itself, so the waits of the schedule are left out.
        let world = World::of_threads().policy(json!({"retry": {"baseDelayMs": 0}})).with("dead", [dead.clone()]).with("live", [ok()]);
        let results = together(64, |_| (0..20).map(|_| world.get()).collect::<Vec<_>>());
        for result in results.into_iter().flatten() {
            assert_eq!(result.expect("every call succeeds").instance.as_str(), "live", "{dead:?}");
        }
        assert!(world.events(Kind::Breaker).is_empty(), "{dead:?}");
        assert_eq!(world.ejected(), ["dead"], "{dead:?}");
        assert!(world.sent_to("dead") < 5 + 64, "{dead:?}: {} attempts", world.sent_to("dead"));
        assert_eq!(world.metrics().ejections, 1);
        world.is_at_rest();
    }
}

#[test]
fn five_failures_in_a_row_do_it_and_a_success_in_between_does_not() {
    let world = World::new().with("a", [answer(500), answer(500), answer(500), answer(500), ok(), answer(500)]).with("b", [ok()]);
    let after = |attempts| {
        while world.sent_to("a") < attempts {
            world.get().expect("b answers");
        }
        world.ejected().len()
    };
    assert_eq!([after(4), after(5), after(9), after(10)], [0, 0, 0, 1]);
}

#[test]
fn it_is_visible_everywhere() {
    let world = World::new().with("a", [refuse()]).with("b", [ok()]);
    eject(&world);
    let events = world.events(Kind::Ejected);
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].instance.as_ref().map(ToString::to_string).as_deref(), Some("a"));
    assert_eq!(events[0].detail, "ejected for 30 s after 5 failed attempts in a row");
    world.pass(10_000);
    assert_eq!(world.why("a"), "ejected for another 20000 ms because its attempts kept failing");
    assert_eq!(world.explain().next_pick.as_deref(), Some("b"));
    assert!(world.metrics().instances["a"].ejected && !world.metrics().instances["b"].ejected);
    let shown = world.mesh.service("users").expect("registered");
    assert!(shown.instances[0].ejected && shown.instances[0].healthy, "ejection is not health");
}

#[test]
fn time_ends_it_and_each_one_in_a_row_lasts_longer() {
    let world = World::new().with("a", [refuse()]).with("b", [ok()]);
    for seconds in [30, 60, 90] {
        eject(&world);
        world.pass(seconds * 1_000 - 1);
        assert_eq!(world.ejected(), ["a"], "{seconds} s are not over");
        world.pass(1);
        assert!(world.ejected().is_empty(), "{seconds} s are over");
        assert_eq!(world.why("a"), "available");
    }
}

#[test]
fn an_instance_that_returns_has_five_failures_again_however_many_came_in_late() {
    let gate = Gate::default();
    let world = World::of_threads().policy(no_breaker()).with("a", [reset().behind(&gate)]).with("b", [ok()]);
    together(17, |n| match n {
        16 => {
            gate.has_seen(8);
            gate.open();
            Ok(())
        }
        _ => world.post().map(|_| ()),
    });
    assert_eq!((world.ejected(), world.sent_to("a")), (vec!["a".to_owned()], 8), "three of the eight came in after the ejection");
    world.pass(30_000);
    let before = world.sent_to("a");
    while world.sent_to("a") < before + 4 {
        drop(world.post());
        assert!(world.ejected().is_empty(), "after {} failures", world.sent_to("a") - before);
    }
}

#[test]
fn the_last_available_instance_is_never_ejected() {
    for script in
        [vec![("a", refuse())], vec![("a", refuse()), ("b", answer(500))], vec![("a", hang()), ("b", reset()), ("c", answer(503))]]
    {
        let world = lenient();
        let world = script.iter().fold(world, |world, (instance, act)| world.with(instance, [act.clone()]));
        for _ in 0..40 {
            world.get().expect_err("all fail");
            assert!(world.explain().instances.iter().any(|instance| instance.available));
        }
        assert_eq!(world.ejected().len(), usize::from(script.len() > 1), "one may go where there are two or three");
    }
}

#[test]
fn the_only_one_that_is_not_drained_is_never_ejected() {
    let world = lenient().with("a", [answer(500)]).with("b", [ok()]).with("c", [ok()]);
    world.state("b", weft::model::AdminState::Drain);
    world.weight("c", 0);
    world.fails(20);
    assert!(world.ejected().is_empty());
    world.weight("c", 1);
    while world.ejected().is_empty() {
        assert!(world.sent_to("c") < 2, "once there is another, the next failure ejects it");
        drop(world.post());
    }
}

#[test]
fn half_of_the_instances_may_be_ejected_and_no_more() {
    let dead = |world: World, n: usize| (0..n).fold(world, |world, n| world.with(&format!("i{n}"), [answer(500)]));
    for (instances, most) in [(4, 2), (5, 2), (6, 3), (7, 3)] {
        let world = dead(lenient(), instances);
        for _ in 0..instances * 30 {
            world.post().expect_err("all fail");
            assert!(world.ejected().len() <= most);
        }
        assert_eq!(world.ejected().len(), most, "of {instances}");
    }
}

#[test]
fn sixty_four_threads_cannot_eject_more_than_half() {
    let world = (0..4).fold(World::of_threads().policy(no_breaker()), |world, n| world.with(&format!("i{n}"), [answer(500)]));
    together(64, |_| {
        for _ in 0..20 {
            world.post().expect_err("all fail");
            assert!(world.ejected().len() <= 2);
        }
    });
    assert_eq!((world.ejected().len(), world.events(Kind::Ejected).len()), (2, 2));
}

#[test]
fn a_passing_check_ends_it_early_only_where_it_disproves_the_cause() {
    let checked = |act: Act| {
        let world = World::new().with("a", [act]).with("b", [ok()]);
        world.register("a", |registration| registration.health_check = weft::model::HealthTarget::new("http://10.0.0.1/health").ok());
        world.checks("a", [CheckResult::Passed]);
        eject(&world);
        world.mesh.check_now();
        (world.ejected().len(), world.events(Kind::Returned).len())
    };
    assert_eq!(checked(refuse()), (0, 1), "it can be reached after all");
    assert_eq!(checked(hang()), (0, 1), "it answers after all");
    assert_eq!(checked(answer(500)), (1, 0), "a check does not disprove failing answers");
}

#[test]
fn an_instance_that_moved_is_not_ejected_any_longer() {
    let world = World::new().with("a", [refuse()]).with("b", [ok()]);
    eject(&world);
    world.register("a", |registration| registration.port = std::num::NonZeroU16::new(4002).expect("a port"));
    assert!(world.ejected().is_empty());
}

#[test]
fn registering_again_at_the_same_place_does_not_end_it() {
    let world = World::new().with("a", [refuse()]).with("b", [ok()]);
    eject(&world);
    world.register("a", |registration| registration.healthy = Some(true));
    assert_eq!(world.ejected(), ["a"]);
}

/// Calls until an instance is ejected.
#[track_caller]
fn eject(world: &World) {
    for _ in 0..50 {
        if !world.ejected().is_empty() {
            return;
        }
        world.invoke(&get()).expect("the other one answers");
    }
    panic!("nobody was ejected");
}

/// A world whose circuit breaker stays out of it.
fn lenient() -> World {
    World::new().policy(no_breaker())
}

fn no_breaker() -> serde_json::Value {
    json!({"circuitBreaker": {"failureThreshold": 1_000_000}})
}

#[test]
fn a_success_after_the_return_halves_the_row() {
    let failing = || std::iter::repeat_n(answer(500), 5);
    // Ejected three times in a row, then one success, then ejected again.
    let script = failing().chain(failing()).chain(failing()).chain([ok()]).chain(failing());
    let world = lenient().policy(json!({"retry": {"baseDelayMs": 0}})).with("a", script).with("b", [ok()]);
    let mut times = Vec::new();
    for _ in 0..4 {
        eject(&world);
        let shown = world.mesh.service("users").expect("registered").instances.remove(0);
        times.extend(shown.ejected_for_ms);
        world.pass(300_000);
    }
    assert_eq!(times, [30_000, 60_000, 90_000, 60_000]);
    world.serves(1);
    assert_eq!(world.events(Kind::Returned).len(), 4, "each return is said");
}
