//! A kept-alive connection that turns out to be closed is nobody's fault and costs nobody anything.

use serde_json::json;
use weft::model::Reason;
use weft::policy::breaker::Status;
use weft::{Call, Method};

use super::world::{World, answer, get, ok, stale};

#[test]
fn a_closed_connection_is_replaced_at_once_and_the_caller_sees_nothing() {
    for method in Method::ALL {
        let world = World::new().with("a", [stale(false), ok()]);
        let reply = world.invoke(&Call { method, ..get() }).expect("on a new connection");
        assert_eq!((reply.status, world.elapsed()), (200, 0), "{method}");
        assert!(!world.deliveries()[0].fresh && world.deliveries()[1].fresh, "{method}: the second is sent on a new connection");
    }
}

#[test]
fn the_free_retry_takes_nothing_from_the_budget_and_is_not_one_of_the_allowed_retries() {
    let world = World::new().with("a", [stale(false), answer(500), answer(500), answer(500), ok()]);
    let before = world.explain().retry_budget_left;
    world.get().expect("the third retry of the schedule");
    assert_eq!(world.times(), [0, 0, 100, 300, 700]);
    assert_eq!(world.metrics().retries, 3);
    assert!(world.explain().retry_budget_left >= before - 3.0);

    let without = json!({"retry": {"maxRetries": 0, "budgetRatio": 0, "budgetPerSecond": 0}});
    let world = World::new().policy(without).with("a", [stale(false), ok()]);
    world.get().expect("it needs neither a retry nor a budget");
}

#[test]
fn it_is_free_once_per_call() {
    let world = World::new().with("a", [stale(false)]);
    let error = world.get().expect_err("no connection ever holds");
    assert_eq!(error.reason(), Reason::UpstreamReset);
    assert_eq!(world.times(), [0, 0, 100, 300, 700]);
}

#[test]
fn a_post_that_had_been_written_is_not_repeated() {
    let world = World::new().with("a", [stale(true), ok()]);
    let error = world.post().expect_err("it may have been processed");
    assert_eq!((error.reason(), error.retry_skipped), (Reason::UpstreamReset, Some(Method::Post)));
    assert_eq!(world.sent(), 1);
    assert!(!error.not_sent);

    let world = World::new().with("a", [stale(true), ok()]);
    world.get().expect("a GET may be");
    assert_eq!(world.times(), [0, 0]);
}

#[test]
fn it_says_nothing_about_the_health_of_anyone() {
    let world = World::new().with("a", [stale(true)]).with("b", [stale(true)]);
    world.fails(50);
    assert_eq!((world.breaker(), world.ejected().len()), (Status::Closed, 0));
    assert_eq!(world.explain().circuit_breaker.failure_count, 0);
    assert!(world.metrics().instances.values().all(|instance| instance.failures == 0));
}
