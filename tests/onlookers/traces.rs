//! What instances are told of the trace a call belongs to.

use serde_json::{Value, json};
use weft::Mesh;
use weft::server::{Config, InvokeOn};
use weft::telemetry::onlookers;

use crate::house::House;
use crate::support::upstream::{Asked, Upstream, ok, status};

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn house(tracing: bool, invoke_on: InvokeOn) -> House {
    let telemetry = onlookers::Config { tracing, ..onlookers::Config::default() };
    let defaults = json!({"retry": {"maxRetries": 1, "baseDelayMs": 1}});
    House::of(Mesh::builder().defaults(defaults).telemetry(telemetry), Config { invoke_on, ..Config::default() })
}

/// Fields that say something of a trace, sorted.
fn said(asked: &Asked) -> Vec<(String, String)> {
    let of_trace = |name: &str| name.starts_with("trace") || name.starts_with("b3") || name.starts_with("x-b3");
    let lower = asked.headers.iter().map(|(name, value)| (name.to_lowercase(), value.clone()));
    let mut all: Vec<_> = lower.filter(|(name, _)| of_trace(name)).collect();
    all.sort();
    all
}

/// Calls `/proxy` and `/invoke` with these fields and answers what instances were told, attempt by attempt.
fn told(tracing: bool, on: InvokeOn, fields: &[(&str, &str)]) -> (Vec<Vec<(String, String)>>, Vec<Value>) {
    let house = house(tracing, on);
    let upstream = Upstream::start(|asked| if asked.nth % 2 == 1 { status(503) } else { ok("fine") });
    house.register("s", "a", &upstream);
    house.ask("GET", "/proxy/s/x", fields, b"").with_status(200);
    let call = json!({"serviceName": "s", "endpoint": "/y"}).to_string();
    house.ask("POST", "/invoke", fields, call.as_bytes()).with_status(200);
    let traces = house.get("/traces").json()["traces"].as_array().expect("traces").clone();
    (upstream.asked().iter().map(said).collect(), traces)
}

#[test]
fn without_tracing_what_callers_say_of_a_trace_is_untouched_and_nothing_is_invented() {
    for on in [InvokeOn::Edge, InvokeOn::Workers] {
        let fields = [("traceparent", PARENT), ("tracestate", "a=1,b=2"), ("b3", "0"), ("x-b3-flags", "1"), ("x-b3-traceid", "strange")];
        let mut expected: Vec<_> = fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        expected.sort();
        let (told, traces) = told(false, on, &fields);
        assert_eq!(told, vec![expected; 4]);
        assert!(traces.is_empty());
        assert_eq!(self::told(false, on, &[]).0, vec![vec![]; 4]);
    }
}

#[test]
fn each_attempt_has_a_span_of_its_own_in_the_trace_of_its_caller() {
    for on in [InvokeOn::Edge, InvokeOn::Workers] {
        let (told, traces) = told(true, on, &[("traceparent", PARENT), ("tracestate", "a=1,b=2")]);
        let mut spans: Vec<String> = Vec::new();
        for fields in &told {
            let [(_, parent), (_, state)] = fields.as_slice() else { panic!("two fields: {fields:?}") };
            assert_eq!(state, "a=1,b=2");
            assert!(parent.starts_with("00-0af7651916cd43dd8448eb211c80319c-") && parent.ends_with("-01"), "{parent}");
            spans.push(parent[36..52].to_owned());
        }
        let mut shown = Vec::new();
        for trace in traces.iter().rev() {
            assert_eq!((&trace["traceId"], &trace["sampled"]), (&json!("0af7651916cd43dd8448eb211c80319c"), &json!(true)));
            assert!(trace["spanId"].as_str().is_some_and(|span| span.len() == 16 && span != "b7ad6b7169203331"), "{trace}");
            shown.extend(
                trace["attempts"].as_array().expect("attempts").iter().map(|attempt| attempt["spanId"].as_str().unwrap().to_owned()),
            );
        }
        assert_eq!(shown, spans, "what is shown is what instances were told");
        spans.sort();
        spans.dedup();
        assert_eq!(spans.len(), 4, "each has its own");
    }
}

#[test]
fn b3_comes_out_as_b3_and_no_context_as_a_new_one() {
    let (trace, span) = ("80f198ee56343ba864fe8b2a57d3eff7", "e457b5a2e4d86bd1");
    for on in [InvokeOn::Edge, InvokeOn::Workers] {
        for fields in told(true, on, &[("b3", &format!("{trace}-{span}-1"))]).0 {
            let [(name, value)] = fields.as_slice() else { panic!("one field: {fields:?}") };
            assert!(name == "b3" && value.starts_with(trace) && !value.contains(span) && value.len() == 68, "{value}");
        }
        let multi = [("X-B3-TraceId", trace), ("X-B3-SpanId", span), ("X-B3-Sampled", "1"), ("X-B3-ParentSpanId", "05e3ac9a4f6e3b90")];
        for fields in told(true, on, &multi).0 {
            let names: Vec<&str> = fields.iter().map(|(name, _)| name.as_str()).collect();
            assert_eq!(names, ["x-b3-parentspanid", "x-b3-sampled", "x-b3-spanid", "x-b3-traceid"]);
            assert!(fields[3].1 == trace && fields[2].1 != span && fields[0].1 != "05e3ac9a4f6e3b90", "{fields:?}");
        }
        let mut traces: Vec<String> = Vec::new();
        for fields in told(true, on, &[("traceparent", "00-broken"), ("tracestate", "a=1")]).0 {
            let [(name, value)] = fields.as_slice() else { panic!("a new trace has no state: {fields:?}") };
            assert!(name == "traceparent" && value.len() == 55, "{value}");
            traces.push(value[3..35].to_owned());
        }
        traces.dedup();
        assert_eq!(traces.len(), 2, "a trace for each call, not for each attempt");
    }
}

#[test]
fn what_the_caller_does_not_want_looked_at_is_kept_only_when_it_fails() {
    let house = house(true, InvokeOn::Edge);
    let good = Upstream::start(|_| ok("fine"));
    house.register("good", "a", &good);
    let unwanted = PARENT.replace("-01", "-00");
    house.ask("GET", "/proxy/good/", &[("traceparent", &unwanted)], b"").with_status(200);
    assert!(good.asked()[0].header("traceparent").is_some_and(|told| told.ends_with("-00")));
    house.ask("GET", "/proxy/nobody/", &[("traceparent", &unwanted)], b"").with_status(503);
    let page = house.get("/traces").json();
    assert_eq!((&page["kept"], &page["traces"][0]["service"], &page["traces"][0]["sampled"]), (&json!(1), &json!("nobody"), &json!(false)));
    assert_eq!(page["traces"][0]["traceId"], "0af7651916cd43dd8448eb211c80319c");
}
