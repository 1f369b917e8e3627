//! Deadlines: no call outlives its own, whatever happens to it.

use std::time::Duration;

use serde_json::json;
use weft::model::Reason;
use weft::model::time::{Dice, SeededDice, whole_ms};
use weft::{Call, Cause, Method};

use super::world::{
    Act, Gate, World, answer, garbage, get, hang, ms, ok, panics, post, refuse, reset, stale, together, unreachable, until,
};

#[test]
fn what_is_left_is_recomputed_for_every_attempt_and_sent_on() {
    let world = World::new().with("a", [answer(503).after(500)]);
    world.invoke(&get().timeout(ms(5_000))).expect_err("it always fails");
    let sent: Vec<(u64, String)> =
        world.times().into_iter().zip(world.deliveries()).map(|(at, sent)| (at, sent.header("x-request-timeout-ms").to_owned())).collect();
    let expected = [(0, "5000"), (600, "4400"), (1_300, "3700"), (2_200, "2800")];
    assert_eq!(sent, expected.map(|(at, left)| (at, left.to_owned())));
}

#[test]
fn without_a_callers_limit_the_policy_sets_it_and_a_caller_can_only_shorten_it() {
    for (asked, left) in [(None, "30000"), (Some(7_000), "7000"), (Some(99_000), "30000")] {
        let world = World::new().with("a", [ok()]);
        world.invoke(&Call { timeout: asked.map(ms), ..get() }).expect("an answer");
        assert_eq!(world.deliveries()[0].header("x-request-timeout-ms"), left, "{asked:?}");
    }
}

#[test]
fn an_attempt_and_its_connection_have_their_own_limits_or_what_is_left() {
    let world = World::new().with("a", [hang(), ok()]);
    world.invoke(&get().timeout(ms(10_500))).expect("the second attempt");
    let limits: Vec<(u64, u64)> = world.deliveries().iter().map(|sent| (whole_ms(sent.timeout), whole_ms(sent.connect))).collect();
    assert_eq!(limits, [(10_000, 1_000), (400, 400)]);
}

#[test]
fn a_hanging_service_costs_a_caller_its_deadline_and_not_more() {
    let world = World::new().with("a", [hang()]);
    let error = world.get().expect_err("nobody answers");
    assert_eq!((error.reason(), error.attempts, world.elapsed()), (Reason::DeadlineExceeded, 3, 30_000));
    assert_eq!(world.times(), [0, 10_100, 20_300]);
}

#[test]
fn a_callers_limit_that_cuts_an_attempt_short_is_a_deadline_exceeded() {
    for act in [hang(), ok().after(800), ok().stalls()] {
        let world = World::new().with("a", [act.clone()]);
        let error = world.invoke(&get().timeout(ms(500))).expect_err("too slow");
        assert_eq!((error.reason(), error.attempts, world.elapsed()), (Reason::DeadlineExceeded, 1, 500), "{act:?}");
    }
}

#[test]
fn an_attempt_that_used_up_its_own_time_and_may_not_be_repeated_is_an_upstream_timeout() {
    for act in [hang(), ok().stalls()] {
        let world = World::new().with("a", [act.clone()]);
        let error = world.post().expect_err("too slow");
        assert_eq!(
            (error.reason(), error.retry_skipped, world.elapsed()),
            (Reason::UpstreamTimeout, Some(Method::Post), 10_000),
            "{act:?}"
        );
    }
}

#[test]
fn the_last_cause_stands_when_there_is_no_time_for_the_next_wait() {
    // The wait and five milliseconds for the attempt after it have to fit.
    for (timeout, attempts) in [(50, 1), (104, 1), (105, 2), (304, 2), (305, 3)] {
        let world = World::new().with("a", [answer(500)]);
        let error = world.invoke(&get().timeout(ms(timeout))).expect_err("it always fails");
        assert_eq!((error.cause, error.attempts), (Cause::Status(500), attempts), "{timeout} ms");
        assert!(world.elapsed() < timeout, "it is not waited for in vain");
    }
}

#[test]
fn nothing_left_means_no_attempt() {
    let world = World::new().with("a", [ok()]);
    let error = world.invoke(&get().timeout(Duration::ZERO)).expect_err("no time at all");
    assert_eq!((error.reason(), error.attempts, error.not_sent), (Reason::DeadlineExceeded, 0, true));
    assert_eq!((world.sent(), world.explain().circuit_breaker.failure_count), (0, 0));
}

#[test]
fn time_spent_before_the_call_began_to_run_counts() {
    let world = World::new().with("a", [ok()]);
    let came_in = world.now();
    world.pass(400);
    world.mesh.invoke_since(&get().timeout(ms(1_000)), came_in).expect("in time");
    assert_eq!(world.deliveries()[0].header("x-request-timeout-ms"), "600");
    world.pass(600);
    let error = world.mesh.invoke_since(&get().timeout(ms(1_000)), came_in).expect_err("too late");
    assert_eq!((error.reason(), world.sent()), (Reason::DeadlineExceeded, 1));
}

#[test]
fn an_unwanted_answer_that_never_ends_costs_no_more_than_its_attempt() {
    let world = World::new().with("a", [answer(500).body("half").stalls(), ok()]);
    assert_eq!(world.get().expect("the retry").attempts, 2);
    assert!(world.elapsed() <= 10_100, "{} ms", world.elapsed());
}

#[test]
fn a_wait_for_a_slot_counts_and_ends_with_the_deadline() {
    let gate = Gate::default();
    let world = World::of_threads().policy(json!({"limits": {"maxInFlight": 1}})).with("a", [ok().behind(&gate)]);
    std::thread::scope(|scope| {
        scope.spawn(|| world.get().expect("the first"));
        gate.has_seen(1);
        let waiting = scope.spawn(|| world.invoke(&get().timeout(ms(300))));
        let in_time = scope.spawn(|| world.invoke(&get().timeout(ms(900))));
        until(|| world.metrics().queued == 2);
        world.pass(300);
        let error = waiting.join().expect("no panic").expect_err("it waited too long");
        assert_eq!((error.reason(), error.attempts, error.not_sent), (Reason::DeadlineExceeded, 0, true));
        gate.open();
        in_time.join().expect("no panic").expect("it was its turn in time");
    });
    assert_eq!(world.deliveries()[1].header("x-request-timeout-ms"), "600");
    world.is_at_rest();
}

/// Five hundred worlds of instances that do anything, called in any way: a call ends once, in time, keeps nothing, and does not do twice
/// what may have been done once.
#[test]
fn no_call_outlives_its_deadline_or_keeps_anything_in_any_world() {
    for seed in 0..500 {
        let chance = Chance(SeededDice::new(seed));
        let world = any_world(World::seeded(seed), &chance);
        for round in 0..30 {
            let call = any_call(&chance);
            let total = world.mesh.policy(&call.service).timeouts.total_ms.duration();
            let limit = call.timeout.map_or(total, |limit| limit.min(total));
            let (began, sent) = (world.now(), world.sent());

            let result = world.invoke(&call);

            let here = format!("seed {seed}, round {round}: {} {:?} -> {result:?}", call.method, call.timeout);
            let took = world.now() - began;
            assert!(took <= limit, "{here}: took {took:?} of {limit:?}");
            assert_eq!(world.is_at_rest(), round + 1, "{here}");
            let attempts = world.deliveries_after(sent);
            let told = result.as_ref().map_or_else(|error| error.attempts, |reply| reply.attempts);
            assert_eq!(attempts.len(), usize::try_from(told).expect("few"), "{here}");
            assert!(attempts.len() <= 5, "{here}: four, and one for a closed connection");
            for attempt in &attempts {
                let left = limit - (attempt.at - began);
                assert_eq!(attempt.header("x-request-timeout-ms"), whole_ms(left).max(1).to_string(), "{here}");
                assert!(attempt.connect <= attempt.timeout && attempt.timeout <= left, "{here}");
            }
            if !call.method.is_idempotent() {
                let processed = attempts.iter().filter(|attempt| attempt.may_be_processed).count();
                assert!(processed <= 1, "{here}: may have been done {processed} times");
            }
            match result {
                Ok(reply) => assert!(reply.status < 500 || [501, 505].contains(&reply.status), "{here}"),
                Err(error) if error.cause == Cause::DeadlineExceeded => assert!(took + ms(5) > limit, "{here}: there was time left"),
                Err(_) => {}
            }
            world.pass(chance.up_to(5_000));
        }
    }
}

/// As above with eight threads, narrow limits and a faulty transport: whatever is taken is given back.
#[test]
fn threads_and_faults_keep_nothing_in_any_world() {
    for seed in 0..50 {
        let chance = Chance(SeededDice::new(seed));
        let limits = json!({"limits": {"maxInFlight": 3, "maxQueue": 2, "instanceMaxInFlight": 1}});
        let world = any_world(World::seeded(seed).policy(limits), &chance).with("faulty", [ok(), panics()]);
        together(8, |thread| {
            let chance = Chance(SeededDice::new(seed * 8 + thread as u64));
            for _ in 0..30 {
                let (caller, call) = (world.clone(), any_call(&chance));
                // The thread that meets the fault ends; nobody else does.
                drop(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| caller.invoke(&call))));
            }
        });
        world.is_at_rest();
        world.explain().instances.iter().for_each(|instance| world.script(&instance.id, [ok()]));
        world.pass(60_000);
        world.get().unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    }
}

/// Chances of a seed.
struct Chance(SeededDice);

impl Chance {
    fn up_to(&self, most: u64) -> u64 {
        self.0.roll() % (most + 1)
    }

    fn one_of<T: Clone>(&self, all: &[T]) -> T {
        let at = self.up_to(all.len() as u64 - 1);
        all[usize::try_from(at).expect("few")].clone()
    }
}

/// Adds one to four instances with scripts of any acts, and any time limits.
fn any_world(world: World, chance: &Chance) -> World {
    let attempt = chance.one_of(&[200, 1_000, 10_000]);
    let world = world.policy(json!({
        "timeouts": {"attemptMs": attempt, "totalMs": attempt * chance.one_of(&[1, 2, 5]), "connectMs": chance.one_of(&[50, 1_000])},
        "retry": {"jitter": chance.one_of(&[0.0, 0.1, 1.0])},
        "circuitBreaker": {"failureThreshold": chance.one_of(&[5, 1_000])},
    }));
    (0..=chance.up_to(3)).fold(world, |world, n| {
        let script: Vec<Act> = (0..=chance.up_to(11)).map(|_| any_act(chance)).collect();
        world.with(&format!("i{n}"), script)
    })
}

fn any_act(chance: &Chance) -> Act {
    let status = chance.one_of(&[200, 204, 302, 404, 408, 429, 500, 501, 502, 503, 504, 505, 507]);
    let answer = || answer(status).body("some body");
    let act = chance.one_of(&[
        answer(),
        answer(),
        answer().cut_off(),
        answer().stalls(),
        answer().header("Retry-After", &chance.up_to(3).to_string()),
        ok(),
        refuse(),
        unreachable(),
        reset(),
        hang(),
        garbage(),
        stale(false),
        stale(true),
    ]);
    act.after(chance.one_of(&[0, 0, 1, 20, 150, 999, 3_000]))
}

fn any_call(chance: &Chance) -> Call {
    Call {
        method: chance.one_of(&Method::ALL),
        timeout: chance.one_of(&[None, None, Some(0), Some(1), Some(4), Some(106), Some(700), Some(12_000), Some(99_000)]).map(ms),
        max_retries: chance.one_of(&[None, None, None, Some(0), Some(1), Some(9)]),
        is_retry: chance.up_to(9) == 0,
        ..post()
    }
}
