//! The retry budget: a failing service is not buried under retries.

use serde_json::{Value, json};
use weft::Cause;
use weft::policy::breaker::Status;

use super::world::{World, answer, ok, together};

/// Retries at once, and a breaker that stays out of it.
fn stormy() -> Value {
    json!({"retry": {"baseDelayMs": 0}, "circuitBreaker": {"failureThreshold": 1_000_000}})
}

/// What is saved up at the start: ten seconds' worth of ten a second.
const BURST: usize = 100;

#[test]
fn a_service_that_always_fails_sees_a_fifth_more_requests_than_calls_and_the_burst() {
    let world = World::new().policy(stormy()).with("a", [answer(500)]);
    let errors: Vec<_> = (0..1000).map(|_| world.get().expect_err("it always fails")).collect();
    assert!((1200..=1200 + BURST).contains(&world.sent()), "{} requests", world.sent());
    assert_eq!(errors[0].attempts, 4);
    assert!(!errors[0].budget_exhausted);
    let last = errors.last().expect("the last");
    assert!(last.budget_exhausted && last.cause == Cause::Status(500), "{last:?}");
    assert!(world.metrics().refused.retries_over_budget > 500);
}

#[test]
fn so_it_is_when_sixty_four_threads_call_at_once() {
    let world = World::of_threads().policy(stormy()).with("a", [answer(500)]);
    together(64, |_| (0..16).for_each(|_| drop(world.get())));
    assert!(world.sent() <= 64 * 16 * 12 / 10 + BURST + 1, "{} requests", world.sent());
    world.is_at_rest();
}

#[test]
fn time_fills_it_again() {
    let world = World::new().policy(stormy()).with("a", [answer(500)]);
    while !world.get().expect_err("it always fails").budget_exhausted {}
    assert_eq!(world.explain().retry_budget_left, 0.0);
    world.pass(10_000);
    assert_eq!(world.explain().retry_budget_left, 100.0);
    assert_eq!(world.get().expect_err("it always fails").attempts, 4);
}

#[test]
fn an_empty_budget_delivers_the_last_429_all_the_same() {
    let world = World::new().policy(stormy()).with("a", [answer(429)]);
    world.serves(1000);
    let last = world.get().expect("an answer");
    assert!(last.status == 429 && last.attempts <= 2, "one in five has saved up a retry: {last:?}");
}

/// Retries at once, no ejection, and a breaker that opens after so many failures in a row.
fn drained(threshold: u32) -> Value {
    json!({"retry": {"baseDelayMs": 0}, "circuitBreaker": {"failureThreshold": threshold}, "outlier": {"consecutiveFailures": 1_000_000}})
}

#[test]
fn a_retry_that_the_budget_left_out_is_not_held_against_a_service_that_works() {
    // One call in five has saved up the retry that finds the instance that works, and that one is enough to know.
    let world = World::new().policy(drained(4)).with("a", [answer(500)]).with("b", [ok()]);
    world.weight("a", 1000);
    let (mut in_a_row, mut most) = (0, 0);
    for _ in 0..3000 {
        in_a_row = if world.get().is_err_and(|error| error.budget_exhausted) { in_a_row + 1 } else { 0 };
        most = most.max(in_a_row);
    }
    assert!(most >= 4, "at most {most} calls in a row lacked budget");
    assert_eq!((world.breaker(), world.explain().circuit_breaker.failure_count), (Status::Closed, 0));
}

#[test]
fn a_service_of_which_no_instance_answers_is_found_dead_although_there_is_no_budget_to_try_them_all() {
    let world = World::new().policy(drained(100)).with("a", [answer(500)]).with("b", [answer(500)]);
    let errors: Vec<_> = (0..100).map(|_| world.get().expect_err("it always fails")).collect();
    assert!(errors.last().is_some_and(|last| last.budget_exhausted));
    assert_eq!(world.breaker(), Status::Open);
}

#[test]
fn without_a_budget_there_are_no_retries_and_that_is_no_shortage() {
    let world = World::new().policy(json!({"retry": {"budgetRatio": 0, "budgetPerSecond": 0}})).with("a", [answer(500), ok()]);
    let error = world.get().expect_err("no retry");
    assert_eq!((error.attempts, error.budget_exhausted), (1, false));
}
