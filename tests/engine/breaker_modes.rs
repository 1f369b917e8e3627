//! The circuit breaker by shares of a window, and in the hands of an operator.

use serde_json::json;
use weft::mesh::RegistryError;
use weft::model::Reason;
use weft::policy::breaker::{Control, Order, Status};
use weft::telemetry::events::Kind;

use super::world::{Act, Gate, World, answer, id, ok, post, service, together};

fn order(world: &World, order: Order) {
    world.mesh.order_breaker(&service("users"), order).expect("registered");
}

fn breaker_events(world: &World) -> Vec<String> {
    world.events(Kind::Breaker).into_iter().map(|event| event.detail).collect()
}

/// A world without retries, so that a call is one attempt.
fn plain(script: impl IntoIterator<Item = Act>) -> World {
    World::new().policy(json!({"retry": {"maxRetries": 0}})).with("a", script)
}

#[test]
fn a_share_of_failures_opens_it_where_failures_never_come_in_a_row() {
    let alternating: Vec<Act> = (0..40).map(|n| answer(if n % 2 == 0 { 500 } else { 200 })).collect();
    let world = plain(alternating.clone()).policy(json!({"circuitBreaker": {"failureRatePercent": 50, "minCalls": 20}}));
    for call in 1..=20 {
        assert_eq!(world.breaker(), Status::Closed, "before call {call}");
        drop(world.get());
    }
    assert_eq!(world.breaker(), Status::Open);
    let by_row = plain(alternating);
    for _ in 0..40 {
        drop(by_row.get());
    }
    assert_eq!(by_row.breaker(), Status::Closed);
}

#[test]
fn what_is_older_than_the_window_does_not_count() {
    let world = plain([answer(500)]).policy(json!({"circuitBreaker": {"failureRatePercent": 50, "minCalls": 10, "windowMs": 1_000}}));
    for _ in 0..50 {
        world.get().expect_err("it fails");
        world.pass(200);
    }
    assert_eq!(world.breaker(), Status::Closed, "never more than six at a time");
}

#[test]
fn slow_calls_open_it_and_a_slow_trial_opens_it_again() {
    let slow = json!({"circuitBreaker": {"slowCallRatePercent": 50, "slowCallMs": 100, "minCalls": 10}});
    let world = plain([ok().after(101)]).policy(slow);
    world.serves(10);
    assert_eq!(world.get().expect_err("open").reason(), Reason::CircuitOpen);
    world.pass(60_000);
    world.serves(1);
    assert_eq!(world.breaker(), Status::Open);
    world.pass(60_000);
    world.script("a", [ok().after(100)]);
    world.serves(2);
    assert_eq!(world.breaker(), Status::Closed);
    let breaker = world.metrics().breaker;
    assert_eq!((breaker.opened, breaker.half_opened, breaker.closed), (2, 2, 1));
}

#[test]
fn forced_open_refuses_everything_until_it_is_handed_back() {
    let world = plain([ok()]);
    order(&world, Order::ForcedOpen);
    for _ in 0..3 {
        let error = world.get().expect_err("refused");
        assert_eq!((error.reason(), error.attempts, error.retry_after().map(|wait| wait.as_secs())), (Reason::CircuitOpen, 0, Some(60)));
        world.pass(120_000);
    }
    assert_eq!((world.breaker(), world.explain().breaker_control, world.explain().next_pick), (Status::Open, Control::ForcedOpen, None));
    order(&world, Order::Auto);
    assert_eq!(world.breaker(), Status::HalfOpen);
    world.serves(2);
    assert_eq!(world.breaker(), Status::Closed);
    assert_eq!(
        breaker_events(&world),
        [
            "circuit breaker forced open by an operator",
            "circuit breaker CLOSED -> OPEN",
            "circuit breaker back to automatic by an operator",
            "circuit breaker OPEN -> HALF_OPEN",
            "circuit breaker HALF_OPEN -> CLOSED",
        ]
    );
}

#[test]
fn disabled_lets_everything_through_and_counts_nothing() {
    let world = plain([answer(500)]);
    world.fails(5);
    assert_eq!(world.breaker(), Status::Open);
    order(&world, Order::Disabled);
    world.fails(50);
    assert_eq!((world.breaker(), world.metrics().breaker.control, world.sent()), (Status::Closed, Control::Disabled, 55));
    order(&world, Order::Auto);
    world.fails(5);
    assert_eq!(world.breaker(), Status::Open);
}

#[test]
fn a_reset_closes_it_at_once_and_the_same_order_twice_is_no_news() {
    let world = plain([answer(500)]);
    world.fails(5);
    order(&world, Order::Reset);
    assert_eq!((world.breaker(), world.explain().circuit_breaker.failure_count), (Status::Closed, 0));
    let before = world.mesh.events(0).next;
    order(&world, Order::Auto);
    assert_eq!(world.mesh.events(0).next, before);
    assert_eq!(world.mesh.order_breaker(&service("nobody"), Order::Reset), Err(RegistryError::NotFound));
}

#[test]
fn an_order_holds_also_when_every_instance_goes_and_registers_again() {
    let world = plain([answer(500)]);
    let again = || {
        world.mesh.deregister(&service("users"), &id("a")).expect("known");
        world.register("a", |_| ());
    };
    for (given, control) in [(Order::ForcedOpen, Control::ForcedOpen), (Order::Disabled, Control::Disabled)] {
        order(&world, given);
        let sent = world.sent();
        again();
        assert_eq!(world.explain().breaker_control, control);
        world.get().expect_err("refused, or it fails");
        assert_eq!(world.sent() - sent, usize::from(given == Order::Disabled));
    }
    assert_eq!(breaker_events(&world).last().map(String::as_str), Some("circuit breaker still disabled by an operator"));
    order(&world, Order::Auto);
    again();
    assert_eq!((world.breaker(), world.explain().breaker_control), (Status::Closed, Control::Auto));
}

#[test]
fn a_call_under_way_is_not_retried_into_a_circuit_that_was_forced_open() {
    let world = World::new();
    let other = world.clone();
    let world = world.with("a", [answer(500).meanwhile(move || order(&other, Order::ForcedOpen)), ok()]);
    let error = world.get().expect_err("not retried");
    assert_eq!((error.reason(), error.attempts), (Reason::UpstreamStatus, 1));
}

#[test]
fn calls_that_wait_for_a_slot_are_refused_when_it_is_forced_open() {
    let gate = Gate::default();
    let world = World::of_threads().policy(json!({"limits": {"maxInFlight": 1}})).with("a", [ok().behind(&gate)]);
    let results = together(3, |n| match n {
        2 => {
            gate.has_seen(1);
            super::world::until(|| world.metrics().queued == 1);
            order(&world, Order::ForcedOpen);
            gate.open();
            None
        }
        _ => Some(world.invoke(&post())),
    });
    let refused = results.iter().flatten().filter(|result| result.is_err()).count();
    assert_eq!(refused, 1);
    world.is_at_rest();
}
