//! Stopping in order: no call is lost, and everybody is told in time.

use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::house::{House, call};
use crate::support::upstream::{Act, End, Upstream, answer, ok, status};
use crate::support::{PATIENCE, eventually};

const NONE: Duration = Duration::ZERO;

#[test]
fn no_call_is_lost_while_clients_keep_calling_through_a_drain() {
    let house = House::new();
    let upstream = Upstream::start(|asked| if asked.target == "/slow" { Act::Held(answer(200, &[], "slow")) } else { ok("quick") });
    house.register("s", "i", &upstream);
    let mut slow = house.client();
    let clients: Vec<_> = (0..6).map(|_| house.client()).collect();
    slow.send(&crate::support::client::request("POST", "/invoke", &[], &call("s", "/slow"))).expect("sent");
    eventually("the slow call is under way", || (upstream.requests() == 1).then_some(()));

    let (answered, drained) = (AtomicUsize::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        let hammers: Vec<_> = clients
            .into_iter()
            .map(|mut client| {
                let answered = &answered;
                scope.spawn(move || {
                    loop {
                        let answer = client.ask("POST", "/invoke", &[], &call("s", "/")).expect("every call is answered");
                        assert_eq!((answer.status, answer.text().as_str()), (200, "quick"));
                        answered.fetch_add(1, Ordering::SeqCst);
                        if answer.header("connection") == Some("close") {
                            return;
                        }
                    }
                })
            })
            .collect();
        eventually("calls are flowing", || (answered.load(Ordering::SeqCst) > 100).then_some(()));
        let drain = scope.spawn(|| {
            let whole = house.server.drain(Duration::from_millis(300), PATIENCE);
            drained.store(true, Ordering::SeqCst);
            whole
        });
        for hammer in hammers {
            hammer.join().expect("no call was lost");
        }
        assert!(!drained.load(Ordering::SeqCst), "the slow call is still running");
        upstream.release();
        let last = slow.receive(false).expect("answered").with_status(200);
        assert_eq!((last.text().as_str(), last.header("connection")), ("slow", Some("close")));
        assert!(drain.join().expect("drained"), "everything was finished");
    });
    assert!(TcpStream::connect(house.door).is_err(), "nobody listens any more");
}

#[test]
fn a_draining_mesh_says_that_it_is_not_ready_and_goes_on_serving_for_a_while() {
    let house = House::new();
    let upstream = Upstream::named("x");
    house.register("s", "i", &upstream);
    let mut client = house.client();
    thread::scope(|scope| {
        let drain = scope.spawn(|| house.server.drain(Duration::from_millis(1_500), PATIENCE));
        eventually("it says so", || (house.get("/ready").status == 503).then_some(()));
        for target in ["/ready", "/v1.0/healthz", "/v1.0/healthz/outbound"] {
            let answer = house.get(target).with_status(503);
            assert_eq!((answer.reason().as_str(), answer.header("x-mesh-not-sent")), ("draining", Some("true")), "{target}");
        }
        let answer = client.ask("POST", "/invoke", &[], &call("s", "/")).expect("answered").with_status(200);
        assert_eq!(answer.header("connection"), None, "not yet");
        house.get("/health").with_status(200);
        assert!(drain.join().expect("drained"));
    });
}

#[test]
fn a_call_that_takes_too_long_is_not_waited_for() {
    let house = House::new();
    let upstream = Upstream::start(|_| Act::SayAnd(Vec::new(), End::Hang));
    house.register("s", "i", &upstream);
    let mut client = house.client();
    client.send(&crate::support::client::request("POST", "/invoke", &[], &call("s", "/"))).expect("sent");
    eventually("the call is under way", || (upstream.requests() == 1).then_some(()));
    let start = Instant::now();
    assert!(!house.server.drain(NONE, Duration::from_millis(100)), "a call was left unfinished");
    assert!(start.elapsed() < PATIENCE / 2);
}

#[test]
fn waits_between_attempts_and_long_polls_end_with_the_mesh() {
    let house = House::with(json!({"retry": {"baseDelayMs": 20_000, "maxDelayMs": 20_000}}));
    let upstream = Upstream::start(|_| status(500));
    house.register("s", "i", &upstream);
    let (mut caller, mut poller) = (house.client(), house.client());
    let index = house.get("/services/s").header("x-mesh-index").expect("an index").to_owned();
    caller.send(&crate::support::client::request("POST", "/invoke", &[], &call("s", "/"))).expect("sent");
    poller.send(&crate::support::client::request("GET", &format!("/services/s?index={index}&wait=60s"), &[], b"")).expect("sent");
    eventually("the call waits for its second attempt", || (upstream.requests() == 1).then_some(()));
    let start = Instant::now();
    assert!(house.server.drain(NONE, PATIENCE));
    assert!(start.elapsed() < PATIENCE / 2);
    let answer = caller.receive(false).expect("answered").with_status(503);
    assert_eq!((answer.reason().as_str(), upstream.requests()), ("upstream_status", 4), "without the waits, but with the attempts");
    let poll = poller.receive(false).expect("answered").with_status(200);
    assert_eq!(poll.header("connection"), Some("close"));
}

#[test]
fn after_the_end_a_call_is_refused_as_draining() {
    let house = House::new();
    let upstream = Upstream::named("x");
    house.register("s", "i", &upstream);
    let mut client = house.client();
    assert!(house.server.drain(NONE, PATIENCE));
    let answer = client.ask("POST", "/invoke", &[], &call("s", "/")).expect("answered").with_status(503);
    assert_eq!((answer.reason().as_str(), answer.header("x-mesh-not-sent")), ("draining", Some("true")));
    assert_eq!(answer.header("connection"), Some("close"));
    assert_eq!(upstream.requests(), 0);
}
