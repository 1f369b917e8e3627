//! Routes: what is special about some calls, on the engine as a whole.

use serde_json::{Value, json};
use weft::Call;
use weft::model::{Reason, ServiceName};

use super::world::{Gate, World, answer, get, hang, ms, ok, post, together, until};

#[allow(clippy::needless_pass_by_value)] // It reads better where it is used.
fn routed(routes: Value) -> World {
    World::new().policy(json!({ "routes": routes }))
}

fn labelled(world: World, instance: &str, version: &str) -> World {
    world.script(instance, [ok()]);
    world.register(instance, |registration| {
        registration.metadata = Some([("version".to_owned(), version.to_owned())].into());
    });
    world
}

fn canary() -> World {
    let world = routed(json!([
        {"name": "testers", "match": {"headers": {"x-tester": {"present": true}}}, "split": [{"subset": {"version": "2"}}]},
        {"name": "canary", "split": [{"weight": 90, "subset": {"version": "1"}}, {"weight": 10, "subset": {"version": "2"}}]},
    ]));
    labelled(labelled(labelled(world, "old-1", "1"), "old-2", "1"), "new", "2")
}

#[test]
fn a_canary_gets_its_share_and_testers_always_get_the_canary() {
    let world = canary();
    world.serves(4_000);
    let new = world.sent_to("new");
    assert!((324..=476).contains(&new), "{new}");
    assert!(world.sent_to("old-1").abs_diff(world.sent_to("old-2")) <= 1, "within a side they take turns");
    for _ in 0..50 {
        let tester = get().header("x-tester", "1").expect("a header");
        assert_eq!(world.invoke(&tester).expect("an answer").instance.as_str(), "new");
    }
}

#[test]
fn an_instance_on_very_many_sides_is_explained_of_some() {
    let world = labelled(routed(json!(vec![json!({"split": vec![json!({"weight": 1_000_000}); 20]}); 100])), "a", "1");
    let routes = &world.explain().instances[0].routes;
    assert_eq!((routes.len(), routes[19].as_str()), (20, "route 0: a side with 1000000 of 20000000"));
}

#[test]
fn a_key_stays_on_its_side() {
    let world = canary();
    let side = |key: &str| {
        let call = Call { hash_key: Some(key.to_owned()), ..get() };
        world.invoke(&call).expect("an answer").instance.as_str() == "new"
    };
    let on_new = (0..500).filter(|user| {
        let user = format!("user-{user}");
        let first = side(&user);
        assert!((0..3).all(|_| side(&user) == first), "{user}");
        first
    });
    assert!((20..=85).contains(&on_new.count()));
}

#[test]
fn a_retry_stays_on_the_side_of_its_call_and_an_empty_side_has_nobody() {
    let world = canary();
    world.script("new", [answer(500)]);
    let tester = get().header("x-tester", "1").expect("a header");
    let error = world.invoke(&tester).expect_err("it fails");
    assert_eq!((error.attempts, world.sent_to("new")), (4, 4));
    world.state("new", weft::model::AdminState::Drain);
    assert_eq!(world.invoke(&tester).expect_err("nobody there").reason(), Reason::NoHealthyInstance);
    assert_eq!(world.explain().instances[0].routes, ["route testers: a side with 1 of 1", "route canary: a side with 10 of 100"]);
}

#[test]
fn what_is_sent_is_rewritten_and_its_header_fields_changed() {
    let world = routed(json!([{
        "match": {"pathPrefix": "/profile"}, "rewritePrefix": "/v2/people",
        "setHeaders": {"x-region": "east", "x-old": "new"}, "removeHeaders": ["x-secret"],
    }]))
    .with("a", [answer(500), ok()]);
    let call = Call::get("users", "/profile/1?full=1").expect("a call");
    let call = call.header("X-Old", "old").and_then(|call| call.header("x-secret", "s")).expect("headers");
    world.invoke(&call).expect("the retry answers");
    for sent in world.deliveries() {
        assert_eq!((sent.endpoint.as_str(), sent.header("x-region"), sent.header("x-old")), ("/v2/people/1?full=1", "east", "new"));
        assert_eq!(sent.headers.first("x-secret"), None);
    }
    world.invoke(&post()).expect("another path");
    assert_eq!(world.deliveries()[2].endpoint, "/orders");
}

#[test]
fn a_fault_holds_a_call_up_or_fails_it_and_costs_no_instance_anything() {
    let world = routed(json!([
        {"match": {"pathExact": "/slow"}, "fault": {"delayMs": 70}},
        {"match": {"pathExact": "/broken"}, "fault": {"delayMs": 30, "abortStatus": 418}},
    ]))
    .with("a", [ok()]);
    world.invoke(&Call::get("users", "/slow").expect("a call")).expect("late");
    assert_eq!(world.times(), [70]);
    let error = world.invoke(&Call::get("users", "/broken").expect("a call")).expect_err("as asked");
    assert_eq!((error.reason(), error.status(), error.attempts, error.not_sent), (Reason::FaultInjected, 418, 0, true));
    assert_eq!(error.to_string(), "a fault was injected: the route says to answer 418");
    assert_eq!((world.elapsed(), world.sent(), world.explain().circuit_breaker.failure_count), (100, 1, 0));
    let metrics = world.metrics();
    assert_eq!((metrics.refused.fault_injected, metrics.routes.held_up, metrics.failures), (1, 2, 1));
    world.is_at_rest();
}

#[test]
fn a_call_is_never_held_up_beyond_its_deadline() {
    let world = routed(json!([{"fault": {"delayMs": 5_000}}])).with("a", [ok()]);
    let error = world.invoke(&get().timeout(ms(40))).expect_err("too late");
    assert_eq!((error.reason(), world.elapsed(), world.sent()), (Reason::DeadlineExceeded, 40, 0));
}

#[test]
fn faults_hit_their_share_of_the_calls() {
    let world = routed(json!([{"fault": {"abortStatus": 503, "abortPercent": 25}}])).with("a", [ok()]);
    let failed = (0..2_000).filter(|_| world.get().is_err()).count();
    assert!((422..=578).contains(&failed), "{failed}");
    assert_eq!(world.breaker(), weft::policy::breaker::Status::Closed, "which says nothing about the service");
}

#[test]
fn a_route_has_times_and_retries_of_its_own() {
    let world = routed(json!([
        {"match": {"pathPrefix": "/profile"}, "timeouts": {"totalMs": 300, "attemptMs": 100}, "retry": {"maxRetries": 1, "baseDelayMs": 10}},
    ]))
    .with("a", [hang()]);
    let error = world.get().expect_err("it hangs");
    assert_eq!((error.attempts, world.elapsed()), (2, 210));
    assert_eq!(world.deliveries()[0].timeout, ms(100));
    let error = world.invoke(&Call::get("users", "/other").expect("a call")).expect_err("it hangs");
    assert!(error.attempts == 3 && world.deliveries()[2].timeout == ms(10_000), "{error:?}");
}

#[test]
fn a_route_can_allow_what_the_service_does_not() {
    let world = routed(json!([{"match": {"pathExact": "/orders"}, "retry": {"nonIdempotent": true, "retryOn": [500]}}]))
        .with("a", [answer(500), ok()]);
    assert_eq!(world.post().expect("retried").attempts, 2);
}

#[test]
fn a_failed_call_comes_with_the_answer_of_its_route() {
    let world = routed(json!([{"match": {"pathExact": "/profile"}, "fallback": {"body": {"name": "somebody"}}}])).with("a", [answer(500)]);
    let error = world.get().expect_err("it fails");
    let fallback = error.fallback.expect("an answer");
    assert_eq!((fallback.status, fallback.body.as_slice()), (200, &br#"{"name":"somebody"}"#[..]));
    assert_eq!(world.post().expect_err("another path").fallback, None);
    let metrics = world.metrics();
    assert_eq!((metrics.routes.fallbacks, metrics.failures, metrics.successes), (1, 2, 0));
}

#[test]
fn a_call_that_succeeds_needs_no_fallback() {
    let world = routed(json!([{"fallback": {"status": 203}}])).with("a", [ok()]);
    assert_eq!(world.get().expect("an answer").status, 200);
    assert_eq!(world.metrics().routes.fallbacks, 0);
}

#[test]
fn copies_that_nobody_sends_are_counted_as_dropped() {
    let world = routed(json!([{"mirror": {"service": "shadow", "percent": 50}}])).with("a", [ok()]);
    world.serves(1_000);
    let routes = world.metrics().routes;
    assert!(routes.mirrored == 0 && (436..=564).contains(&routes.mirrors_dropped), "{routes:?}");
}

#[test]
fn a_copy_is_what_the_attempt_sends_and_is_not_retried() {
    use weft::mesh::Wake;
    use weft::mesh::call::{CallMeta, Step};
    use weft::model::RequestId;

    let route =
        json!([{"match": {"pathPrefix": "/"}, "mirror": {"service": "shadow"}, "rewritePrefix": "/v2", "setHeaders": {"x-a": "1"}}]);
    let world = routed(route).with("a", [ok()]);
    let call = post().timeout(ms(50));
    let meta = CallMeta::of(&call, RequestId::from_roll(1, 2));
    let begin = |meta| world.mesh.start(meta, Wake::Thread(std::thread::current()), world.now()).map_err(|error| error.to_string());
    let mut machine = begin(meta.clone()).expect("registered");
    let Step::Send(attempt) = machine.step(world.now()) else { panic!("it sends") };
    assert_eq!(attempt.mirror.as_ref().map(ServiceName::as_str), Some("shadow"));
    let copy = attempt.mirrored(&call).expect("a copy");
    assert_eq!((copy.service.as_str(), copy.endpoint.as_str(), copy.headers.first("x-a")), ("shadow", "/v2/orders", Some("1")));
    assert_eq!((copy.max_retries, copy.timeout, copy.hops, &copy.body), (Some(0), None, 1, &call.body));
    drop(machine);
    let mut machine = begin(CallMeta { is_mirror: true, ..meta }).expect("registered");
    let Step::Send(attempt) = machine.step(world.now()) else { panic!("it sends") };
    assert!(attempt.is_mirror && attempt.mirror.is_none(), "a copy is not copied");
}

#[test]
fn routes_change_as_a_whole_and_a_bad_one_changes_nothing() {
    let world = canary();
    let before = world.mesh.policy(&super::world::service("users"));
    let bad = json!({"routes": [{"name": "fine"}, {"split": [{"weight": 0}]}], "retry": {"maxRetries": 1}});
    let fault = world.mesh.patch_policy(&super::world::service("users"), &bad).expect_err("refused").to_string();
    assert!(fault.starts_with("routes[1].split: "), "{fault}");
    assert_eq!(world.mesh.policy(&super::world::service("users")), before);
    world.patch(json!({"routes": []}));
    world.serves(30);
    assert_eq!(world.sent_to("new"), 10);
}

#[test]
fn where_answers_are_streamed_a_failing_one_gives_way_to_the_answer_of_the_route() {
    use weft::mesh::Wake;
    use weft::mesh::call::{CallMeta, Mode, Step, Verdict};
    use weft::model::{Headers, RequestId};

    for (routes, verdict) in [(json!([]), Verdict::Deliver), (json!([{"fallback": {"status": 203}}]), Verdict::Discard)] {
        let world = routed(routes).policy(json!({"retry": {"maxRetries": 0}})).with("a", [ok()]);
        let call = get();
        let meta = CallMeta { mode: Mode::Stream, ..CallMeta::of(&call, RequestId::from_roll(1, 2)) };
        let machine = world.mesh.start(meta, Wake::Thread(std::thread::current()), world.now());
        let mut machine = machine.map_err(|error| error.to_string()).expect("registered");
        let Step::Send(_) = machine.step(world.now()) else { panic!("it sends") };
        assert_eq!(machine.head(500, &Headers::new(), world.now(), 0), verdict);
        machine.body_end(Ok(()), world.now(), 0);
        let Step::Done(end) = machine.step(world.now()) else { panic!("it is over") };
        let fallback = end.result.err().and_then(|error| error.fallback).map(|answer| answer.status);
        assert_eq!(fallback, (verdict == Verdict::Discard).then_some(203));
    }
}

#[test]
fn a_side_whose_instances_are_full_holds_nobody_else_up() {
    let (gate, routes) = (Gate::default(), json!([{"match": {"headers": {"x-tester": "1"}}, "split": [{"subset": {"version": "2"}}]}]));
    let world =
        World::of_threads().policy(json!({"routes": routes, "limits": {"queueTimeoutMs": 600_000}, "timeouts": {"totalMs": 700_000}}));
    let world = labelled(labelled(world, "old", "1"), "new", "2");
    world.script("new", [ok().behind(&gate)]);
    world.register("new", |registration| registration.max_in_flight = Some(1));
    let tester = get().header("x-tester", "1").expect("a header");
    together(4, |n| {
        if n < 3 {
            assert_eq!(world.invoke(&tester).expect("its turn").instance.as_str(), "new");
            return;
        }
        gate.has_seen(1);
        until(|| world.metrics().queued == 2);
        for _ in 0..20 {
            assert_eq!(world.get().expect("the other side has room").instance.as_str(), "old");
        }
        gate.open();
    });
    assert_eq!((world.is_at_rest(), world.sent_to("new")), (23, 3));
}

#[test]
fn a_retry_that_waits_for_its_side_holds_nobody_up_either() {
    let (gate, routes) = (Gate::default(), json!([{"match": {"headers": {"x-tester": "1"}}, "split": [{"subset": {"version": "2"}}]}]));
    let policy =
        json!({"routes": routes, "retry": {"baseDelayMs": 0}, "limits": {"queueTimeoutMs": 600_000}, "timeouts": {"totalMs": 700_000}});
    let world = labelled(labelled(World::of_threads().policy(policy), "old", "1"), "new", "2");
    world.script("new", [answer(500).behind(&gate), ok().behind(&gate)]);
    world.register("new", |registration| registration.max_in_flight = Some(1));
    let tester = get().header("x-tester", "1").expect("a header");
    together(3, |n| {
        if n < 2 {
            world.invoke(&tester).expect("its turn");
            return;
        }
        gate.has_seen(1);
        until(|| world.metrics().queued == 1);
        gate.let_one_through();
        gate.has_seen(2);
        until(|| world.metrics().queued == 1);
        world.serves(10);
        gate.open();
    });
    world.is_at_rest();
}
