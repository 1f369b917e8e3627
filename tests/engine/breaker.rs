//! The circuit breaker of a service, fed by whole calls.

use serde_json::json;
use weft::model::Reason;
use weft::policy::breaker::Status;
use weft::telemetry::events::Kind;
use weft::{CallError, Cause};

use super::world::{Act, Gate, World, answer, garbage, get, hang, ms, ok, panics, refuse, reset, service, together, unreachable, until};

/// A world whose circuit has been opened by failed calls, and what its instance does from then on.
fn opened(then: Act) -> World {
    let world = World::new().with("a", [answer(500)]);
    world.fails(5);
    assert_eq!(world.breaker(), Status::Open);
    world.script("a", [then]);
    world
}

fn assert_circuit_open(error: &CallError, seconds: u64) {
    assert_eq!(error.reason(), Reason::CircuitOpen);
    assert_eq!(error.to_string(), "circuit breaker is OPEN for users");
    assert_eq!(error.retry_after().map(|wait| wait.as_secs()), Some(seconds));
    assert_eq!((error.attempts, error.not_sent), (0, true));
}

#[test]
fn five_failed_calls_open_it_whatever_made_them_fail() {
    for act in [answer(500), answer(503), answer(507), reset(), refuse(), unreachable(), hang(), garbage(), ok().cut_off()] {
        let world = World::new().with("a", [act.clone()]);
        for call in 0..5 {
            assert_eq!(world.breaker(), Status::Closed, "{act:?} after {call} calls");
            assert_eq!(world.explain().circuit_breaker.failure_count, call, "{act:?}");
            world.get().expect_err("it always fails");
        }
        assert_eq!((world.breaker(), world.explain().circuit_breaker.failure_count), (Status::Open, 5), "{act:?}");
        assert_eq!(world.explain().next_pick, None);
    }
}

#[test]
fn who_asks_for_more_than_is_collected_breaks_nothing_off_for_others() {
    let world = World::new().with("a", [ok().body(&"x".repeat(10 * 1024 * 1024 + 1))]).with("b", [ok()]);
    for _ in 0..10 {
        if let Err(error) = world.get() {
            assert_eq!((error.reason(), error.attempts), (Reason::UpstreamProtocol, 1));
        }
    }
    assert_eq!((world.breaker(), world.ejected()), (Status::Closed, vec![]));
    assert_eq!((world.metrics().failures, world.metrics().instances["a"].failures), (5, 0));
}

#[test]
fn a_call_counts_once_whatever_its_attempts() {
    let world = World::new().with("a", [answer(500)]);
    world.get().expect_err("it always fails");
    assert_eq!((world.sent(), world.explain().circuit_breaker.failure_count), (4, 1));
}

#[test]
fn a_call_that_a_retry_saved_is_a_success() {
    let world = World::new().with("a", [reset(), refuse(), answer(500), ok()]);
    world.script("a", [answer(500), answer(500), answer(500), answer(500), answer(500), ok()]);
    world.get().expect_err("four failures");
    assert_eq!(world.explain().circuit_breaker.failure_count, 1);
    world.get().expect("the retry");
    assert_eq!(world.explain().circuit_breaker.failure_count, 0);
}

#[test]
fn an_open_circuit_refuses_at_once_and_says_for_how_long() {
    let world = opened(ok());
    let (sent, before) = (world.sent(), world.elapsed());
    assert_circuit_open(&world.get().expect_err("open"), 60);
    world.pass(20_000);
    assert_circuit_open(&world.get().expect_err("still open"), 40);
    assert_eq!((world.sent(), world.elapsed()), (sent, before + 20_000));
    assert_eq!(world.metrics().refused.circuit_open, 2);
}

#[test]
fn after_its_time_two_successful_trials_close_it() {
    let world = opened(ok());
    world.pass(60_000);
    world.get().expect("the first trial");
    assert_eq!((world.breaker(), world.explain().circuit_breaker.success_count), (Status::HalfOpen, 1));
    world.get().expect("the second trial");
    assert_eq!((world.breaker(), world.explain().circuit_breaker.failure_count), (Status::Closed, 0));
    let changes: Vec<String> = world.events(Kind::Breaker).into_iter().map(|event| event.detail).collect();
    assert_eq!(changes, ["circuit breaker CLOSED -> OPEN", "circuit breaker OPEN -> HALF_OPEN", "circuit breaker HALF_OPEN -> CLOSED"]);
}

#[test]
fn a_trial_has_one_attempt_and_its_failure_opens_the_circuit_for_another_full_time() {
    for act in [answer(500), answer(503), refuse(), reset(), hang()] {
        let world = opened(act.clone());
        world.pass(60_000);
        let error = world.invoke(&get()).expect_err("the trial fails");
        assert_eq!((error.attempts, error.retry_skipped, error.budget_exhausted), (1, None, false), "{act:?}");
        assert_circuit_open(&world.get().expect_err("open again"), 60);
    }
}

#[test]
fn a_trial_that_says_nothing_either_way_leaves_room_for_another() {
    let world = opened(answer(429));
    world.pass(60_000);
    for _ in 0..10 {
        assert_eq!(world.get().expect("an answer").status, 429);
    }
    assert_eq!((world.breaker(), world.explain().circuit_breaker.success_count), (Status::HalfOpen, 0));
}

#[test]
fn a_trial_that_panics_leaves_room_for_another() {
    let world = opened(panics());
    world.pass(60_000);
    for _ in 0..3 {
        let caller = world.clone();
        std::thread::spawn(move || drop(caller.get())).join().expect_err("it panics");
    }
    world.script("a", [ok()]);
    world.get().expect("a trial");
    assert_eq!(world.breaker(), Status::HalfOpen);
}

#[test]
fn four_hundreds_are_successes_and_a_429_says_nothing() {
    let world = World::new().with("a", [answer(500)]);
    world.fails(4);
    world.script("a", [answer(404)]);
    world.post().expect("an answer");
    assert_eq!(world.explain().circuit_breaker.failure_count, 0, "a 404 resets the count");

    world.script("a", [answer(500)]);
    world.fails(4);
    world.script("a", [answer(429)]);
    world.post().expect("an answer");
    assert_eq!(world.explain().circuit_breaker.failure_count, 4, "a 429 does not");
}

#[test]
fn five_impatient_calls_do_not_open_it_for_everyone() {
    // However the impatience shows: no answer, no connection, no whole body.
    for act in [hang(), ok().after(50), unreachable(), ok().stalls()] {
        let world = World::new().with("a", [act.clone()]).with("b", [act.clone()]);
        for _ in 0..50 {
            let error = world.invoke(&get().timeout(ms(1))).expect_err("no time");
            assert_eq!(error.reason(), Reason::DeadlineExceeded, "{act:?}");
        }
        assert_eq!((world.breaker(), world.explain().circuit_breaker.failure_count), (Status::Closed, 0), "{act:?}");
        assert_eq!(world.ejected().len(), 0, "{act:?}");
    }
}

#[test]
fn a_caller_who_waits_long_enough_for_one_attempt_to_fail_is_counted() {
    // Less than two attempts would take: the second one is cut short, but the first was not.
    for (act, patience) in [(unreachable(), 1_500), (hang(), 15_000)] {
        let world = World::new().with("a", [act.clone()]);
        for _ in 0..5 {
            assert_eq!(world.invoke(&get().timeout(ms(patience))).expect_err("nobody there").attempts, 2, "{act:?}");
        }
        assert_eq!(world.breaker(), Status::Open, "{act:?}");
    }
}

#[test]
fn finding_no_instance_is_not_counted_and_nothing_is_waited_for() {
    let world = World::new();
    world.register("a", |registration| registration.healthy = Some(false));
    for _ in 0..20 {
        let error = world.get().expect_err("nobody is healthy");
        assert_eq!((error.reason(), error.attempts, error.not_sent), (Reason::NoHealthyInstance, 0, true));
        assert_eq!(error.to_string(), "no healthy instance available for service: users");
    }
    assert_eq!((world.elapsed(), world.breaker()), (0, Status::Closed));
    assert_eq!(world.explain().circuit_breaker.failure_count, 0);
    assert_eq!(world.metrics().refused.no_healthy_instance, 20);
}

#[test]
fn a_trial_that_finds_no_instance_leaves_room_for_another() {
    let world = opened(ok());
    world.pass(60_000);
    world.weight("a", 0);
    for _ in 0..5 {
        assert_eq!(world.get().expect_err("nobody").reason(), Reason::NoHealthyInstance);
    }
    world.weight("a", 1);
    world.get().expect("a trial");
}

#[test]
fn exactly_two_of_sixty_four_racing_calls_are_trials() {
    for _ in 0..10 {
        let world = World::of_threads().with("a", [answer(500)]);
        world.fails(5);
        let gate = Gate::default();
        world.script("a", [ok().behind(&gate)]);
        world.pass(60_000);
        let before = world.sent();

        let refused = || world.metrics().refused.circuit_open;
        let results = together(65, |n| {
            if n < 64 {
                return Some(world.get());
            }
            // Nobody is let through before everyone else has been refused.
            until(|| refused() == 62);
            gate.has_seen(2);
            gate.open();
            None
        });
        let (trials, others): (Vec<_>, Vec<_>) = results.into_iter().flatten().partition(Result::is_ok);
        assert_eq!((trials.len(), others.len(), world.sent() - before), (2, 62, 2));
        for other in others {
            assert_circuit_open(&other.expect_err("refused"), 1);
        }
        assert_eq!(world.breaker(), Status::Closed);
        world.is_at_rest();
    }
}

#[test]
fn a_circuit_that_opens_while_a_call_waits_stops_its_retries() {
    let world = World::of_threads().with("a", [answer(500)]);
    let waiting = std::thread::spawn({
        let world = world.clone();
        move || world.get()
    });
    until(|| world.sleeps() == 1);
    world.fails(5);
    assert_eq!(world.breaker(), Status::Open);
    let sent = world.sent();
    world.pass(150);
    let error = waiting.join().expect("no panic").expect_err("no retry");
    assert_eq!((error.cause, error.attempts), (Cause::Status(500), 1), "what the attempt came to stands");
    assert_eq!(world.sent(), sent);
    world.is_at_rest();
}

#[test]
fn a_circuit_that_opened_while_an_attempt_was_under_way_stops_its_retries() {
    let world = World::new();
    let others = world.clone();
    let while_under_way = move || others.fails(5);
    let world = world.with("a", [answer(500).meanwhile(while_under_way), answer(500)]);
    let error = world.get().expect_err("no retry");
    assert_eq!((error.cause, error.attempts), (Cause::Status(500), 1));
    assert_eq!((world.sent(), world.elapsed()), (6, 0));
}

#[test]
fn calls_from_before_the_last_change_do_not_count() {
    let (late, gate) = (Gate::default(), Gate::default());
    let world = World::of_threads().with("a", [ok().behind(&late), ok().behind(&late), answer(500)]);
    std::thread::scope(|scope| {
        scope.spawn(|| world.get().expect("a late success"));
        scope.spawn(|| world.get().expect("a late success"));
        late.has_seen(2);
        world.fails(5);
        world.pass(60_000);
        world.script("a", [ok().behind(&gate)]);
        scope.spawn(|| world.get().expect("a trial"));
        gate.has_seen(1);
        late.open();
        until(|| world.metrics().successes == 2);
        assert_eq!((world.breaker(), world.explain().circuit_breaker.success_count), (Status::HalfOpen, 0));
        gate.open();
    });
    assert_eq!(world.explain().circuit_breaker.success_count, 1);
}

#[test]
fn its_numbers_can_be_set() {
    let settings = json!({"failureThreshold": 2, "timeoutMs": 1_000, "successThreshold": 1, "halfOpenMaxCalls": 1});
    let world = World::new().policy(json!({"circuitBreaker": settings})).with("a", [answer(500), answer(500), ok()]);
    world.post().expect_err("the first");
    world.post().expect_err("the second");
    assert_circuit_open(&world.post().expect_err("open"), 1);
    world.pass(1_000);
    world.post().expect("one trial is enough");
    assert_eq!(world.breaker(), Status::Closed);
}

#[test]
fn each_service_has_its_own() {
    let world = opened(ok());
    world.mesh.register(weft::Registration::new("orders", "o", "10.0.0.2", 80).expect("valid")).expect("registered");
    world.script("o", [ok()]);
    world.mesh.invoke(&weft::Call::get("orders", "/").expect("a call")).expect("its circuit is closed");
    assert!(world.mesh.policy(&service("orders")).circuit_breaker.failure_threshold == 5);
}
