//! Two meshes in a row: an instance of one calls through the other, handing on what it was given.

use weft::Call;
use weft::contract::envelope;
use weft::contract::request::Request;
use weft::model::{Reason, RequestId};
use weft::telemetry::events::Kind;

use super::world::{Act, World, answer, get, ms, ok, post};

/// The call that an instance makes in the other mesh while it answers the last request it got.
fn onward(world: &World, method: &str) -> Call {
    let got = world.deliveries().pop().expect("a request");
    let body = format!(r#"{{"serviceName":"users","endpoint":"/deeper","method":"{method}"}}"#);
    let request = Request {
        method: "POST".into(),
        target: "/invoke".to_owned(),
        headers: got.headers,
        body: body.into_bytes(),
        peer: None,
        id: RequestId::from_roll(3, 4),
        waited: std::time::Duration::ZERO,
        grant: None,
    };
    envelope::call(&request).expect("a call")
}

/// An outer mesh whose instance "a" calls through an inner mesh, whose instance "b" acts by the script, before it answers `then`.
fn in_a_row(then: &Act, script: impl IntoIterator<Item = Act>) -> (World, World) {
    let outer = World::new();
    let inner = outer.beside().with("b", script);
    let (seen, through) = (outer.clone(), inner.clone());
    let act = then.clone().meanwhile(move || drop(through.invoke(&onward(&seen, "GET"))));
    (outer.with("a", [act]), inner)
}

#[test]
fn the_inner_mesh_sees_what_is_left() {
    let (outer, _inner) = in_a_row(&ok(), [answer(500).after(40), ok()]);
    outer.invoke(&get().timeout(ms(500))).expect("in time");
    let sent = outer.deliveries();
    let left: Vec<&str> = sent.iter().map(|delivery| delivery.header("x-request-timeout-ms")).collect();
    // 40 ms for the first attempt of the inner mesh, 100 for its wait.
    assert_eq!(left, ["500", "500", "360"]);
    let hops: Vec<&str> = sent.iter().map(|delivery| delivery.header("x-mesh-hops")).collect();
    assert_eq!(hops, ["1", "2", "2"]);
}

#[test]
fn the_inner_mesh_stops_when_the_outer_one_would() {
    let (outer, inner) = in_a_row(&ok(), [answer(500).after(200)]);
    drop(outer.invoke(&get().timeout(ms(450))));
    let times: Vec<u64> = outer.deliveries().iter().map(|delivery| delivery.timeout.as_millis() as u64).collect();
    assert_eq!(times, [450, 450, 150], "the second attempt of the inner mesh gets what its first and its wait leave");
    assert_eq!((outer.sent(), outer.elapsed()), (3, 450));
    inner.is_at_rest();
}

#[test]
fn retries_are_not_multiplied() {
    let (outer, inner) = in_a_row(&answer(503), [answer(500)]);
    let error = outer.get().expect_err("it always fails");
    assert_eq!(error.attempts, 4);
    assert_eq!(outer.sent_to("b"), 4 + 1 + 1 + 1, "what is itself a retry gets one attempt");
    outer.is_at_rest();
    inner.is_at_rest();
}

#[test]
fn a_post_that_may_have_been_processed_behind_the_inner_mesh_is_not_repeated() {
    let failed = |not_sent: bool| {
        let told = answer(503).header("x-mesh-reason", "upstream_reset");
        let world = World::new().with("a", [if not_sent { told.header("x-mesh-not-sent", "true") } else { told }]);
        world.post().expect_err("it fails").attempts
    };
    assert_eq!([failed(false), failed(true)], [1, 4]);
}

#[test]
fn meshes_in_a_circle_come_to_an_end() {
    let world = World::new().with("a", [ok()]);
    let error = world.invoke(&Call { hops: 8, ..post() }).expect_err("eight are enough");
    assert_eq!((error.reason(), world.sent()), (Reason::LoopDetected, 0));
    world.invoke(&Call { hops: 7, ..post() }).expect("seven are not");
}

#[test]
fn every_change_of_an_instance_is_an_event() {
    let world = World::new().with("a", [ok()]);
    world.register("a", |_| ());
    world.register("a", |registration| registration.zone = Some("east".to_owned()));
    world.register("a", |registration| registration.healthy = Some(false));
    world.register("a", |registration| registration.healthy = Some(true));
    world.register("a", |registration| registration.port = std::num::NonZeroU16::new(4002).expect("a port"));
    world.weight("a", 3);
    world.state("a", weft::model::AdminState::Drain);
    let said: Vec<(Kind, String)> = world.mesh.events(0).events.into_iter().map(|event| (event.kind, event.detail)).collect();
    let expected = [
        (Kind::Registered, "registered at 10.0.0.1:4001"),
        (Kind::Changed, "registered again, with changes"),
        (Kind::Unhealthy, "registered as unhealthy"),
        (Kind::Healthy, "registered as healthy"),
        (Kind::Registered, "registered at 10.0.0.1:4002"),
        (Kind::Weight, "weight is now 3"),
        (Kind::State, "state is now drain"),
    ];
    assert_eq!(said, expected.map(|(kind, detail)| (kind, detail.to_owned())));
}
