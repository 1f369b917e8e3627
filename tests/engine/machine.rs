//! The call machine driven by hand, as an event loop would: in steps, streaming, woken too often, dropped half-way.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;
use weft::mesh::Wake;
use weft::mesh::call::{Attempt, CallMachine, CallMeta, Mode, Step, Verdict};
use weft::model::{ConnectFailure, Failure, Headers, Reason, RequestId};
use weft::policy::breaker::Status;
use weft::{Call, CallError};

use super::world::{World, answer, get, ms, ok, post};

/// Counts how often a waiting call was woken.
#[derive(Clone, Default)]
struct Alarm(Arc<AtomicUsize>);

impl Alarm {
    fn rang(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }

    fn wake(&self) -> Wake {
        let alarm = self.clone();
        Wake::Call(
            Arc::new(move |_| {
                alarm.0.fetch_add(1, Ordering::SeqCst);
            }),
            0,
        )
    }
}

fn world() -> World {
    World::new().with("a", [ok()])
}

fn narrow() -> World {
    World::new().policy(json!({"limits": {"maxInFlight": 1}})).with("a", [ok()])
}

fn begin(world: &World, call: &Call, mode: Mode, alarm: &Alarm) -> CallMachine {
    let meta = CallMeta { mode, ..CallMeta::of(call, RequestId::from_roll(1, 2)) };
    world.mesh.start(meta, alarm.wake(), world.now()).map_err(|error| error.to_string()).expect("registered")
}

fn streamed(world: &World) -> CallMachine {
    begin(world, &get(), Mode::Stream, &Alarm::default())
}

#[track_caller]
fn sends(machine: &mut CallMachine, world: &World) -> Attempt {
    match machine.step(world.now()) {
        Step::Send(attempt) => attempt,
        other => panic!("it does not send: {}", name(&other)),
    }
}

#[track_caller]
fn is_done(machine: &mut CallMachine, world: &World) -> Result<(), CallError> {
    match machine.step(world.now()) {
        Step::Done(end) => end.result,
        other => panic!("it is not done: {}", name(&other)),
    }
}

const fn name(step: &Step) -> &'static str {
    match step {
        Step::Send(_) => "Send",
        Step::Queued { .. } => "Queued",
        Step::Wait { .. } => "Wait",
        Step::Done(_) => "Done",
    }
}

fn head(machine: &mut CallMachine, world: &World, status: u16) -> Verdict {
    machine.head(status, &Headers::new(), world.now(), 0)
}

#[test]
fn a_streamed_answer_is_passed_on_as_it_comes() {
    let world = world();
    let mut machine = streamed(&world);
    assert_eq!(sends(&mut machine, &world).number, 1);
    assert_eq!(head(&mut machine, &world, 200), Verdict::Deliver);
    assert_eq!(world.metrics().in_flight, 1, "until its body has ended");
    machine.body_end(Ok(()), world.now(), 0);
    assert_eq!(is_done(&mut machine, &world), Ok(()));
    assert_eq!(world.metrics().successes, 1);
    world.is_at_rest();
}

#[test]
fn a_failing_answer_is_tried_again_and_the_last_one_is_passed_on_whatever_it_says() {
    let world = world();
    let mut machine = streamed(&world);
    for retry in 1..=3 {
        sends(&mut machine, &world);
        assert_eq!(head(&mut machine, &world, 500), Verdict::Discard, "retry {retry}");
        assert!(matches!(machine.step(world.now()), Step::Wait { until } if until > world.now()));
        world.pass(400);
    }
    sends(&mut machine, &world);
    assert_eq!(head(&mut machine, &world, 500), Verdict::Deliver);
    machine.body_end(Ok(()), world.now(), 0);
    assert_eq!(is_done(&mut machine, &world), Ok(()));
    assert_eq!(world.explain().circuit_breaker.failure_count, 1, "for the breaker it is a failure all the same");
}

#[test]
fn a_trial_that_streams_on_and_on_keeps_nobody_out() {
    let world = World::new().with("a", [answer(500)]);
    world.fails(5);
    world.script("a", [ok()]);
    world.pass(60_000);
    let mut trials = [streamed(&world), streamed(&world)];
    for trial in &mut trials {
        sends(trial, &world);
        assert_eq!(head(trial, &world, 200), Verdict::Deliver);
    }
    world.pass(600_000);
    world.serves(1);
    assert_eq!((world.breaker(), world.metrics().in_flight), (Status::Closed, 2));
    let [mut whole, mut broken] = trials;
    whole.body_end(Ok(()), world.now(), 0);
    assert_eq!(is_done(&mut whole, &world), Ok(()));
    broken.body_end(Err(Failure::Reset), world.now(), 0);
    is_done(&mut broken, &world).expect_err("it was not whole");
    assert_eq!((world.breaker(), world.metrics().instances["a"].failures), (Status::Closed, 6));
    world.is_at_rest();
}

#[test]
fn a_trial_that_streams_a_failing_answer_opens_the_circuit_again_at_once() {
    let world = World::new().with("a", [answer(500)]);
    world.fails(5);
    world.pass(60_000);
    let mut trial = streamed(&world);
    sends(&mut trial, &world);
    assert_eq!(head(&mut trial, &world, 500), Verdict::Deliver);
    assert_eq!(world.breaker(), Status::Open);
    drop(trial);
    world.is_at_rest();
}

#[test]
fn a_streamed_body_that_breaks_off_cannot_be_tried_again_but_counts() {
    let world = world();
    let mut machine = streamed(&world);
    sends(&mut machine, &world);
    head(&mut machine, &world, 200);
    machine.body_end(Err(Failure::Reset), world.now(), 0);
    let error = is_done(&mut machine, &world).expect_err("it was not whole");
    assert_eq!((error.reason(), error.attempts, error.retry_skipped), (Reason::UpstreamReset, 1, None));
    assert_eq!((world.metrics().instances["a"].failures, world.explain().circuit_breaker.failure_count), (1, 1));
    world.is_at_rest();
}

#[test]
fn waking_too_often_is_harmless() {
    let world = narrow();
    let (alarm, mut first) = (Alarm::default(), streamed(&world));
    sends(&mut first, &world);
    let mut second = begin(&world, &get(), Mode::Collect, &alarm);
    for _ in 0..5 {
        assert!(matches!(second.step(world.now()), Step::Queued { until } if until == world.now() + ms(1_000)));
        assert_eq!(world.metrics().queued, 1, "one place");
    }
    first.failed(Failure::Reset, world.now(), 0);
    for _ in 0..5 {
        assert!(matches!(first.step(world.now()), Step::Wait { until } if until == world.now() + ms(100)));
    }
    assert!(matches!(second.step(world.now()), Step::Queued { .. }), "a call that waits for its retry keeps its slot");
}

#[test]
fn whoever_waits_is_woken_when_it_is_its_turn() {
    let world = narrow();
    let alarm = Alarm::default();
    let mut first = streamed(&world);
    sends(&mut first, &world);
    let mut second = begin(&world, &get(), Mode::Stream, &alarm);
    assert!(matches!(second.step(world.now()), Step::Queued { .. }));
    assert_eq!(alarm.rang(), 0);
    head(&mut first, &world, 200);
    first.body_end(Ok(()), world.now(), 0);
    assert_eq!(alarm.rang(), 1);
    sends(&mut second, &world);
    drop(second);
    world.is_at_rest();
}

#[test]
fn whoever_leaves_the_queue_passes_its_turn_on() {
    let world = narrow();
    let (one, other) = (Alarm::default(), Alarm::default());
    let mut first = streamed(&world);
    sends(&mut first, &world);
    let mut second = begin(&world, &get(), Mode::Stream, &one);
    second.step(world.now());
    let mut third = begin(&world, &get(), Mode::Stream, &other);
    third.step(world.now());
    drop(first);
    assert!(one.rang() > 0 && other.rang() == 0);
    drop(second);
    assert!(other.rang() > 0);
    sends(&mut third, &world);
    drop(third);
    world.is_at_rest();
}

#[test]
fn a_machine_can_be_dropped_at_any_point_and_keeps_nothing() {
    type Drive = fn(&mut CallMachine, &World);
    let points: [(&str, Drive); 6] = [
        ("before its first step", |_, _| ()),
        ("with an attempt under way", |machine, world| drop(sends(machine, world))),
        ("with a body under way", |machine, world| {
            sends(machine, world);
            head(machine, world, 200);
        }),
        ("with a retry ahead", |machine, world| {
            sends(machine, world);
            machine.failed(Failure::Connect(ConnectFailure::Refused), world.now(), 0);
        }),
        ("in a wait", |machine, world| {
            sends(machine, world);
            head(machine, world, 503);
            machine.step(world.now());
        }),
        ("with its end ahead", |machine, world| {
            sends(machine, world);
            head(machine, world, 200);
            machine.body_end(Ok(()), world.now(), 0);
        }),
    ];
    for (name, drive) in points {
        let world = narrow();
        let mut machine = streamed(&world);
        drive(&mut machine, &world);
        drop(machine);
        world.is_at_rest();
        let alone = world.get().expect(name);
        assert_eq!((alone.status, world.explain().circuit_breaker.failure_count, world.elapsed()), (200, 0, 0), "{name}");
    }
    let world = narrow();
    let mut first = streamed(&world);
    sends(&mut first, &world);
    let mut waiting = streamed(&world);
    waiting.step(world.now());
    drop(waiting);
    assert_eq!(world.metrics().queued, 0, "in the queue");
    drop(first);
    world.is_at_rest();
}

#[test]
fn an_attempt_that_its_driver_gives_up_says_nothing_about_anyone() {
    let world = world();
    for _ in 0..20 {
        let mut machine = begin(&world, &post(), Mode::Collect, &Alarm::default());
        sends(&mut machine, &world);
        is_done(&mut machine, &world).expect_err("given up");
    }
    assert_eq!(world.explain().circuit_breaker.failure_count, 0);
    assert!(world.ejected().is_empty());
    world.is_at_rest();
}

#[test]
fn what_is_collected_is_delivered_only_when_it_is_whole() {
    let world = world();
    let mut machine = begin(&world, &get(), Mode::Collect, &Alarm::default());
    sends(&mut machine, &world);
    assert_eq!(head(&mut machine, &world, 200), Verdict::Collect);
    machine.body_end(Err(Failure::Reset), world.now(), 0);
    assert!(matches!(machine.step(world.now()), Step::Wait { .. }));
    world.pass(100);
    assert_eq!(sends(&mut machine, &world).number, 2);
    assert_eq!(head(&mut machine, &world, 500), Verdict::Discard);
}

#[test]
fn reports_that_come_at_the_wrong_time_change_nothing() {
    let world = world();
    let mut machine = streamed(&world);
    machine.failed(Failure::Reset, world.now(), 0);
    assert_eq!(head(&mut machine, &world, 200), Verdict::Discard);
    machine.body_end(Ok(()), world.now(), 0);
    sends(&mut machine, &world);
    machine.body_end(Ok(()), world.now(), 0);
    assert_eq!(head(&mut machine, &world, 200), Verdict::Deliver);
    machine.failed(Failure::Reset, world.now(), 0);
    machine.body_end(Ok(()), world.now(), 0);
    assert_eq!(is_done(&mut machine, &world), Ok(()));
}

#[test]
fn an_unknown_service_has_no_machine() {
    let world = World::new();
    let call = get();
    let refused = world.mesh.start(CallMeta::of(&call, RequestId::from_roll(1, 2)), Alarm::default().wake(), world.now()).err();
    assert_eq!(refused.expect("refused").reason(), Reason::UnknownService);
}

#[test]
fn a_driver_that_steps_on_after_the_end_has_nothing_counted_twice() {
    let world = world();
    let mut machine = streamed(&world);
    sends(&mut machine, &world);
    assert_eq!(head(&mut machine, &world, 200), Verdict::Deliver);
    machine.body_end(Ok(()), world.now(), 0);
    assert_eq!(is_done(&mut machine, &world), Ok(()));
    for _ in 0..3 {
        assert!(is_done(&mut machine, &world).is_err(), "there is no second answer");
    }
    let service = &world.mesh.metrics().services["users"];
    assert_eq!((service.requests, service.successes, service.failures), (1, 1, 0));
}
