//! Calls as spans: OTLP in its JSON encoding (<https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding>): ids in hexadecimal digits,
//! enumerations as numbers, 64-bit numbers as text, names in lower camel case. Pure.
//!
//! A call is one SERVER span, each attempt a CLIENT span below it; waits are events of the call. Names of attributes are those of
//! OpenTelemetry's conventions for HTTP; what they have no name for begins with `weft.`.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::context::hex;
use super::trace::{AttemptTrace, Trace, ms};

const SERVER: u8 = 2;
const CLIENT: u8 = 3;
const ERROR: u8 = 2;
/// The flags of a span, above those of its trace: it is known whether its parent is elsewhere, and it is.
const PARENT_IS_KNOWN: u32 = 0x100;
const PARENT_IS_REMOTE: u32 = 0x200;

/// The body of a request with the spans of these calls, and how many spans they are.
pub fn request(service_name: &str, traces: &[Arc<Trace>]) -> (Value, u64) {
    let spans: Vec<Value> = traces.iter().flat_map(|trace| spans(trace)).collect();
    let count = spans.len() as u64;
    let version = env!("CARGO_PKG_VERSION");
    let body = json!({"resourceSpans": [{
        "resource": {"attributes": [
            text("service.name", service_name),
            text("service.version", version),
            text("telemetry.sdk.name", "weft"),
            text("telemetry.sdk.language", "rust"),
            text("telemetry.sdk.version", version),
        ]},
        "scopeSpans": [{"scope": {"name": "weft", "version": version}, "spans": spans}],
    }]});
    (body, count)
}

fn spans(trace: &Trace) -> Vec<Value> {
    let Some(context) = trace.context else { return Vec::new() };
    let (trace_id, own) = (hex(context.trace_id, 32), hex(context.span.into(), 16));
    let sampled = u32::from(context.sampled);
    let state = trace.state.as_deref().unwrap_or_default();
    let base = Duration::from_millis(trace.started_ms);
    let mut server = json!({
        "traceId": trace_id,
        "spanId": own,
        "traceState": state,
        "flags": sampled | PARENT_IS_KNOWN | if context.parent.is_some() { PARENT_IS_REMOTE } else { 0 },
        "name": name(trace),
        "kind": SERVER,
        "startTimeUnixNano": nanos(base),
        "endTimeUnixNano": nanos(base + trace.took),
        "attributes": of_call(trace),
        "events": waits(trace, base),
        "status": status(trace.is_failed(), trace.reason),
    });
    if let (Some(parent), Some(fields)) = (context.parent, server.as_object_mut()) {
        fields.insert("parentSpanId".to_owned(), hex(parent.into(), 16).into());
    }
    let client = |(attempt, number): (&AttemptTrace, i64)| {
        let begin = base + attempt.offset;
        json!({
            "traceId": trace_id,
            "spanId": hex(attempt.span.into(), 16),
            "parentSpanId": own,
            "traceState": state,
            "flags": sampled | PARENT_IS_KNOWN,
            "name": name(trace),
            "kind": CLIENT,
            "startTimeUnixNano": nanos(begin),
            "endTimeUnixNano": nanos(begin + attempt.took),
            "attributes": of_attempt(trace, attempt, number),
            "events": moments(attempt, begin),
            "status": status(attempt.failure.is_some() || attempt.status.is_some_and(|status| status >= 400), attempt.failure.map(|why| why.word())),
        })
    };
    std::iter::once(server).chain(trace.attempts.iter().zip(0..).map(client)).collect()
}

/// Of few different values, whatever strangers send.
fn name(trace: &Trace) -> String {
    format!("{} {}", known_method(&trace.method).unwrap_or("HTTP"), trace.service)
}

fn known_method(method: &str) -> Option<&'static str> {
    ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"].into_iter().find(|known| *known == method)
}

fn status(failed: bool, why: Option<&'static str>) -> Value {
    match (failed, why) {
        (false, _) => json!({}),
        (true, None) => json!({"code": ERROR}),
        (true, Some(why)) => json!({"code": ERROR, "message": why}),
    }
}

fn of_call(trace: &Trace) -> Vec<Value> {
    let mut all = vec![
        text("url.scheme", "http"),
        text("url.path", &trace.path),
        text("weft.service", trace.service.as_str()),
        text("weft.request_id", trace.request_id.as_str()),
        number("weft.attempts", trace.attempts.len() as i64),
        double("weft.queue_ms", ms(trace.queued)),
    ];
    add_method(&mut all, trace);
    all.extend(trace.caller.map(|caller| text("client.address", &caller.to_string())));
    all.extend((trace.status > 0).then(|| number("http.response.status_code", trace.status.into())));
    let error = trace.reason.map(str::to_owned).or_else(|| trace.is_failed().then(|| trace.status.to_string()));
    all.extend(error.map(|error| text("error.type", &error)));
    all
}

fn of_attempt(trace: &Trace, attempt: &AttemptTrace, before: i64) -> Vec<Value> {
    let mut all = vec![
        text("weft.service", trace.service.as_str()),
        text("weft.instance", attempt.instance.as_str()),
        flag("weft.connection.reused", attempt.reused),
    ];
    add_method(&mut all, trace);
    if let Some((host, port)) = attempt.authority.rsplit_once(':') {
        all.push(text("server.address", host.trim_start_matches('[').trim_end_matches(']')));
        all.extend(port.parse().ok().map(|port| number("server.port", port)));
    }
    all.extend((before > 0).then(|| number("http.request.resend_count", before)));
    all.extend(attempt.status.map(|status| number("http.response.status_code", status.into())));
    let answered = attempt.status.filter(|status| *status >= 400).map(|status| status.to_string());
    all.extend(answered.or_else(|| attempt.failure.map(|why| why.word().to_owned())).map(|error| text("error.type", &error)));
    all
}

fn add_method(all: &mut Vec<Value>, trace: &Trace) {
    match known_method(&trace.method) {
        Some(method) => all.push(text("http.request.method", method)),
        None => all.extend([text("http.request.method", "_OTHER"), text("http.request.method_original", &trace.method)]),
    }
}

/// What the call waited for, where it did.
fn waits(trace: &Trace, base: Duration) -> Vec<Value> {
    let waited = trace.attempts.iter().enumerate().filter(|(_, attempt)| attempt.waited > Duration::ZERO);
    let wait = |(n, attempt): (usize, &AttemptTrace)| {
        let begin = base + attempt.offset.saturating_sub(attempt.waited);
        let name = match n {
            0 if trace.queued > Duration::ZERO => "queue",
            // Such as a fault that a route injects, or the body of the request on its way.
            0 => "delay",
            _ => "backoff",
        };
        event(name, begin, vec![double("weft.wait_ms", ms(attempt.waited))])
    };
    waited.map(wait).collect()
}

fn moments(attempt: &AttemptTrace, begin: Duration) -> Vec<Value> {
    let connected = attempt.connect.map(|after| event("connected", begin + after, Vec::new()));
    let answered = attempt.first_byte.map(|after| event("first byte", begin + after, Vec::new()));
    connected.into_iter().chain(answered).collect()
}

#[allow(clippy::needless_pass_by_value)] // Made for it.
fn event(name: &str, at: Duration, attributes: Vec<Value>) -> Value {
    json!({"timeUnixNano": nanos(at), "name": name, "attributes": attributes})
}

fn nanos(since_epoch: Duration) -> String {
    since_epoch.as_nanos().to_string()
}

fn text(key: &str, value: &str) -> Value {
    json!({"key": key, "value": {"stringValue": value}})
}

fn number(key: &str, value: i64) -> Value {
    json!({"key": key, "value": {"intValue": value.to_string()}})
}

fn double(key: &str, value: f64) -> Value {
    json!({"key": key, "value": {"doubleValue": value}})
}

fn flag(key: &str, value: bool) -> Value {
    json!({"key": key, "value": {"boolValue": value}})
}
