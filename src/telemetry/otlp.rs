//! Calls as spans: OTLP in its JSON encoding (<https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding>): ids in hexadecimal digits,
//! enumerations as numbers, 64-bit numbers as text, names in lower camel case. Pure.
//!
//! A call is one SERVER span, each attempt a CLIENT span below it; waits are events of the call. Names of attributes are those of
//! OpenTelemetry's conventions for HTTP; what they have no name for begins with `weft.`.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::trace::{AttemptTrace, Trace, ms};

const SERVER: u8 = 2;
const CLIENT: u8 = 3;
const ERROR: u8 = 2;
/// The flags of a span, above those of its trace: it is known whether its parent is elsewhere, and it is.
const PARENT_IS_KNOWN: u32 = 0x100;
const PARENT_IS_REMOTE: u32 = 0x200;

/// A message of the protocol. Its parts borrow from the calls, and are written without being put together first: there are thousands a second.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Export<'t> {
    resource_spans: [ResourceSpans<'t>; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ResourceSpans<'t> {
    resource: Resource<'t>,
    scope_spans: [ScopeSpans<'t>; 1],
}

#[derive(Serialize)]
struct Resource<'t> {
    attributes: [Attribute<'t>; 5],
}

#[derive(Serialize)]
struct ScopeSpans<'t> {
    scope: Scope,
    spans: Vec<Span<'t>>,
}

#[derive(Serialize)]
struct Scope {
    name: &'static str,
    version: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Span<'t> {
    trace_id: Shown<TraceId>,
    span_id: Shown<SpanId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_span_id: Option<Shown<SpanId>>,
    trace_state: &'t str,
    flags: u32,
    name: Shown<Name<'t>>,
    kind: u8,
    start_time_unix_nano: Shown<Nanos>,
    end_time_unix_nano: Shown<Nanos>,
    attributes: Vec<Attribute<'t>>,
    events: Vec<Event>,
    status: Status,
}

#[derive(Serialize)]
struct Attribute<'t> {
    key: &'static str,
    value: Any<'t>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(clippy::enum_variant_names)] // The names are the protocol's.
enum Any<'t> {
    StringValue(Cow<'t, str>),
    IntValue(Shown<i64>),
    DoubleValue(f64),
    BoolValue(bool),
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    time_unix_nano: Shown<Nanos>,
    name: &'static str,
    attributes: Vec<Attribute<'static>>,
}

#[derive(Default, Serialize)]
struct Status {
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'static str>,
}

/// What is written as text.
struct Shown<T>(T);

impl<T: fmt::Display> Serialize for Shown<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

#[derive(Clone, Copy)]
struct TraceId(u128);

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

#[derive(Clone, Copy)]
struct SpanId(u64);

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Time since the Unix epoch.
struct Nanos(Duration);

impl fmt::Display for Nanos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_nanos().fmt(f)
    }
}

/// The name of a span: of few different values, whatever strangers send.
struct Name<'t>(&'t Trace);

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", known_method(&self.0.method).unwrap_or("HTTP"), self.0.service)
    }
}

/// The body of a request with the spans of these calls, and how many spans they are.
pub fn request(service_name: &str, traces: &[Arc<Trace>]) -> (Vec<u8>, u64) {
    let mut spans = Vec::with_capacity(traces.len() * 2);
    traces.iter().for_each(|trace| add_spans(&mut spans, trace));
    let count = spans.len() as u64;
    let version = env!("CARGO_PKG_VERSION");
    let attributes = [
        text("service.name", service_name),
        text("service.version", version),
        text("telemetry.sdk.name", "weft"),
        text("telemetry.sdk.language", "rust"),
        text("telemetry.sdk.version", version),
    ];
    let scope_spans = [ScopeSpans { scope: Scope { name: "weft", version }, spans }];
    let export = Export { resource_spans: [ResourceSpans { resource: Resource { attributes }, scope_spans }] };
    // Nothing in it can fail to be written.
    (serde_json::to_vec(&export).unwrap_or_default(), count)
}

fn add_spans<'t>(spans: &mut Vec<Span<'t>>, trace: &'t Trace) {
    let Some(context) = trace.context else { return };
    let (trace_id, own) = (TraceId(context.trace_id), SpanId(context.span));
    let flags = u32::from(context.sampled) | PARENT_IS_KNOWN;
    let trace_state = trace.state.as_deref().unwrap_or_default();
    let base = Duration::from_millis(trace.started_ms);
    spans.push(Span {
        trace_id: Shown(trace_id),
        span_id: Shown(own),
        parent_span_id: context.parent.map(|parent| Shown(SpanId(parent))),
        trace_state,
        flags: flags | if context.parent.is_some() { PARENT_IS_REMOTE } else { 0 },
        name: Shown(Name(trace)),
        kind: SERVER,
        start_time_unix_nano: Shown(Nanos(base)),
        end_time_unix_nano: Shown(Nanos(base + trace.took)),
        attributes: of_call(trace),
        events: waits(trace, base),
        status: status(trace.is_failed(), trace.reason),
    });
    spans.extend(trace.attempts.iter().zip(0..).map(|(attempt, number)| {
        let begin = base + attempt.offset;
        let failed = attempt.failure.is_some() || attempt.status.is_some_and(|status| status >= 400);
        Span {
            trace_id: Shown(trace_id),
            span_id: Shown(SpanId(attempt.span)),
            parent_span_id: Some(Shown(own)),
            trace_state,
            flags,
            name: Shown(Name(trace)),
            kind: CLIENT,
            start_time_unix_nano: Shown(Nanos(begin)),
            end_time_unix_nano: Shown(Nanos(begin + attempt.took)),
            attributes: of_attempt(trace, attempt, number),
            events: moments(attempt, begin),
            status: status(failed, attempt.failure.map(|why| why.word())),
        }
    }));
}

fn known_method(method: &str) -> Option<&'static str> {
    ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"].into_iter().find(|known| *known == method)
}

fn status(failed: bool, why: Option<&'static str>) -> Status {
    if failed { Status { code: Some(ERROR), message: why } } else { Status::default() }
}

fn of_call(trace: &Trace) -> Vec<Attribute<'_>> {
    let mut all = vec![
        text("url.scheme", "http"),
        text("url.path", &*trace.path),
        text("weft.service", trace.service.as_str()),
        text("weft.request_id", trace.request_id.as_str()),
        number("weft.attempts", trace.attempts.len() as i64),
        double("weft.queue_ms", ms(trace.queued)),
    ];
    add_method(&mut all, trace);
    all.extend(trace.caller.map(|caller| text("client.address", caller.to_string())));
    all.extend((trace.status > 0).then(|| number("http.response.status_code", trace.status.into())));
    let error = trace.reason.map(Cow::from).or_else(|| trace.is_failed().then(|| trace.status.to_string().into()));
    all.extend(error.map(|error| text("error.type", error)));
    all
}

fn of_attempt<'t>(trace: &'t Trace, attempt: &'t AttemptTrace, before: i64) -> Vec<Attribute<'t>> {
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
    let answered = attempt.status.filter(|status| *status >= 400).map(|status| Cow::from(status.to_string()));
    all.extend(answered.or_else(|| attempt.failure.map(|why| why.word().into())).map(|error| text("error.type", error)));
    all
}

fn add_method<'t>(all: &mut Vec<Attribute<'t>>, trace: &'t Trace) {
    match known_method(&trace.method) {
        Some(method) => all.push(text("http.request.method", method)),
        None => all.extend([text("http.request.method", "_OTHER"), text("http.request.method_original", &*trace.method)]),
    }
}

/// What the call waited for, where it did.
fn waits(trace: &Trace, base: Duration) -> Vec<Event> {
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

fn moments(attempt: &AttemptTrace, begin: Duration) -> Vec<Event> {
    let connected = attempt.connect.map(|after| event("connected", begin + after, Vec::new()));
    let answered = attempt.first_byte.map(|after| event("first byte", begin + after, Vec::new()));
    connected.into_iter().chain(answered).collect()
}

fn event(name: &'static str, at: Duration, attributes: Vec<Attribute<'static>>) -> Event {
    Event { time_unix_nano: Shown(Nanos(at)), name, attributes }
}

fn text<'t>(key: &'static str, value: impl Into<Cow<'t, str>>) -> Attribute<'t> {
    Attribute { key, value: Any::StringValue(value.into()) }
}

fn number<'t>(key: &'static str, value: i64) -> Attribute<'t> {
    Attribute { key, value: Any::IntValue(Shown(value)) }
}

fn double<'t>(key: &'static str, value: f64) -> Attribute<'t> {
    Attribute { key, value: Any::DoubleValue(value) }
}

fn flag<'t>(key: &'static str, value: bool) -> Attribute<'t> {
    Attribute { key, value: Any::BoolValue(value) }
}
