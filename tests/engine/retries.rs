//! What is tried again, when, at whom, and what never is.

use serde_json::json;
use weft::model::Reason;
use weft::{Call, Cause, Method};

use super::world::{Act, World, answer, garbage, get, hang, ms, ok, post, refuse, reset, unreachable};

#[test]
fn a_failed_call_is_tried_again_after_100_200_and_400_ms() {
    let world = World::new().with("a", [answer(500)]);
    let error = world.get().expect_err("it always fails");
    assert_eq!(world.times(), [0, 100, 300, 700]);
    assert_eq!((error.cause, error.attempts), (Cause::Status(500), 4));
    world.is_at_rest();
}

#[test]
fn the_schedule_counts_from_the_end_of_an_attempt() {
    let world = World::new().with("a", [answer(502).after(30), answer(504).after(50), ok().after(7)]);
    let reply = world.get().expect("the third attempt");
    assert_eq!(world.times(), [0, 130, 380]);
    assert_eq!((reply.attempts, reply.upstream, world.elapsed()), (3, ms(7), 387));
}

#[test]
fn chance_adds_at_most_a_tenth_to_a_wait_and_never_shortens_it() {
    for seed in 0..100 {
        let world = World::seeded(seed).policy(json!({"retry": {"jitter": 0.1}})).with("a", [answer(500)]);
        world.get().expect_err("it always fails");
        let times = world.times();
        for (pair, wait) in times.windows(2).zip([100, 200, 400]) {
            let waited = pair[1] - pair[0];
            assert!((wait..=wait * 11 / 10 + 1).contains(&waited), "seed {seed}: {waited} ms instead of {wait}");
        }
    }
}

#[test]
fn a_request_that_may_have_been_processed_is_sent_exactly_once() {
    let may_be_processed: [Act; 7] = [reset(), hang(), answer(500), answer(502), answer(504), ok().body("half").cut_off(), ok().stalls()];
    for act in may_be_processed {
        for method in [Method::Post, Method::Patch] {
            let world = World::new().with("a", [act.clone(), ok()]).with("b", [ok()]);
            let error = world.invoke(&Call { method, ..post() }).expect_err("it failed");
            assert_eq!((world.sent(), error.attempts), (1, 1), "{method} {act:?}");
            assert_eq!(error.retry_skipped, Some(method), "{method} {act:?}");
            assert!(!error.not_sent && !error.budget_exhausted, "{method} {act:?}");
            world.is_at_rest();
        }
    }
}

#[test]
fn a_request_that_cannot_have_been_processed_is_sent_again_whatever_its_method() {
    for act in [refuse(), unreachable(), answer(503), answer(429)] {
        for method in Method::ALL {
            let world = World::new().with("a", [act.clone(), ok()]);
            let reply = world.invoke(&Call { method, ..post() }).expect("the retry");
            assert_eq!((reply.status, reply.attempts), (200, 2), "{method} {act:?}");
        }
    }
}

#[test]
fn an_error_says_that_nothing_was_sent_only_when_nothing_was() {
    for (act, not_sent) in [(refuse(), true), (unreachable(), true), (answer(503), false), (reset(), false), (hang(), false)] {
        let world = World::new().with("a", [act.clone()]);
        assert_eq!(world.post().expect_err("it fails").not_sent, not_sent, "{act:?}");
    }
    let world = World::new().with("a", [answer(503), refuse()]);
    assert!(!world.post().expect_err("it fails").not_sent, "the first attempt was sent");
}

#[test]
fn the_caller_a_key_or_the_policy_can_say_that_a_post_may_be_repeated() {
    let keyed = post().header("Idempotency-Key", "k-1").expect("a field");
    for (call, policy) in [(post().idempotent(), json!({})), (keyed, json!({})), (post(), json!({"retry": {"nonIdempotent": true}}))] {
        for act in [reset(), hang(), answer(500), ok().cut_off()] {
            let world = World::new().policy(policy.clone()).with("a", [act.clone(), ok()]);
            let reply = world.invoke(&call).expect("the retry");
            assert_eq!(reply.attempts, 2, "{act:?}");
        }
    }
}

#[test]
fn a_503_that_another_mesh_made_is_repeated_for_a_post_only_when_that_mesh_sent_nothing() {
    let of_mesh = || answer(503).header("x-mesh-reason", "upstream_reset");
    let world = World::new().with("a", [of_mesh(), ok()]);
    let error = world.post().expect_err("the other mesh may have sent it");
    assert_eq!((error.cause, error.retry_skipped, world.sent()), (Cause::Status(503), Some(Method::Post), 1));

    let world = World::new().with("a", [of_mesh().header("x-mesh-not-sent", "true"), ok()]);
    assert_eq!(world.post().expect("the retry").attempts, 2);

    let world = World::new().with("a", [of_mesh(), ok()]);
    assert_eq!(world.get().expect("a GET may be repeated").attempts, 2);
}

#[test]
fn a_retry_prefers_an_instance_that_this_call_has_not_tried() {
    let world = World::new().with("a", [answer(500)]).with("b", [answer(500)]).with("c", [answer(500)]).with("d", [ok()]);
    assert_eq!(world.get().expect("the last one").instance.as_str(), "d");
    assert_eq!(world.order(), ["a", "b", "c", "d"]);
}

#[test]
fn even_where_the_one_it_has_tried_weighs_much_more() {
    let world = World::new().with("a", [answer(500)]).with("b", [ok()]);
    world.weight("a", 10);
    assert_eq!(world.get().expect("the other one").attempts, 2);
    assert_eq!(world.order(), ["a", "b"]);
}

#[test]
fn when_all_have_been_tried_they_are_tried_again() {
    let world = World::new().with("a", [answer(500)]).with("b", [answer(500)]);
    assert_eq!(world.get().expect_err("both fail").attempts, 4);
    assert_eq!(world.order()[..2], ["a", "b"]);
}

#[test]
fn a_failed_connection_moves_on_at_once_while_there_is_an_untried_instance_and_then_waits() {
    let world = World::new().with("a", [refuse()]).with("b", [refuse()]).with("c", [refuse()]);
    let error = world.get().expect_err("nobody listens");
    assert_eq!((error.reason(), error.attempts), (Reason::UpstreamConnect, 4));
    assert_eq!(world.times(), [0, 0, 0, 400]);
}

#[test]
fn an_answered_failure_waits_even_when_there_is_an_untried_instance() {
    let world = World::new().with("a", [answer(503)]).with("b", [ok()]);
    world.get().expect("the other one");
    assert_eq!(world.times(), [0, 100]);
}

#[test]
fn retry_after_replaces_the_wait() {
    for status in [503, 429] {
        let world = World::new().with("a", [answer(status).header("Retry-After", "2"), ok()]);
        world.post().expect("the retry");
        assert_eq!(world.times(), [0, 2000], "{status}");
    }
    let world = World::new().with("a", [answer(503).header("Retry-After", "0"), ok()]);
    world.get().expect("the retry");
    assert_eq!(world.times(), [0, 0]);
}

#[test]
fn a_retry_after_beyond_the_deadline_ends_the_call_at_once() {
    for asked in ["2", "3600", "18446744073709551615"] {
        let world = World::new().with("a", [answer(503).header("Retry-After", asked), ok()]);
        let error = world.invoke(&get().timeout(ms(2_000))).expect_err("no time for that");
        assert_eq!((error.cause, world.sent(), world.elapsed()), (Cause::Status(503), 1, 0), "{asked}");
    }
}

#[test]
fn a_retry_after_that_is_no_number_of_seconds_leaves_the_schedule_as_it_is() {
    let world = World::new().with("a", [answer(503).header("Retry-After", "Wed, 21 Oct 2099 07:28:00 GMT"), ok()]);
    world.get().expect("the retry");
    assert_eq!(world.times(), [0, 100]);
}

#[test]
fn a_caller_can_lower_the_number_of_retries_and_never_raise_it() {
    for (asked, attempts) in [(Some(0), 1), (Some(1), 2), (Some(3), 4), (Some(99), 4), (None, 4)] {
        let world = World::new().with("a", [answer(500)]);
        let error = world.invoke(&Call { max_retries: asked, ..get() }).expect_err("it always fails");
        assert_eq!(error.attempts, attempts, "{asked:?}");
    }
}

#[test]
fn a_call_that_is_itself_a_retry_makes_one_attempt() {
    for act in [answer(503), refuse(), reset()] {
        let world = World::new().with("a", [act.clone()]).with("b", [act.clone()]);
        let error = world.invoke(&Call { is_retry: true, ..get() }).expect_err("it fails");
        assert_eq!((error.attempts, world.sent()), (1, 1), "{act:?}");
    }
}

#[test]
fn the_last_429_is_delivered_as_it_is() {
    let world = World::new().with("a", [answer(429).header("Retry-After", "0").body("slow down")]);
    let reply = world.post().expect("an answer");
    assert_eq!((reply.status, reply.attempts, &*reply.body), (429, 4, &b"slow down"[..]));
    assert_eq!(reply.headers.first("retry-after"), Some("0"));
    assert_eq!((world.metrics().successes, world.metrics().failures), (1, 0));
}

#[test]
fn what_is_no_failure_or_no_passing_one_is_never_tried_again() {
    for status in [200, 204, 301, 400, 404, 408, 501, 505] {
        let world = World::new().with("a", [answer(status)]);
        assert_eq!(world.get().expect("an answer").status, status);
        assert_eq!(world.sent(), 1, "{status}");
    }
    for (act, reason) in [(garbage(), Reason::UpstreamProtocol), (answer(507), Reason::UpstreamStatus)] {
        let world = World::new().with("a", [act, ok()]);
        assert_eq!(world.get().expect_err("a failure").reason(), reason);
        assert_eq!(world.sent(), 1, "{reason:?}");
    }
}

#[test]
fn an_answer_that_breaks_off_is_asked_for_again_and_the_caller_gets_the_whole_one() {
    let world = World::new().with("a", [ok().body("half an ans").cut_off(), ok().body("a whole answer")]);
    let reply = world.get().expect("the retry");
    assert_eq!((reply.attempts, &*reply.body), (2, &b"a whole answer"[..]));
}

#[test]
fn an_answer_that_always_breaks_off_is_never_delivered() {
    let world = World::new().with("a", [ok().body("half an ans").cut_off()]);
    let error = world.get().expect_err("never whole");
    assert_eq!((error.reason(), error.attempts), (Reason::UpstreamReset, 4));
    assert_eq!(world.metrics().successes, 0);
}

#[test]
fn what_is_sent_is_the_same_on_every_attempt_but_for_its_number_and_the_time_left() {
    let world = World::new().with("a", [answer(503)]);
    let call = post().header("x-custom", "kept").expect("a field");
    world.invoke(&call).expect_err("it always fails");
    let deliveries = world.deliveries();
    let numbers: Vec<&str> = deliveries.iter().map(|delivery| delivery.header("x-mesh-attempt")).collect();
    assert_eq!(numbers, ["1", "2", "3", "4"]);
    assert_eq!(deliveries.iter().map(|delivery| delivery.number).collect::<Vec<_>>(), [1, 2, 3, 4]);
    for delivery in &deliveries {
        for name in ["x-request-id", "x-service-mesh", "x-custom", "content-type"] {
            assert_eq!(delivery.header(name), deliveries[0].header(name), "{name}");
        }
        assert_eq!(delivery.header("x-service-mesh"), "true");
        assert_eq!(delivery.header("content-type"), "application/json");
        assert_eq!(delivery.body.as_deref(), Some(&b"{}"[..]));
    }
}

#[test]
fn a_call_that_went_round_in_circles_is_broken_off_unsent() {
    let world = World::new().with("a", [ok()]);
    assert_eq!(world.invoke(&Call { hops: 8, ..get() }).expect_err("a loop").reason(), Reason::LoopDetected);
    assert_eq!(world.sent(), 0);
    world.invoke(&Call { hops: 7, ..get() }).expect("one more is allowed");
    assert_eq!(world.deliveries()[0].header("x-mesh-hops"), "8");
}
