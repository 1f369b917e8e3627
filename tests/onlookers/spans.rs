//! What a collector gets, and what becomes of spans when it does not behave.

use serde_json::{Value, json};
use weft::Mesh;
use weft::model::settings::Millis;
use weft::server::Config;
use weft::telemetry::onlookers;

use crate::collector::{Span, spans};
use crate::house::House;
use crate::support::eventually;
use crate::support::upstream::{Act, Asked, Upstream, answer, ok, status};

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// A mesh that exports to `collector`.
fn house(collector: &Upstream, ratio: f64, queue: usize) -> House {
    let endpoint = format!("http://{}", collector.at);
    let otlp = onlookers::Otlp { endpoint, delay_ms: Millis(5), queue, ..onlookers::Otlp::default() };
    let telemetry = onlookers::Config { tracing: true, sample_ratio: ratio, otlp, ..onlookers::Config::default() };
    let defaults = json!({"retry": {"maxRetries": 1, "baseDelayMs": 5}});
    House::of(Mesh::builder().defaults(defaults).telemetry(telemetry), Config::default())
}

fn taken(_: &Asked) -> Act {
    Act::Say(answer(200, &[("content-type", "application/json")], "{}"))
}

/// All spans that have come, once there are so many.
fn received(collector: &Upstream, count: usize) -> Vec<Span> {
    eventually("the spans come", || {
        let all: Vec<Span> = collector.asked().iter().flat_map(spans).collect();
        (all.len() >= count).then_some(all)
    })
}

fn counted(house: &House, what: &str) -> u64 {
    house.metrics()["onlookers"][what].as_u64().unwrap_or_else(|| panic!("no number {what}"))
}

#[test]
fn a_call_is_a_server_span_and_each_attempt_a_client_span_below_it() {
    let collector = Upstream::start(taken);
    let house = house(&collector, 1.0, 100);
    let upstream = Upstream::start(|asked| if asked.nth == 1 { status(503) } else { ok("fine") });
    house.register("s", "a", &upstream);
    house
        .ask("GET", "/proxy/s/path?secret=1", &[("traceparent", PARENT), ("tracestate", "v=1"), ("x-request-id", "r1")], b"")
        .with_status(200);
    let all = received(&collector, 3);
    let [server, first, second] = all.as_slice() else { panic!("three spans: {all:?}") };
    assert_eq!((server.kind, first.kind, second.kind), (2, 3, 3));
    assert_eq!(server.parent.as_deref(), Some("b7ad6b7169203331"));
    assert!(all.iter().all(|span| span.trace == "0af7651916cd43dd8448eb211c80319c" && span.state == "v=1" && span.name == "GET s"));
    let told: Vec<_> = upstream.asked().iter().map(|asked| asked.header("traceparent").expect("told")[36..52].to_owned()).collect();
    assert_eq!(told, [first.id.clone(), second.id.clone()], "instances know the spans they are below");
    for attempt in [first, second] {
        assert_eq!(attempt.parent.as_ref(), Some(&server.id));
        assert!(server.begin <= attempt.begin && attempt.end <= server.end, "{all:?}");
        assert_eq!(attempt.attributes["server.address"]["stringValue"], "127.0.0.1");
        assert_eq!(attempt.attributes["server.port"]["intValue"], upstream.port().to_string());
        assert_eq!(attempt.attributes["weft.instance"]["stringValue"], "a");
    }
    assert_eq!((server.flags, first.flags), (0x301, 0x101));
    assert!(second.begin >= first.end + 5_000_000, "the wait between them is there to be seen");
    assert_eq!(server.events.last().map(String::as_str), Some("backoff"));
    assert_eq!((first.is_error, second.is_error, server.is_error), (true, false, false));
    assert_eq!(first.attributes["error.type"]["stringValue"], "503");
    assert!(!first.attributes.contains_key("http.request.resend_count"));
    assert_eq!(second.attributes["http.request.resend_count"]["intValue"], "1");
    assert_eq!(server.attributes["http.response.status_code"]["intValue"], "200");
    assert_eq!(
        (&server.attributes["url.path"]["stringValue"], &server.attributes["weft.request_id"]["stringValue"]),
        (&json!("/path"), &json!("r1"))
    );
    assert!(first.events.contains(&"connected".to_owned()) && second.events == ["first byte"], "{all:?}");
    eventually("they are counted", || (counted(&house, "spansExported") == 3).then_some(()));
}

#[test]
fn failed_calls_are_exported_even_when_nothing_is_sampled() {
    let collector = Upstream::start(taken);
    let house = house(&collector, 0.0, 100);
    let upstream = Upstream::start(|_| ok("fine"));
    house.register("s", "a", &upstream);
    house.call("s", "/").with_status(200);
    house.call("nobody", "/").with_status(503);
    let all = received(&collector, 1);
    assert_eq!(all.iter().map(|span| span.name.as_str()).collect::<Vec<_>>(), ["GET nobody"]);
    assert!(all[0].is_error && all[0].parent.is_none());
    assert_eq!(all[0].attributes["error.type"]["stringValue"], "unknown_service");
}

#[test]
fn what_can_be_tried_again_is_and_what_cannot_is_dropped_and_counted() {
    let collector = Upstream::start(|asked| match asked.nth {
        1 => Act::Say(answer(503, &[], "")),
        2 => Act::Say(answer(429, &[("retry-after", "0")], "")),
        3 => Act::Say(answer(200, &[], r#"{"partialSuccess":{"rejectedSpans":"1","errorMessage":"no"}}"#)),
        _ => Act::Say(answer(400, &[], "bad")),
    });
    let house = house(&collector, 1.0, 100);
    house.call("nobody", "/1").with_status(503);
    eventually("a span was tried thrice", || (collector.asked().len() == 3).then_some(()));
    eventually("the one that was not wanted is counted", || (counted(&house, "spansDropped") == 1).then_some(()));
    assert_eq!((counted(&house, "spansExported"), counted(&house, "exportFailures"), counted(&house, "spansRejected")), (0, 2, 1));
    let bodies: Vec<_> = collector.asked().iter().map(|asked| asked.body.clone()).collect();
    assert!(bodies.iter().all(|body| *body == bodies[0]), "the same is sent again");
    house.call("nobody", "/2").with_status(503);
    eventually("a refused one is counted", || (counted(&house, "spansDropped") == 2).then_some(()));
    assert_eq!(collector.asked().len(), 4, "and not sent again, as neither was what was taken in part");
}

#[test]
fn no_collector_refuses_more_spans_than_it_was_sent() {
    let collector = Upstream::start(|asked| {
        let refused = if asked.nth == 1 { "\"18446744073709551615\"" } else { "-1" };
        Act::Say(answer(200, &[], format!(r#"{{"partialSuccess":{{"rejectedSpans":{refused}}}}}"#)))
    });
    let house = house(&collector, 1.0, 100);
    for path in ["/1", "/2"] {
        house.call("nobody", path).with_status(503);
        eventually("they have come", || (counted(&house, "spansExported") + counted(&house, "spansDropped") > 0).then_some(()));
    }
    eventually("both have come", || (collector.requests() == 2).then_some(()));
    eventually("the second is counted", || (counted(&house, "spansExported") == 1).then_some(()));
    assert_eq!((counted(&house, "spansDropped"), counted(&house, "spansRejected")), (1, 1));
}

#[test]
fn a_collector_that_hangs_costs_spans_and_no_call() {
    let collector = Upstream::start(|_| Act::Held(answer(200, &[], "{}")));
    let house = house(&collector, 1.0, 4);
    let upstream = Upstream::start(|_| ok("fine"));
    house.register("s", "a", &upstream);
    house.call("s", "/").with_status(200);
    eventually("the collector holds a batch", || (!collector.asked().is_empty()).then_some(()));
    for _ in 0..10 {
        house.call("s", "/").with_status(200);
    }
    let dropped = counted(&house, "spansDropped");
    assert!(dropped >= 2 * 5 && dropped.is_multiple_of(2), "four calls of two spans may wait: {dropped}");
    collector.release();
    let exported = eventually("the rest is delivered", || Some(counted(&house, "spansExported")).filter(|spans| spans + dropped == 22));
    assert!(exported >= 2);
}

#[test]
fn what_waits_is_delivered_when_the_mesh_is_shut_down() {
    let collector = Upstream::start(taken);
    let endpoint = format!("http://{}/v1/traces", collector.at);
    let otlp = onlookers::Otlp { endpoint, delay_ms: Millis(60_000), ..onlookers::Otlp::default() };
    let telemetry = onlookers::Config { tracing: true, otlp, ..onlookers::Config::default() };
    let mesh = Mesh::builder().telemetry(telemetry).build().expect("a mesh");
    let error = mesh.invoke(&weft::Call::get("nobody", "/").expect("valid")).expect_err("nobody");
    assert_eq!(error.reason().word(), "unknown_service");
    mesh.shutdown(std::time::Duration::from_secs(30));
    assert_eq!(collector.asked().iter().flat_map(spans).count(), 1);
}

#[test]
fn an_address_that_is_none_is_refused_with_its_name() {
    for endpoint in [
        "localhost:4318",
        "ftp://x",
        "https://x",
        "http://",
        "http://user@host/",
        "http://a b/",
        "http://127.0.0.1:0/",
        "http://127.0.0.1:99999",
        "http://127.1/",
    ] {
        let telemetry = json!({"telemetry": {"otlp": {"endpoint": endpoint}}});
        let fault = weft::Config::from_json(&telemetry).expect_err(endpoint);
        assert_eq!(fault.field, "telemetry.otlp.endpoint", "{endpoint}");
    }
    let fine: Value = json!({"telemetry": {"tracing": true, "sampleRatio": 0.01, "otlp": {"endpoint": "http://127.0.0.1:4318"}}});
    assert_eq!(weft::Config::from_json(&fine).expect("fine").telemetry.otlp.url(), "http://127.0.0.1:4318/v1/traces");
}
