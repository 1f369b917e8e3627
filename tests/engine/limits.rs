//! Limits: who is over one waits in order or is refused at once, and everything taken is given back.

use std::thread;

use serde_json::{Value, json};
use weft::model::{Limit, Reason};
use weft::{Call, Cause};

use super::world::{Gate, World, answer, get, ms, ok, panics, refuse, until};

fn one_at_a_time() -> Value {
    json!({"limits": {"maxInFlight": 1}})
}

fn numbered(n: usize) -> Call {
    get().header("x-number", &n.to_string()).expect("a field")
}

#[test]
fn a_freed_slot_goes_to_the_call_that_has_waited_longest() {
    let gate = Gate::default();
    let world = World::of_threads().policy(one_at_a_time()).with("a", [ok().behind(&gate)]);
    thread::scope(|scope| {
        for n in 0..10 {
            let world = &world;
            scope.spawn(move || world.invoke(&numbered(n)).expect("its turn comes"));
            until(|| if n == 0 { gate.seen() == 1 } else { world.metrics().queued as usize == n });
        }
        assert_eq!((world.metrics().in_flight, world.metrics().queued), (1, 9));
        for n in 1..=10 {
            gate.has_seen(n);
            assert_eq!(gate.seen(), n, "one at a time");
            gate.let_one_through();
        }
    });
    let order: Vec<String> = world.deliveries().iter().map(|delivery| delivery.header("x-number").to_owned()).collect();
    assert_eq!(order, ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]);
    world.is_at_rest();
}

#[test]
fn nobody_overtakes_the_queue() {
    // While one call is under way and another waits, a third comes just as the slot gets free: it queues up behind.
    let gate = Gate::default();
    let world = World::of_threads().policy(json!({"limits": {"maxInFlight": 1, "maxQueue": 1}})).with("a", [ok().behind(&gate)]);
    thread::scope(|scope| {
        scope.spawn(|| world.invoke(&numbered(0)));
        gate.has_seen(1);
        scope.spawn(|| world.invoke(&numbered(1)));
        until(|| world.metrics().queued == 1);
        gate.open();
        // Refused while the other one waits, served after it has gone; never before it.
        while world.invoke(&numbered(2)).is_err() {}
    });
    let order: Vec<String> = world.deliveries().iter().map(|delivery| delivery.header("x-number").to_owned()).collect();
    assert_eq!(order, ["0", "1", "2"]);
}

#[test]
fn a_full_queue_refuses_at_once() {
    let gate = Gate::default();
    let world = World::of_threads().policy(json!({"limits": {"maxInFlight": 1, "maxQueue": 2}})).with("a", [ok().behind(&gate)]);
    thread::scope(|scope| {
        scope.spawn(|| world.get().expect("the first"));
        gate.has_seen(1);
        for _ in 0..2 {
            scope.spawn(|| world.get().expect("it waited"));
        }
        until(|| world.metrics().queued == 2);
        for _ in 0..100 {
            let error = world.get().expect_err("no room");
            assert_eq!(error.cause, Cause::Overloaded(Limit::Queue));
            assert_eq!((error.attempts, error.not_sent, error.retry_after().map(|wait| wait.as_secs())), (0, true, Some(1)));
            assert_eq!(error.to_string(), "users is overloaded: the limit maxQueue is reached");
        }
        gate.open();
    });
    assert_eq!((world.elapsed(), world.metrics().refused.overloaded), (0, 100));
    world.is_at_rest();
}

#[test]
fn who_waited_too_long_is_refused() {
    for (settings, patience) in [(json!({}), 1_000), (json!({"queueTimeoutMs": 250}), 250), (json!({"queueTimeoutMs": 0}), 0)] {
        let world = World::new().policy(one_at_a_time()).policy(json!({"limits": settings}));
        let other = world.clone();
        let meanwhile = move || {
            let began = other.elapsed();
            let error = other.get().expect_err("the slot is taken all the time");
            assert_eq!(error.cause, Cause::Overloaded(Limit::QueueTimeout));
            assert_eq!((other.elapsed() - began, error.not_sent), (patience, true));
        };
        let world = world.with("a", [ok().meanwhile(meanwhile), ok()]);
        world.get().expect("the one that had the slot");
        assert_eq!(world.metrics().refused.overloaded, 1);
        world.is_at_rest();
    }
}

#[test]
fn a_call_that_gave_up_waiting_makes_room_for_the_next() {
    let gate = Gate::default();
    let world = World::of_threads().policy(one_at_a_time()).with("a", [ok().behind(&gate)]);
    thread::scope(|scope| {
        scope.spawn(|| world.get().expect("the first"));
        gate.has_seen(1);
        let impatient = scope.spawn(|| world.invoke(&get().timeout(ms(100))));
        until(|| world.metrics().queued == 1);
        let patient = scope.spawn(|| world.get());
        until(|| world.metrics().queued == 2);
        world.pass(100);
        impatient.join().expect("no panic").expect_err("too late");
        until(|| world.metrics().queued == 1);
        gate.open();
        patient.join().expect("no panic").expect("its turn came");
    });
    world.is_at_rest();
}

#[test]
fn a_call_that_waits_for_its_retry_keeps_its_slot() {
    let world = World::of_threads().policy(json!({"limits": {"maxInFlight": 1, "maxQueue": 0}})).with("a", [answer(500), ok()]);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| world.get());
        until(|| world.sleeps() == 1);
        assert_eq!(world.metrics().in_flight, 1);
        assert_eq!(world.get().expect_err("no slot").reason(), Reason::Overloaded);
        world.pass(100);
        waiting.join().expect("no panic").expect("the retry");
    });
    world.is_at_rest();
}

#[test]
fn a_raised_limit_is_felt_by_those_who_wait() {
    let gate = Gate::default();
    let world = World::of_threads().policy(one_at_a_time()).with("a", [ok().behind(&gate)]);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| world.get().expect("served"));
        }
        until(|| world.metrics().queued == 2);
        world.patch(json!({"limits": {"maxInFlight": 2}}));
        until(|| world.metrics().queued == 1);
        gate.open();
    });
    world.is_at_rest();
}

#[test]
fn an_instance_at_its_own_limit_is_passed_over() {
    let gate = Gate::default();
    let world = World::of_threads().with("a", [ok().behind(&gate)]).with("b", [ok()]);
    world.register("a", |registration| registration.max_in_flight = Some(1));
    thread::scope(|scope| {
        scope.spawn(|| world.get().expect("the slow one"));
        gate.has_seen(1);
        for _ in 0..10 {
            assert_eq!(world.get().expect("the other one").instance.as_str(), "b");
        }
        assert_eq!(world.why("a"), "available, but at its limit of attempts in flight: it is passed over");
        assert_eq!(world.explain().next_pick.as_deref(), Some("b"));
        gate.open();
    });
    assert_eq!((world.elapsed(), world.sent_to("a")), (0, 1));
    world.is_at_rest();
}

#[test]
fn when_all_instances_are_at_their_limit_calls_wait_in_order() {
    let gate = Gate::default();
    let limits = json!({"limits": {"instanceMaxInFlight": 1, "maxQueue": 3}});
    let world = World::of_threads().policy(limits).with("a", [ok().behind(&gate)]).with("b", [ok().behind(&gate)]);
    thread::scope(|scope| {
        for n in 0..5 {
            let world = &world;
            scope.spawn(move || world.invoke(&numbered(n)).expect("its turn comes"));
            until(|| if n < 2 { gate.seen() == n + 1 } else { world.metrics().queued as usize == n - 1 });
        }
        assert_eq!(world.get().expect_err("no room").cause, Cause::Overloaded(Limit::Queue));
        for seen in 2..5 {
            gate.has_seen(seen);
            gate.let_one_through();
        }
        gate.open();
    });
    let order: Vec<String> = world.deliveries().iter().skip(2).map(|delivery| delivery.header("x-number").to_owned()).collect();
    assert_eq!(order, ["2", "3", "4"]);
    world.is_at_rest();
}

#[test]
fn a_new_or_returning_instance_is_felt_by_those_who_wait() {
    let arrivals: [fn(&World); 3] = [
        |world| world.register("c", |_| ()),
        |world| world.state("b", weft::model::AdminState::Ready),
        |world| world.register("a", |registration| registration.max_in_flight = Some(2)),
    ];
    for arrive in arrivals {
        let gate = Gate::default();
        let world = World::of_threads().policy(json!({"limits": {"instanceMaxInFlight": 1}}));
        let world = world.with("a", [ok().behind(&gate), ok()]).with("b", [ok()]);
        world.script("c", [ok()]);
        world.state("b", weft::model::AdminState::Drain);
        thread::scope(|scope| {
            scope.spawn(|| world.get().expect("the slow one"));
            gate.has_seen(1);
            let waiting = scope.spawn(|| world.get());
            until(|| world.metrics().queued == 1);
            arrive(&world);
            waiting.join().expect("no panic").expect("there is room now");
            gate.open();
        });
        world.is_at_rest();
    }
}

#[test]
fn a_retry_that_finds_all_instances_at_their_limit_waits_before_those_who_hold_nothing() {
    let gate = Gate::default();
    let world = World::of_threads().policy(json!({"limits": {"instanceMaxInFlight": 1}}));
    let world = world.with("a", [answer(500), ok().behind(&gate)]).with("b", [ok().behind(&gate)]);
    thread::scope(|scope| {
        let retrying = scope.spawn(|| world.invoke(&numbered(0)));
        until(|| world.sleeps() == 1);
        for n in 1..=2 {
            let world = &world;
            scope.spawn(move || world.invoke(&numbered(n)).expect("an answer"));
            gate.has_seen(n);
        }
        scope.spawn(|| world.invoke(&numbered(3)).expect("its turn comes"));
        until(|| world.metrics().queued == 1);
        world.pass(100);
        until(|| world.metrics().queued == 2);
        gate.let_one_through();
        gate.has_seen(3);
        gate.open();
        assert_eq!(retrying.join().expect("no panic").expect("the retry").attempts, 2);
    });
    let order: Vec<String> = world.deliveries().iter().map(|delivery| delivery.header("x-number").to_owned()).collect();
    assert_eq!(order, ["0", "1", "2", "0", "3"]);
    world.is_at_rest();
}

#[test]
fn a_failed_connection_does_not_hurry_back_to_the_same_instance_when_the_other_is_at_its_limit() {
    let gate = Gate::default();
    let world = World::of_threads().with("a", [ok().behind(&gate)]).with("b", [refuse(), ok()]);
    world.register("a", |registration| registration.max_in_flight = Some(1));
    thread::scope(|scope| {
        scope.spawn(|| world.get().expect("the slow one"));
        gate.has_seen(1);
        let waiting = scope.spawn(|| world.get());
        until(|| world.sleeps() == 1);
        world.pass(100);
        waiting.join().expect("no panic").expect("the retry");
        gate.open();
    });
    assert_eq!(world.times(), [0, 0, 100]);
}

#[test]
fn a_panic_gives_everything_back_and_the_next_in_the_queue_goes_on() {
    let gate = Gate::default();
    let world = World::of_threads().policy(one_at_a_time()).with("a", [panics().behind(&gate), ok()]);
    let caller = world.clone();
    let doomed = thread::spawn(move || caller.get());
    gate.has_seen(1);
    thread::scope(|scope| {
        let next = scope.spawn(|| world.get());
        until(|| world.metrics().queued == 1);
        gate.open();
        next.join().expect("no panic").expect("the slot was free again");
    });
    doomed.join().expect_err("it panicked");
    assert_eq!((world.elapsed(), world.explain().circuit_breaker.failure_count), (0, 0));
    world.is_at_rest();
    assert_eq!(world.mesh.shutdown(ms(0)), 0, "it is not running either");
}
