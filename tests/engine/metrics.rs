//! What is counted, and what is not.

use serde_json::json;
use weft::Call;
use weft::model::Reason;
use weft::policy::breaker::Status;

use super::world::{Gate, SERVICE, World, answer, get, id, ms, ok, panics, refuse, service, together, until};

#[test]
fn a_call_counts_once_whatever_its_attempts() {
    let world = World::new().with("a", [answer(500).after(10), refuse(), answer(503), ok().after(20)]);
    world.get().expect("the last attempt");
    let (all, users) = (world.mesh.metrics(), world.metrics());
    assert_eq!((all.total_requests, all.successful_requests, all.failed_requests), (1, 1, 0));
    assert_eq!((users.requests, users.successes, users.failures, users.retries), (1, 1, 0, 3));
    assert_eq!((users.instances["a"].requests, users.instances["a"].failures), (4, 3));
    assert_eq!(all.average_latency, format!("{}ms", world.elapsed()));
}

#[test]
fn every_answer_that_is_delivered_is_a_success() {
    let statuses = [200, 204, 302, 400, 404, 429, 501, 505];
    for status in statuses {
        let world = World::new().with("a", [answer(status)]);
        world.get().expect("delivered as it is");
        assert_eq!((world.metrics().successes, world.metrics().failures), (1, 0), "{status}");
    }
}

#[test]
fn every_refusal_is_a_failure() {
    let world = World::new().policy(json!({"circuitBreaker": {"failureThreshold": 1}, "limits": {"maxInFlight": 1, "maxQueue": 0}}));
    let other = world.clone();
    let crowded = move || assert_eq!(other.get().expect_err("no slot").reason(), Reason::Overloaded);
    let world = world.with("a", [ok().meanwhile(crowded), answer(507)]);
    world.get().expect("an answer");
    world.invoke(&get().timeout(ms(0))).expect_err("no time");
    world.get().expect_err("507");
    world.get().expect_err("circuit open");
    world.pass(60_000);
    world.weight("a", 0);
    world.get().expect_err("no instance");
    world.invoke(&Call { hops: 8, ..get() }).expect_err("a loop");
    world.mesh.shutdown(ms(0));
    world.get().expect_err("draining");

    let (all, users) = (world.mesh.metrics(), world.metrics());
    assert_eq!((all.total_requests, all.successful_requests, all.failed_requests), (8, 1, 7));
    assert_eq!((users.refused.overloaded, users.refused.circuit_open, users.refused.no_healthy_instance), (1, 1, 1));
    assert_eq!(all.success_rate, "12.50%");
    world.is_at_rest();
}

#[test]
fn an_unknown_service_is_in_neither_total() {
    let world = World::new().with("a", [ok()]);
    let error = world.invoke(&Call::get("nobody", "/").expect("a call")).expect_err("unknown");
    assert_eq!((error.reason(), error.attempts, error.not_sent), (Reason::UnknownService, 0, true));
    let all = world.mesh.metrics();
    assert_eq!((all.total_requests, all.failed_requests, all.unknown_service_requests), (0, 0, 1));
    assert_eq!(all.success_rate, "0%");
}

#[test]
fn a_hundred_thousand_strange_names_leave_no_trace_but_a_number() {
    let world = World::new().with("a", [ok()]);
    let call_strangers = |from: usize| {
        for n in from..from + 101_000 {
            world.invoke(&Call::get(&format!("stranger-{n}"), "/").expect("a call")).expect_err("unknown");
        }
        serde_json::to_string(&world.mesh.metrics()).expect("JSON").len()
    };
    assert_eq!(call_strangers(0), call_strangers(101_000), "six digits before and after, of those kept and dropped for /traces as well");
    assert_eq!(world.mesh.metrics().unknown_service_requests, 202_000);
    assert_eq!(world.mesh.events(0).next, 1, "the registration");
    assert_eq!(world.mesh.services().len(), 1);
}

#[test]
fn all_services_appear_from_their_registration_on_and_vanish_with_it() {
    let world = World::new().with("a", [ok()]);
    let all = world.mesh.metrics();
    assert_eq!(all.service_health.get("users:a"), Some(&true));
    assert_eq!(all.circuit_breakers[SERVICE].status, Status::Closed);
    let json = serde_json::to_value(&all).expect("JSON");
    assert_eq!(json["circuitBreakers"][SERVICE], json!({"status": "CLOSED", "failureCount": 0, "successCount": 0}));
    assert_eq!((&json["successRate"], &json["averageLatency"], &json["totalRequests"]), (&json!("0%"), &json!("0ms"), &json!(0)));

    world.get().expect("an answer");
    world.mesh.deregister(&service(SERVICE), &id("a")).expect("known");
    let all = world.mesh.metrics();
    assert!(all.services.is_empty() && all.circuit_breakers.is_empty() && all.service_health.is_empty());
    assert_eq!(all.total_requests, 1, "the mesh has made it all the same");
}

#[test]
fn latencies_are_those_of_the_world() {
    let mut script: Vec<_> = (1..=99).map(|_| ok().after(10)).collect();
    script.push(ok().after(1_000));
    let world = World::new().with("a", script);
    world.serves(100);
    let latency = world.metrics().instances["a"].latency_ms;
    assert!((9.8..=10.2).contains(&latency.p50) && (9.8..=10.2).contains(&latency.p99), "{latency:?}");
    assert_eq!((latency.max, world.metrics().latency_ms.max), (1_000.0, 1_000.0));
    assert_eq!(world.mesh.metrics().average_latency, "20ms");
    assert_eq!(world.mesh.service(SERVICE).expect("registered").instances[0].avg_response_time, "20ms");
    assert_eq!(world.mesh.metrics().uptime_seconds, 1);
}

#[test]
fn what_is_under_way_is_shown() {
    let gate = Gate::default();
    let world =
        World::of_threads().policy(json!({"limits": {"maxInFlight": 3}})).with("a", [ok().behind(&gate)]).with("b", [ok().behind(&gate)]);
    std::thread::scope(|scope| {
        for _ in 0..5 {
            scope.spawn(|| world.get().expect("an answer"));
        }
        until(|| world.metrics().queued == 2);
        gate.has_seen(3);
        let users = world.metrics();
        assert_eq!((users.in_flight, users.instances["a"].in_flight + users.instances["b"].in_flight, users.requests), (3, 3, 0));
        assert_eq!(world.mesh.service(SERVICE).expect("registered").instances.iter().map(|instance| instance.in_flight).sum::<u32>(), 3);
        gate.open();
    });
    world.is_at_rest();
    assert_eq!(world.metrics().requests, 5);
}

#[test]
fn the_totals_agree_whatever_threads_do() {
    let world =
        World::new().with("a", [answer(500), ok(), refuse(), answer(404), panics(), ok()]).with("b", [ok(), answer(503), answer(429)]);
    let calls: usize = together(8, |_| {
        let call = |_| std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(world.get()))).is_ok();
        (0..100).map(call).filter(|ended| *ended).count()
    })
    .into_iter()
    .sum();
    let (all, users) = (world.mesh.metrics(), world.metrics());
    assert_eq!(all.total_requests, all.successful_requests + all.failed_requests);
    assert_eq!((users.successes, users.failures), (all.successful_requests, all.failed_requests));
    assert!(all.total_requests >= calls as u64);
    world.is_at_rest();
}
