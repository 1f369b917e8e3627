//! Shutdown: nothing new begins, waits end, and what runs is finished.

use std::thread;
use std::time::Duration;

use serde_json::json;
use weft::Mesh;
use weft::model::Reason;
use weft::telemetry::events::Kind;

use super::world::{Gate, SERVICE, World, answer, ms, ok, unreachable, until};

#[test]
fn a_mesh_can_be_shared_and_sent_anywhere() {
    const fn shareable<T: Send + Sync + Clone + 'static>() {}
    const { shareable::<Mesh>() }
}

#[test]
fn what_runs_is_finished_and_nothing_new_begins() {
    let gate = Gate::default();
    let world = World::of_threads().with("a", [ok().behind(&gate)]);
    thread::scope(|scope| {
        let running = scope.spawn(|| world.get());
        gate.has_seen(1);
        let shutdown = scope.spawn(|| world.mesh.clone().shutdown(ms(10_000)));
        until(|| world.mesh.is_stopping());
        let error = world.get().expect_err("too late");
        assert_eq!((error.reason(), error.attempts, error.not_sent), (Reason::Draining, 0, true));
        assert!(!shutdown.is_finished(), "one call is running");
        gate.open();
        assert_eq!(running.join().expect("no panic").expect("it is finished").status, 200);
        assert_eq!(shutdown.join().expect("no panic"), 0, "none is running any longer");
    });
    assert_eq!((world.elapsed(), world.sent()), (0, 1));
    assert_eq!(world.events(Kind::Draining).len(), 1);
}

#[test]
fn a_wait_between_attempts_ends_early() {
    let world = World::of_threads().with("a", [answer(503).header("Retry-After", "20"), ok()]);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| world.get());
        until(|| world.sleeps() == 1);
        assert_eq!(world.mesh.shutdown(ms(10_000)), 0);
        assert_eq!(waiting.join().expect("no panic").expect("its retry came at once").attempts, 2);
    });
    assert_eq!(world.elapsed(), 0);
    world.is_at_rest();
}

#[test]
fn a_service_that_keeps_failing_does_not_hold_it_up() {
    for act in [answer(500), answer(503).header("Retry-After", "29"), unreachable()] {
        let gate = Gate::default();
        let world = World::of_threads().with("a", [act.behind(&gate)]);
        thread::scope(|scope| {
            let running = scope.spawn(|| world.get());
            gate.has_seen(1);
            let shutdown = scope.spawn(|| world.mesh.shutdown(ms(10_000)));
            until(|| world.mesh.is_stopping());
            gate.open();
            running.join().expect("no panic").expect_err("it failed");
            assert_eq!(shutdown.join().expect("no panic"), 0);
        });
        assert!(world.elapsed() <= 4_000, "only attempts take time: {}", world.elapsed());
        world.is_at_rest();
    }
}

#[test]
fn a_call_in_the_queue_still_gets_its_turn_and_sleeps_until_then() {
    let gate = Gate::default();
    let world = World::of_threads().policy(json!({"limits": {"maxInFlight": 1}})).with("a", [ok().behind(&gate)]);
    thread::scope(|scope| {
        let calls: Vec<_> = (0..3).map(|_| scope.spawn(|| world.get())).collect();
        until(|| world.metrics().queued == 2 && gate.seen() == 1);
        let shutdown = scope.spawn(|| world.mesh.shutdown(ms(10_000)));
        until(|| world.mesh.is_stopping() && world.sleeps() >= 3);
        let looks = world.looks();
        (0..10_000).for_each(|_| thread::yield_now());
        assert!(world.looks() - looks < 100, "whoever waits looks at the clock all the time: {}", world.looks() - looks);
        gate.open();
        for call in calls {
            call.join().expect("no panic").expect("its turn came");
        }
        assert_eq!(shutdown.join().expect("no panic"), 0);
    });
    world.is_at_rest();
}

#[test]
fn it_takes_no_longer_than_it_may_and_says_how_many_are_left() {
    let gate = Gate::default();
    let world = World::of_threads().with("a", [ok().behind(&gate)]);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| world.get().expect("it is finished after all"));
        }
        gate.has_seen(3);
        let shutdown = scope.spawn(|| world.mesh.shutdown(ms(10_000)));
        until(|| world.mesh.is_stopping() && world.sleeps() > 0);
        world.pass(10_000);
        assert_eq!(shutdown.join().expect("no panic"), 3);
        gate.open();
    });
    assert_eq!(world.mesh.shutdown(Duration::ZERO), 0, "a second time only looks");
    assert_eq!(world.events(Kind::Draining).len(), 1);
}

#[test]
fn it_may_be_given_all_the_time_in_the_world() {
    let world = World::of_threads().with("a", [ok()]);
    assert_eq!(world.mesh.shutdown(Duration::MAX), 0);
}

#[test]
fn a_watch_ends_early() {
    let world = World::of_threads().with("a", [ok()]);
    let index = world.mesh.watch(SERVICE, 0, world.now()).expect("registered");
    thread::scope(|scope| {
        let watching = scope.spawn(|| world.mesh.watch(SERVICE, index, world.now() + ms(30_000)));
        until(|| world.sleeps() == 1);
        world.mesh.shutdown(ms(0));
        assert_eq!(watching.join().expect("no panic"), Some(index));
    });
}
